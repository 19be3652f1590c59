"""Two blocks of three layers each, which TensorFlow holds as one, in another order."""


def torch_model():
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lift = nn.Linear(5, 4)
            for name in ("k0", "v0", "q0", "k1", "v1", "q1"):
                setattr(self, name, nn.Linear(4, 4))

        def forward(self, x):
            x = self.lift(x)
            for i in range(2):
                q, k, v = (getattr(self, f"{name}{i}")(x) for name in "qkv")
                x = x + v * torch.sigmoid(q) + k.tanh()
            return x

    return Net()


def tensorflow_model():
    import keras
    from keras import layers, ops

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.lift, self.one, self.two = layers.Dense(4), layers.Dense(12), layers.Dense(12)

        def call(self, x):
            x = self.lift(x)
            for dense in (self.one, self.two):
                q, k, v = ops.split(dense(x), 3, axis=-1)
                x = x + v * ops.sigmoid(q) + ops.tanh(k)
            return x

    return Net()


def batches(rng):
    while True:
        yield {"x": rng.normal(size=(8, 5)), "y": rng.normal(size=(8, 4))}
