"""The from-scratch pair in PyTorch."""

import torch
from torch import nn

from pipeline.pairs.pair import Place


class Linear(nn.Module):
    """``x·w + b`` with two scalar parameters.

    Assigning an `nn.Parameter` is all it takes: ``parameters()`` finds it by itself.
    """

    def __init__(self, *, inputs: tuple[int, ...], outputs: int) -> None:
        """Make ``w`` and ``b``; `inputs` is ``(1,)`` and `outputs` 1, the only ones it takes."""
        super().__init__()
        self.w = nn.Parameter(torch.empty(()).uniform_(-0.1, 0.1))
        self.b = nn.Parameter(torch.empty(()).uniform_(-0.1, 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the predictions of samples of shape ``(n, 1)``, also of shape ``(n, 1)``."""
        return x * self.w + self.b


def name_map(model: Linear) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    return {"w": Place("w"), "b": Place("b")}
