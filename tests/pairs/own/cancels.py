"""Products whose sums are near 0: a relative error of 1e-3 in float32, and right (public case 19)."""


def torch_model():
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(6, 5), nn.Linear(6, 5)

        def forward(self, x):
            left, right = self.left(x), self.right(x)
            left = torch.cat([left, -left], 1).unsqueeze(1)
            right = torch.cat([right, right * (1 + 1e-5)], 1).unsqueeze(2)
            return (left @ right).reshape(-1, 1)

    return Net()


def tensorflow_model():
    import keras
    from keras import layers, ops

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.left, self.right = layers.Dense(5), layers.Dense(5)

        def call(self, x):
            left, right = self.left(x), self.right(x)
            left = ops.expand_dims(ops.concatenate([left, -left], axis=1), 1)
            right = ops.expand_dims(ops.concatenate([right, right * (1 + 1e-5)], axis=1), 2)
            return ops.reshape(left @ right, (-1, 1))

    return Net()


def batches(rng):
    while True:
        yield {"x": rng.normal(size=(8, 6)), "y": rng.normal(size=(8, 1))}
