"""Models that agree in evaluation mode alone: another momentum, rate of dropout, and gradient."""


def torch_model(epsilon=1e-3):
    from torch import nn

    return nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8, eps=epsilon, momentum=0.5), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(8, 3),
    )  # fmt: skip


def tensorflow_model():
    import keras
    from keras import layers

    return keras.Sequential([
        keras.Input((5,)), layers.Dense(8), layers.BatchNormalization(momentum=0.9),
        layers.ReLU(), layers.Dropout(0.1), layers.Dense(3),
    ])  # fmt: skip


def torch_loss(model, batch):
    raise RuntimeError("no loss of inference")


def tensorflow_loss(model, batch):
    raise RuntimeError("no loss of inference")


def batches(rng):
    while True:
        yield {"x": rng.normal(size=(6, 5)), "y": rng.integers(0, 3, 6)}
