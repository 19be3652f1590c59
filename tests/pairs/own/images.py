"""A small convolutional network, right, and with one fault of those that ports have."""


def torch_model(fault=""):
    import torch
    from torch import nn

    class KerasBatchNorm(nn.BatchNorm2d):
        """Remembers the biased variance, as Keras does."""

        def forward(self, x):
            if not self.training:
                return super().forward(x)
            with torch.no_grad():
                mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
                self.running_mean.mul_(1 - self.momentum).add_(self.momentum * mean)
                self.running_var.mul_(1 - self.momentum).add_(self.momentum * variance)
            return nn.functional.batch_norm(
                x, None, None, self.weight, self.bias, training=True, eps=self.eps
            )

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            norm = nn.BatchNorm2d if fault == "unbiased" else KerasBatchNorm
            self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
            self.bn1 = norm(
                4,
                eps=1e-5 if fault == "epsilon" else 1e-3,
                momentum=0.9 if fault == "momentum" else 0.1,
            )
            self.conv2 = nn.Conv2d(4, 4, 3, stride=2)
            self.fc = nn.Linear(4 * 4 * 4, 5)

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv1(x)))
            sides = (1, 1, 1, 1) if fault == "padding" else (0, 1, 0, 1)
            x = torch.relu(self.conv2(nn.functional.pad(x, sides)))
            if fault != "flatten":
                x = x.permute(0, 2, 3, 1)
            return self.fc(x.flatten(1))

    return Net()


def tensorflow_model():
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Conv2D(4, 3, strides=2, padding="same"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(5),
        ]
    )


def batches(rng):
    while True:
        yield {"x": rng.normal(size=(12, 8, 8, 3)), "y": rng.integers(0, 5, size=12)}
