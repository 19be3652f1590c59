"""What a model shows in NumPy: predictions, layers, and what its operations did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipeline.backends.base import (
    Arrays,
    Observed,
)
from pipeline.pairs.arrange import to_neutral
from pipeline.watching import watched


def predict(model: Any, x: np.ndarray) -> np.ndarray:
    """Return the model's outputs in evaluation mode."""
    dtype = next(iter(model.p.values())).dtype
    outputs: np.ndarray = model.forward(x.astype(dtype, copy=False), training=False)
    return outputs


def layers(model: Any, x: np.ndarray, masks: Sequence[np.ndarray]) -> Arrays:
    """Return what the twin shows of one batch in training mode, and its ``output``."""
    dtype = next(iter(model.p.values())).dtype
    with watched() as watched_values:
        output = model.forward(x.astype(dtype), *(m.astype(dtype) for m in masks), training=True)
    return {
        name: to_neutral(axes, np.asarray(value))
        for name, (value, axes) in (watched_values | {"output": (output, None)}).items()
    }


def scale(x: Any, factors_of: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Return an intermediate result times factors that follow from its values."""
    return x * factors_of(np.asarray(x)).astype(x.dtype)


def observe(call: Callable[[], object]) -> Observed:
    """Return what the operations of a call, run eagerly, were seen to do.

    NumPy's cannot be watched; its twins are written to stay in one precision and draw nothing.
    """
    call()
    return Observed(frozenset(), frozenset())
