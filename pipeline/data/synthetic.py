"""Data made from a formula and a seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.config import ConfigError, Count, Finite, NonNegative


def linear(
    stream: Callable[[str], np.random.Generator],
    *,
    n: Count,
    n_test: Count,
    m: Finite,
    b: Finite,
    noise: NonNegative,
    low: Finite,
    high: Finite,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Points about a line: ``y = m·x + b + ε``, ``x ~ U(low, high)``, ``ε ~ N(0, noise)``.

    The training set is all `n` points, as in the article; the test set is `n_test` fresh points of
    the same process, from a stream of its own, so that changing one count leaves the other set.

    Returns
    -------
    arrays, facts
        ``x_*`` and ``y_*`` of shape ``(·, 1)`` in float64; the true ``w`` and ``b`` and the noise.
    """
    if not low < high:
        raise ConfigError("data.low", low, f"must be below data.high={high}")
    arrays = {}
    for split, count in (("train", n), ("test", n_test)):
        rng = stream(f"data.{split}")
        x = rng.uniform(low, high, size=(count, 1))
        arrays[f"x_{split}"] = x
        arrays[f"y_{split}"] = m * x + b + rng.normal(0.0, noise, size=(count, 1))
    return arrays, {"truth": {"w": m, "b": b}, "noise": noise}
