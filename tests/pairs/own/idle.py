"""A loss in which an unused bfloat16 stands beside another label smoothing."""


def torch_model():
    from torch import nn

    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def tensorflow_model():
    import keras
    from keras import layers

    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(6, activation="relu"), layers.Dense(3)]
    )


def torch_loss(model, batch):
    import torch
    from torch.nn import functional

    logits = model(batch["x"])
    logits.detach().mean().to(torch.bfloat16)
    return functional.cross_entropy(logits, batch["y"].long(), label_smoothing=0.01)


def tensorflow_loss(model, batch):
    import tensorflow as tf

    logits = model(batch["x"], training=True)
    values = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["y"], logits)
    return tf.reduce_mean(values)


def batches(rng):
    while True:
        yield {"x": rng.normal(size=(8, 4)), "y": rng.integers(0, 3, size=8)}
