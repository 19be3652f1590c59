"""Layers that hold as one what the other framework holds in parts: attention, a GRU, a convolution."""


def torch_model(fault=None, order="qkv"):
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lift = nn.Linear(5, 8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.gru = nn.GRU(8, 6, batch_first=True)
            self.depthwise = nn.Conv1d(6, 6, 3, groups=6, bias=False)
            self.pointwise = nn.Conv1d(6, 4, 1)
            if fault == "hook":
                self.attention.in_proj_weight.register_hook(lambda gradient: gradient * 0.1)
            for name in order:
                setattr(self, name, nn.Linear(4, 3))

        def forward(self, x):
            x = self.lift(x)
            x = x + self.attention(x, x, x, need_weights=False)[0]
            x, _ = self.gru(x)
            x = self.pointwise(self.depthwise(x.transpose(1, 2))).mean(2)
            keys = self.k(x) if fault != "key" else self.q(x)
            return self.v(x) * torch.sigmoid(self.q(x)) + keys.tanh()

    return Net()


def tensorflow_model():
    import keras
    from keras import layers, ops

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.lift = layers.Dense(8)
            self.attention = layers.MultiHeadAttention(2, 4)
            self.gru = layers.GRU(6, return_sequences=True)
            self.separable = layers.SeparableConv1D(4, 3)
            self.qkv = layers.Dense(9)

        def call(self, x):
            x = self.lift(x)
            x = self.gru(x + self.attention(x, x))
            x = ops.mean(self.separable(x), axis=1)
            q, k, v = ops.split(self.qkv(x), 3, axis=-1)
            return v * ops.sigmoid(q) + ops.tanh(k)

    return Net()


def batches(rng):
    while True:
        yield {"x": rng.normal(size=(4, 7, 5)), "y": rng.normal(size=(4, 3))}
