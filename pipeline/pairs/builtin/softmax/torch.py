"""Softmax regression in PyTorch."""

import torch
from torch import nn

from pipeline.pairs.pair import Place


class Softmax(nn.Module):
    """The logits ``x·w + b``; both parameters are laid out as the neutral ones."""

    def __init__(self, *, inputs: tuple[int, ...], outputs: int) -> None:
        """Make ``w`` and ``b`` for samples of shape `inputs` and `outputs` logits."""
        super().__init__()
        self.w = nn.Parameter(torch.zeros(inputs[0], outputs))
        self.b = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits of shape ``(n, outputs)`` of samples of shape ``(n, features)``."""
        return x @ self.w + self.b


def name_map(model: Softmax) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    return {"w": Place("w"), "b": Place("b")}
