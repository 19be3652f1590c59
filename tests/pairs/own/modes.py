"""A loop that calls the Keras model in the mode of inference, and one that tells it to train."""


def torch_model(fault=""):
    import torch
    from torch import nn

    class Norm(nn.BatchNorm1d):
        """Remembers the biased variance, as Keras does."""

        def forward(self, x):
            if not self.training:
                return super().forward(x)
            with torch.no_grad():
                mean, variance = x.mean(0), x.var(0, unbiased=False)
                self.running_mean.mul_(1 - self.momentum).add_(self.momentum * mean)
                self.running_var.mul_(1 - self.momentum).add_(self.momentum * variance)
            return nn.functional.batch_norm(
                x, None, None, self.weight, self.bias, training=True, eps=self.eps
            )

    return nn.Sequential(
        nn.Linear(4, 6, bias=False), Norm(6, eps=1e-3, momentum=0.01), nn.ReLU(), nn.Linear(6, 2)
    )


def tensorflow_model(fault=""):
    import keras
    from keras import layers

    net = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(2),
        ]
    )
    net.fault = fault
    return net


def torch_loss(model, batch):
    return ((model(batch["x"]) - batch["y"]) ** 2).mean()


def tensorflow_loss(model, batch):
    import tensorflow as tf

    outputs = model(batch["x"], training=model.fault != "inference")
    return tf.reduce_mean((outputs - batch["y"]) ** 2)


def batches(rng):
    while True:
        yield {"x": rng.normal(size=(8, 4)), "y": rng.normal(size=(8, 2))}
