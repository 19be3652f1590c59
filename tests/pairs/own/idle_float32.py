"""A loss that is 2e-8 of its size larger on one side, beside a float32 number that moves nothing."""


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
    from torch.nn import functional

    return functional.cross_entropy(model(batch["x"]), batch["y"].long()) * (1 + 2e-8)


def tensorflow_loss(model, batch):
    import tensorflow as tf

    logits = model(batch["x"], training=True)
    values = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["y"], logits)
    idle = tf.cast(tf.cast(tf.reduce_mean(logits), tf.float32), logits.dtype)
    return tf.reduce_mean(values) + 0 * tf.stop_gradient(idle)


def batches(rng):
    while True:
        yield {"x": rng.normal(size=(8, 4)), "y": rng.integers(0, 3, size=8)}
