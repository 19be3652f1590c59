"""Four attention layers of width 64: a fixed tolerance of 1e-5 fails now and then (case 20)."""


def torch_model():
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(
                nn.MultiheadAttention(64, 4, batch_first=True) for _ in range(4)
            )

        def forward(self, x):
            for layer in self.layers:
                x = x + layer(x, x, x, need_weights=False)[0]
            return x.mean(1)

    return Net()


def tensorflow_model():
    import keras
    from keras import layers, ops

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.attention = [layers.MultiHeadAttention(4, 16) for _ in range(4)]

        def call(self, x):
            for layer in self.attention:
                x = x + layer(x, x)
            return ops.mean(x, axis=1)

    return Net()


def batches(rng):
    while True:
        yield {"x": rng.normal(size=(4, 6, 64)), "y": rng.normal(size=(4, 64))}
