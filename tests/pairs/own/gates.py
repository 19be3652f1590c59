"""A GRU against one that is written out, as Keras orders its gates (public case 11)."""


def torch_model():
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(6, 8, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.gru(x)[0][:, -1])

    return Net()


def tensorflow_model(reset="after"):
    import keras
    from keras import layers, ops

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.inputs_of, self.states_of = layers.Dense(24), layers.Dense(24)
            self.head = layers.Dense(3)

        def call(self, x):
            h = ops.zeros((x.shape[0], 8), x.dtype)
            for t in range(x.shape[1]):
                xz, xr, xh = ops.split(self.inputs_of(x[:, t]), 3, axis=1)
                hz, hr, hh = ops.split(self.states_of(h), 3, axis=1)
                z, r = ops.sigmoid(xz + hz), ops.sigmoid(xr + hr)
                if reset == "before":
                    hh = ops.split(self.states_of(r * h), 3, axis=1)[2]
                    r = ops.ones_like(r)
                h = z * h + (1 - z) * ops.tanh(xh + r * hh)
            return self.head(h)

    return Net()


def batches(rng):
    while True:
        yield {"x": rng.normal(size=(5, 4, 6)), "y": rng.normal(size=(5, 3))}
