"""A wrong port: right at first sight, and in evaluation mode. docs/own-pairs.md finds the fault."""


def torch_model():
    from torch import nn

    return nn.Sequential(
        nn.Linear(8, 32),
        nn.LayerNorm(32),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(32, 3),
    )


def tensorflow_model():
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(32),
            layers.LayerNormalization(),
            layers.ReLU(),
            layers.Dropout(0.2),
            layers.Dense(3),
        ]
    )


def batches(rng):
    while True:
        yield {"x": rng.normal(size=(32, 8)), "y": rng.integers(0, 3, size=32)}
