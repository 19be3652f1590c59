"""Parts that the steps in PyTorch share: missing gradients, compilation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


def bind_loss(model: Any, loss_of: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Return ``(x, y, *masks)`` to the loss in training mode; a model may bring one of its own."""
    if getattr(model, "brings_loss", False):
        return model.measure_loss
    return lambda x, y, *masks: loss_of(model(x, *masks), y)


def fill_gradients(
    gradients: Sequence[torch.Tensor | None], parameters: Sequence[torch.Tensor], lacking: set[int]
) -> list[torch.Tensor]:
    """Return gradients with zeros for parameters that have none, and note which those are."""
    lacking |= {i for i, g in enumerate(gradients) if g is None}
    return [
        torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)
    ]


def compile_step(step: Callable, whole: bool) -> Callable:
    """Compile a whole step, backward pass and update included, into one graph.

    With `whole` false into several: PyTorch's own optimizers break the graph around their step.
    """
    torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())
    torch._dynamo.reset()
    torch._dynamo.config.trace_autograd_ops = whole
    return torch.compile(step, fullgraph=whole)
