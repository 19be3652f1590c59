"""A tagger: tokens in, a class for each; its own losses, right and with a fault."""


def torch_model(fault=""):
    from torch import nn

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(11, 6)
            self.norm = nn.LayerNorm(6, eps=1e-5 if fault == "epsilon" else 1e-3)
            self.hidden = nn.Linear(6, 6)
            self.act = nn.GELU(approximate="tanh" if fault == "gelu" else "none")
            self.drop = nn.Dropout(0.4 if fault == "rate" else 0.3)
            self.head = nn.Linear(6, 4)
            self.fault = fault

        def forward(self, x):
            z = self.head(self.drop(self.act(self.hidden(self.norm(self.embed(x))))))
            return z.softmax(-1) if fault == "softmax" else z

    return Tagger()


def tensorflow_model():
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((7,), dtype="int32"),
            layers.Embedding(11, 6),
            layers.LayerNormalization(),
            layers.Dense(6),
            layers.Activation("gelu"),
            layers.Dropout(0.3),
            layers.Dense(4),
        ]
    )


def torch_loss(model, batch):
    from torch.nn import functional

    logits = model(batch["x"])
    values = functional.cross_entropy(
        logits.flatten(0, 1), batch["y"].flatten().long(), reduction="none"
    ).reshape(batch["y"].shape)
    return values.sum(1).mean() if model.fault == "summed" else values.mean()


def tensorflow_loss(model, batch):
    import tensorflow as tf

    values = tf.nn.sparse_softmax_cross_entropy_with_logits(
        batch["y"], model(batch["x"], training=True)
    )
    return tf.reduce_mean(values)


def batches(rng):
    while True:
        x = rng.integers(0, 11, size=(8, 7))
        yield {"x": x, "y": x % 4}
