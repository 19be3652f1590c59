"""The polynomial in PyTorch."""

import torch
from torch import nn

from pipeline.pairs.pair import Place


class Polynomial(nn.Module):
    """``c0 + c1·x + … + c_degree·x^degree`` by Horner's rule, with no layer."""

    def __init__(self, *, inputs: tuple[int, ...], outputs: int, degree: int) -> None:
        """Make the coefficients; `inputs` is ``(1,)`` and `outputs` 1, the only ones it takes."""
        super().__init__()
        self.c = nn.Parameter(torch.empty(degree + 1).uniform_(-0.1, 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the predictions of samples of shape ``(n, 1)``, also of shape ``(n, 1)``."""
        *lower, y = torch.unbind(self.c)
        for c_k in reversed(lower):
            y = y * x + c_k
        return y


def name_map(model: Polynomial) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    return {"c": Place("c")}
