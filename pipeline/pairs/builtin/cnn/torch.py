"""The convolutional network in PyTorch."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from pipeline.pairs.builtin.cnn.spec import flattened
from pipeline.pairs.builtin.mlp.torch import BatchNorm, norm_map
from pipeline.pairs.pair import Place
from pipeline.watching import seen

NHWC = (0, 3, 1, 2)  # where the neutral axes stand in PyTorch's images
POOLS = {"max": nn.functional.max_pool2d, "average": nn.functional.avg_pool2d}


class Cnn(nn.Module):
    """Blocks of ``convolution → batch norm → relu → pool``, then a linear layer."""

    def __init__(
        self,
        *,
        inputs: tuple[int, ...],
        outputs: int,
        channels: Sequence[int],
        kernel: int,
        padding: str,
        pool: str,
        norm_epsilon: float,
        norm_decay: float,
    ) -> None:
        """Make the layers for images of shape `inputs` and `outputs` values.

        Parameters
        ----------
        channels
            Channels after each block.
        kernel, padding
            Side of the kernels; ``same`` or ``valid``.
        pool
            ``max`` or ``average``, of 2 by 2 pixels.
        norm_epsilon, norm_decay
            What a batch norm adds to the variance, and what running statistics keep of themselves.
        """
        super().__init__()
        sizes = [inputs[-1], *channels]
        around = kernel - 1 if padding == "same" else 0
        self.end = around % 2  # an even kernel's extra pixel
        make = partial(nn.Conv2d, kernel_size=kernel, padding=around // 2, bias=False)
        self.convs = nn.ModuleList(
            make(before, after) for before, after in zip(sizes, channels, strict=False)
        )
        self.norms = nn.ModuleList(
            BatchNorm(width, epsilon=norm_epsilon, decay=norm_decay) for width in channels
        )
        self.pool = partial(POOLS[pool], kernel_size=2, stride=2, padding=0, ceil_mode=False)
        flat = flattened(inputs, channels=tuple(channels), kernel=kernel, padding=padding)
        self.out = nn.Linear(flat, outputs, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return outputs of shape ``(n, outputs)`` of images ``(n, height, width, colours)``."""
        x = x.permute(NHWC)
        for k, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True), start=1):
            if self.end:
                x = nn.functional.pad(x, (0, 1, 0, 1))
            x = seen(f"conv{k}", conv(x), NHWC)
            x = seen(f"norm{k}", norm(x), NHWC)
            x = seen(f"pool{k}", self.pool(torch.relu(x)), NHWC)
        x = x.permute(0, 2, 3, 1)
        return self.out(x.flatten(1))


def name_map(model: Cnn) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    placed = {}
    for k, norm in enumerate(model.norms, start=1):
        placed[f"conv{k}.kernel"] = Place(f"convs.{k - 1}.weight", (3, 2, 0, 1))
        placed |= norm_map(norm, f"norm{k}", f"norms.{k - 1}")
    return placed | {"out.w": Place("out.weight", (1, 0)), "out.b": Place("out.bias")}
