"""Parameters that a map can easily mistake: square, alike, in another order, without a layer."""


def torch_model(fault=""):
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(6, 6) for _ in range(3))
            self.w, self.v = (nn.Parameter(0.4 * torch.randn(6, 6)) for _ in range(2))
            if fault == "extra":
                self.extra = nn.Parameter(torch.ones(6))
            if fault == "untracked":
                del self.v
                self.v = 0.4 * torch.randn(6, 6)
            if fault == "frozen":
                self.w.requires_grad_(False)

        def forward(self, x):
            weights = (self.query(x) @ self.key(x).transpose(-1, -2) / 6**0.5).softmax(-1)
            mixed = weights @ self.value(x)
            w = self.w.T if fault == "transposed" else self.w
            out = torch.tanh(mixed @ w) @ self.v.T
            return out * self.extra if fault == "extra" else out

    return Net()


def tensorflow_model(unused=False):
    import keras
    import tensorflow as tf

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.second = self.add_weight(shape=(6, 6), initializer="glorot_uniform", name="second")
            self.first = self.add_weight(shape=(6, 6), initializer="glorot_uniform", name="first")
            self.value = keras.layers.Dense(6)
            self.key = keras.layers.Dense(6)
            self.query = keras.layers.Dense(6)

        def call(self, x):
            scores = self.query(x) @ tf.linalg.matrix_transpose(self.key(x)) / 6**0.5
            return tf.tanh(tf.nn.softmax(scores) @ self.value(x) @ self.first) @ self.second

    return Net()


def batches(rng):
    while True:
        yield {"x": rng.normal(size=(4, 5, 6))}
