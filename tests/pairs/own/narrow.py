"""A PyTorch model whose code runs in float32 alone, and a factor that may be a fault."""


def torch_model(fault=0.0):
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 16), nn.Linear(16, 3)
            self.table = torch.zeros(16, 16, dtype=torch.float32)

        def forward(self, x):
            x = torch.tanh(self.a(x)) * (1 + fault)
            return self.b(x + x @ self.table)  # whose types have to be the same

    return Net()


def tensorflow_model():
    import keras
    from keras import layers

    return keras.Sequential(
        [keras.Input((5,)), layers.Dense(16), layers.Activation("tanh"), layers.Dense(3)]
    )


def batches(rng):
    while True:
        yield {"x": rng.normal(size=(8, 5)), "y": rng.normal(size=(8, 3))}
