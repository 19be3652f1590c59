"""Losses, each once, in arithmetic that all backends obey; means over every element, not sums.

`ops` is the backend's small table of functions (``mean``, ``square``, ``absolute``).
"""

from __future__ import annotations

from typing import Any

Array = Any


def mse(prediction: Array, target: Array, *, ops: Any) -> Array:
    """Mean squared error, ``mean((ŷ − y)²)``, without the factor ½ of some textbooks."""
    return ops.mean(ops.square(prediction - target))


def mae(prediction: Array, target: Array, *, ops: Any) -> Array:
    """Mean absolute error, ``mean(|ŷ − y|)``; where an error is 0, its gradient is 0."""
    return ops.mean(ops.absolute(prediction - target))
