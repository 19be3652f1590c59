"""Sums of sines; the targets have no column, which one side's loss forgets."""


def torch_model(fault=""):
    from torch import nn

    net = nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 1))
    net.fault = fault
    return net


def tensorflow_model(fault=""):
    import keras
    from keras import layers

    net = keras.Sequential(
        [keras.Input((10,)), layers.Dense(8, activation="tanh"), layers.Dense(1)]
    )
    net.fault = fault
    return net


def torch_loss(model, batch):
    return ((model(batch["x"]) - batch["y"][:, None]) ** 2).mean()


def tensorflow_loss(model, batch):
    import tensorflow as tf

    y = batch["y"] if model.fault == "column" else batch["y"][:, None]
    return tf.reduce_mean((model(batch["x"], training=True) - y) ** 2)


def batches(rng):
    import numpy as np

    while True:
        x = rng.normal(size=(8, 10))
        yield {"x": x, "y": np.sin(x).sum(1)}
