"""A transposed convolution whose odd row is cut at one end, or at the other."""


def torch_model(fault=""):
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(3, 4, 3, stride=2)
            self.out = nn.Conv2d(4, 2, 1)

        def forward(self, x):
            x = self.up(x)
            return self.out(x[:, :, 1:, 1:] if fault == "crop" else x[:, :, :-1, :-1])

    return Net()


def tensorflow_model():
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            layers.Conv2DTranspose(4, 3, strides=2, padding="same"),
            layers.Conv2D(2, 1),
        ]
    )


def batches(rng):
    while True:
        yield {"x": rng.normal(size=(4, 4, 4, 3))}
