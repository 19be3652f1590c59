"""Keras's ResNet50, narrowed, and one in PyTorch as its paper and Keras's settings have it."""


def torch_model(stride_in=1, epsilon=1.001e-5, pad=(3, 3)):
    import torch
    from torch import nn
    from torch.nn import functional

    class BatchNorm(nn.BatchNorm2d):
        """It remembers the variance of a batch as Keras does, divided by n."""

        def forward(self, x):
            if not self.training:
                return super().forward(x)
            with torch.no_grad():
                mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance, self.momentum)
            return functional.batch_norm(
                x, None, None, self.weight, self.bias, training=True, eps=self.eps
            )

    def norm(channels):
        return BatchNorm(channels, eps=epsilon, momentum=0.01)

    class Bottleneck(nn.Module):
        def __init__(self, before, width, stride, shortcut):
            super().__init__()
            strides = [stride if number == stride_in else 1 for number in (1, 2)]
            self.conv1 = nn.Conv2d(before, width, 1, strides[0])
            self.norm1 = norm(width)
            self.conv2 = nn.Conv2d(width, width, 3, strides[1], padding=1)
            self.norm2 = norm(width)
            self.conv3 = nn.Conv2d(width, 4 * width, 1)
            self.norm3 = norm(4 * width)
            self.shortcut = nn.Sequential()
            if shortcut:
                conv = nn.Conv2d(before, 4 * width, 1, stride)
                self.shortcut = nn.Sequential(conv, norm(4 * width))

        def forward(self, x):
            y = self.norm1(self.conv1(x)).relu()
            y = self.norm2(self.conv2(y)).relu()
            return (self.norm3(self.conv3(y)) + self.shortcut(x)).relu()

    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 64, 7, 2)
            self.norm = norm(64)
            self.blocks = nn.Sequential(
                Bottleneck(64, 4, 1, shortcut=True),
                Bottleneck(16, 8, 2, shortcut=True),
                Bottleneck(32, 8, 1, shortcut=False),
            )
            self.head = nn.Linear(32, 5)

        def forward(self, x):
            x = functional.pad(x, (*pad, *pad))
            x = functional.pad(self.norm(self.stem(x)).relu(), (1, 1, 1, 1))
            x = functional.max_pool2d(x, 3, 2)
            return self.head(self.blocks(x).mean((2, 3)))

    return ResNet()


def tensorflow_model():
    from keras.src.applications import resnet

    def stacks(x):
        x = resnet.stack_residual_blocks_v1(x, 4, 1, stride1=1, name="conv2")
        return resnet.stack_residual_blocks_v1(x, 8, 2, name="conv3")

    return resnet.ResNet(
        stacks, preact=False, use_bias=True, weights=None, input_shape=(32, 32, 3), classes=5,
        classifier_activation=None,
    )  # fmt: skip


def batches(rng):
    while True:
        yield {"x": rng.normal(size=(4, 32, 32, 3)), "y": rng.integers(0, 5, 4)}
