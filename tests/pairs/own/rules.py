"""A small network with the frameworks' own optimizers, right, and with faults of the update."""


def torch_model(rule="sgd"):
    from torch import nn

    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    net.rule = rule
    return net


def tensorflow_model(rule="sgd"):
    import keras
    from keras import layers

    net = keras.Sequential([keras.Input((4,)), layers.Dense(6, activation="tanh"), layers.Dense(2)])
    net.rule = rule
    return net


def torch_optimizer(model):
    import torch

    if model.rule == "adam":
        return torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)
    decay = 1e-2 if model.rule == "decay" else 0.0
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=decay)


def tensorflow_optimizer(model):
    import keras

    if model.rule == "adam":
        return keras.optimizers.Adam(1e-3, epsilon=1e-5)
    rate = 0.05
    if model.rule == "schedule":
        rate = keras.optimizers.schedules.ExponentialDecay(0.05, 1, 0.9, staircase=True)
    return keras.optimizers.SGD(rate, momentum=0.9)


def batches(rng):
    while True:
        yield {"x": rng.normal(size=(8, 4)), "y": rng.normal(size=(8, 2))}
