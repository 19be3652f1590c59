"""Data made from a formula and a seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
from pydantic import Field

from pipeline.config.types import ConfigError, Count, Finite, Natural, NonNegative, Positive
from pipeline.data.prepare import Made, Stream

Condition = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Coefficients = Annotated[list[Finite], Field(min_length=1)]
Pair = Annotated[int, Field(ge=2)]


def linear(
    stream: Stream,
    *,
    n: Count,
    n_test: Count,
    m: Finite,
    b: Finite,
    noise: NonNegative,
    low: Finite,
    high: Finite,
) -> Made:
    """Points about a line: ``y = m·x + b + ε``, ``x ~ U(low, high)``, ``ε ~ N(0, noise)``.

    The training set is all `n` points, as in the article; the test set is `n_test` fresh points of
    the same process, from a stream of its own, so that changing one count leaves the other set.

    Returns
    -------
    arrays, facts
        ``x_*`` and ``y_*`` of shape ``(·, 1)`` in float64; the true ``w`` and ``b`` and the noise.
    """
    _check_range(low, high)
    arrays = {}
    for split, count in (("train", n), ("test", n_test)):
        rng = stream(f"data.{split}")
        x = rng.uniform(low, high, size=(count, 1))
        arrays[f"x_{split}"] = x
        arrays[f"y_{split}"] = m * x + b + rng.normal(0.0, noise, size=(count, 1))
    return arrays, {"truth": {"w": m, "b": b}, "noise": noise}


def multilinear(
    stream: Stream,
    *,
    n: Count,
    n_val: Natural,
    n_test: Count,
    d: Count,
    condition: Condition,
    bias: Finite,
    noise: NonNegative,
) -> Made:
    """A plane in `d` features: ``y = x·w + bias + ε``, ``x ~ N(0, Σ)``, Σ of a chosen condition.

    Σ has the eigenvalues 1 … 1/condition in equal ratios, in directions turned away from the axes
    by one random reflection. It is the covariance of the process; a sample's own differs by chance.
    The steepest descent that converges at all needs about `condition` steps.

    Returns
    -------
    arrays, facts
        ``x_*`` of shape ``(·, d)``, ``y_*`` of shape ``(·, 1)``; the true ``w`` and ``b``, the
        noise and the condition.
    """
    if d == 1 and condition != 1:
        raise ConfigError("data.condition", condition, "must be 1 for data.d=1")
    rng = stream("data.truth")
    w, axis = rng.normal(size=d), rng.normal(size=d)
    axis /= np.sqrt(np.square(axis).sum())
    deviations = np.sqrt(np.float64(condition) ** (-np.arange(d) / max(d - 1, 1)))

    def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.normal(size=(count, d)) * deviations
        x -= 2 * (x * axis).sum(axis=1, keepdims=True) * axis
        return x, (x * w).sum(axis=1, keepdims=True) + bias

    arrays = _noisy(stream, draw, counts=(n, n_val, n_test), noise=noise)
    truth = {"w": w.tolist(), "b": bias}
    return arrays, {"truth": truth, "noise": noise, "condition": condition}


def polynomial(
    stream: Stream,
    *,
    n: Count,
    n_val: Natural,
    n_test: Count,
    coefficients: Coefficients,
    noise: NonNegative,
) -> Made:
    """A polynomial on [−1, 1]: ``y = c₀ + c₁·x + c₂·x² + … + ε``; a sample is x alone."""

    def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.uniform(-1.0, 1.0, size=(count, 1))
        y = np.zeros_like(x)
        for coefficient in reversed(coefficients):
            y = y * x + coefficient
        return x, y

    arrays = _noisy(stream, draw, counts=(n, n_val, n_test), noise=noise)
    return arrays, {"coefficients": list(coefficients), "noise": noise}


def sine(
    stream: Stream,
    *,
    n: Count,
    n_val: Natural,
    n_test: Count,
    amplitude: Finite,
    frequency: Positive,
    phase: Finite,
    noise: NonNegative,
    low: Finite,
    high: Finite,
) -> Made:
    """A wave: ``y = amplitude·sin(2π·frequency·x + phase) + ε``, ``x ~ U(low, high)``."""
    _check_range(low, high)

    def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.uniform(low, high, size=(count, 1))
        return x, amplitude * np.sin(2 * np.pi * frequency * x + phase)

    arrays = _noisy(stream, draw, counts=(n, n_val, n_test), noise=noise)
    return arrays, {"noise": noise}


def moons(stream: Stream, *, n: Pair, n_val: Natural, n_test: Count, noise: NonNegative) -> Made:
    """Two half circles that reach into each other, one a class; no line parts them.

    Class 0 lies on ``(cos t, sin t)``, class 1 on ``(1 − cos t, ½ − sin t)``, ``t ~ U(0, π)``, both
    with normal noise on both coordinates. The classes are as large as each other, or differ by one.
    """
    arrays: dict[str, np.ndarray] = {}
    for split, count in _splits(n, n_val, n_test):
        rng = stream(f"data.{split}")
        y = rng.permutation(np.arange(count) % 2)
        t = rng.uniform(0.0, np.pi, size=count)
        side = 1 - 2 * y
        x = np.stack([y + side * np.cos(t), 0.5 * y + side * np.sin(t)], axis=1)
        arrays[f"x_{split}"] = x + rng.normal(0.0, noise, size=(count, 2))
        arrays[f"y_{split}"] = y.astype(np.int64)[:, None]
    return arrays, {"classes": 2, "labels": [0, 1], "noise": noise}


def _check_range(low: float, high: float) -> None:
    """Raise `ConfigError` unless ``data.high`` is above ``data.low`` by a finite number."""
    if not 0 < high - low < np.inf:
        raise ConfigError("data.low", low, f"must be below data.high={high}, and not infinitely")


def _splits(n: int, n_val: int, n_test: int) -> list[tuple[str, int]]:
    """Name the splits that have samples; each has a stream of its own."""
    counts = {"train": n, "val": n_val, "test": n_test}
    return [(split, count) for split, count in counts.items() if count]


def _noisy(
    stream: Stream,
    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]],
    *,
    counts: tuple[int, int, int],
    noise: float,
) -> dict[str, np.ndarray]:
    """Draw every split and add normal noise to its targets."""
    arrays = {}
    for split, count in _splits(*counts):
        rng = stream(f"data.{split}")
        x, y = draw(rng, count)
        arrays[f"x_{split}"] = x
        arrays[f"y_{split}"] = y + rng.normal(0.0, noise, size=y.shape)
    return arrays
