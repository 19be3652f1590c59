"""Corners in which a reviewer fooled the verdict: a right pair, and faults, by the word `kind`."""


def torch_model(kind=""):
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.drop = nn.Linear(4, 4), nn.Linear(4, 4), nn.Dropout(0.4)
            self.out = nn.Linear(4, 2)
            mean = torch.tensor([0.4, 0.3, 0.2, 0.1])
            self.register_buffer("mean", mean.to(self.out.weight.dtype))
            self.kind = kind

        def forward(self, x):
            x = x - self.mean
            both = torch.tanh(self.drop(self.left(x))) + torch.tanh(self.right(x))
            return {"logits": self.out(both), "mask": x.masked_fill(x > 0, -1e9)}

    return Net()


def tensorflow_model(kind=""):
    import keras
    import tensorflow as tf

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            values = [0.0] * 4 if kind == "constant" else [0.4, 0.3, 0.2, 0.1]
            self.mean = self.add_weight(
                shape=(4,), trainable=False, name="mean",
                initializer=lambda shape, dtype: tf.constant(values, dtype),
            )  # fmt: skip
            regularizer = keras.regularizers.L2(0.1) if kind == "regularizer" else None
            self.two = keras.layers.Dense(4, kernel_regularizer=regularizer)
            self.one, self.last = keras.layers.Dense(4), keras.layers.Dense(2)
            self.drop = keras.layers.Dropout(0.4)

        def call(self, x, training=False):
            x = x - self.mean
            dropped = tf.tanh(self.drop(self.two(x), training=training))
            out = self.last(tf.tanh(self.one(x)) + dropped)
            return {"logits": out, "mask": tf.where(x > 0, tf.constant(-1e9, x.dtype), x)}

    return Net()


def batches(rng):
    while True:
        yield {"x": rng.normal(size=(8, 4))}
