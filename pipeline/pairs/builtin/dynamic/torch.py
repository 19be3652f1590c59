"""The model with a data-dependent depth in PyTorch."""

import torch
from torch import nn

from pipeline.pairs.pair import Place
from pipeline.watching import seen


class Dynamic(nn.Module):
    """A layer, one shared layer again and again until each sample settles, and a linear layer.

    A sample that has settled stays as it is, so its output does not depend on the others beside it.
    """

    def __init__(
        self, *, inputs: tuple[int, ...], outputs: int, width: int, most: int, tolerance: float
    ) -> None:
        """Make the layers for samples of shape `inputs` and `outputs` values.

        Parameters
        ----------
        width
            Units of the shared layer.
        most
            The most times that it is applied.
        tolerance
            The relative change of a sample's state below which it has settled.
        """
        super().__init__()
        self.most, self.tolerance = most, tolerance
        self.first = nn.Linear(inputs[0], width, bias=True)
        self.again = nn.Linear(width, width, bias=True)
        self.out = nn.Linear(width, outputs, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return outputs of shape ``(n, outputs)`` of samples of shape ``(n, features)``."""
        h, _ = self.settle(x)
        return self.out(seen("settled", h))

    def settle(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each sample's last state, and how often the shared layer was applied to it."""
        h = torch.tanh(self.first(x))
        moving = torch.full((len(x), 1), True, device=x.device)
        applied = torch.zeros((len(x), 1), dtype=torch.int64, device=x.device)
        rounds = 0
        while rounds < self.most and moving.any():
            rounds += 1
            h = seen(f"state{rounds}", h)
            new = torch.tanh(self.again(h))
            change = torch.sum(torch.square(new - h), dim=-1, keepdim=True)
            length = torch.sum(torch.square(new), dim=-1, keepdim=True)
            h = torch.where(moving, new, h)
            applied = applied + moving.to(applied.dtype)
            moving = moving & (change > self.tolerance**2 * length)
        return h, applied


def name_map(model: Dynamic) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    return {
        "first.w": Place("first.weight", (1, 0)),
        "first.b": Place("first.bias"),
        "again.w": Place("again.weight", (1, 0)),
        "again.b": Place("again.bias"),
        "out.w": Place("out.weight", (1, 0)),
        "out.b": Place("out.bias"),
    }
