"""The layer pair in PyTorch."""

import torch
from torch import nn

from pipeline.pairs.pair import Place


class Dense(nn.Module):
    """One `nn.Linear`; its weight is ``(outputs, inputs)``, the transpose of the neutral one."""

    def __init__(self, *, inputs: tuple[int, ...], outputs: int) -> None:
        """Make the layer for samples of shape `inputs` and targets of `outputs` values."""
        super().__init__()
        self.layer = nn.Linear(inputs[0], outputs, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return predictions of shape ``(n, outputs)`` of samples of shape ``(n, features)``."""
        return self.layer(x)


def name_map(model: Dense) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    return {"w": Place("layer.weight", (1, 0)), "b": Place("layer.bias")}
