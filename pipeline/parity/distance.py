"""How far apart two trajectories are: in bits, absolute, relative, and in ulps."""

from __future__ import annotations

import dataclasses

import numpy as np

from pipeline.record import RunRecord


def ulps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return how many representable numbers lie between `a` and `b`, elementwise, as float64.

    Counted on the integers behind the bits, ordered as the numbers are, so it is exact across
    powers of two and across zero (where +0 and −0 are 0 apart). Two NaNs are 0 apart, a NaN and
    anything else infinitely far. Beyond 2⁵³ the count is rounded.

    Parameters
    ----------
    a, b
        float32 or float64 arrays of one shape and one dtype.
    """
    if a.dtype != b.dtype or a.shape != b.shape or a.dtype not in (np.float32, np.float64):
        raise ValueError(f"cannot count ulps between {a.dtype}{a.shape} and {b.dtype}{b.shape}")
    low, high = np.sort(np.stack([_ordered(a), _ordered(b)]), axis=0)
    apart = (high.view(np.uint64) - low.view(np.uint64)).astype(np.float64)
    nan_a, nan_b = np.isnan(a), np.isnan(b)
    apart = np.where(nan_a & nan_b, 0.0, apart)
    return np.where(nan_a ^ nan_b, np.inf, apart)


def _ordered(a: np.ndarray) -> np.ndarray:
    """Map floats to int64 so that neighbours are one apart and order is kept."""
    bits = np.ascontiguousarray(a).view(f"i{a.dtype.itemsize}").astype(np.int64).reshape(a.shape)
    lowest = np.int64(np.iinfo(f"i{a.dtype.itemsize}").min)
    return np.where(bits < 0, lowest - bits, bits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gap:
    """The distance between two trajectories of one parameter.

    Each of the three largest differences is taken on its own over all steps and elements; `step`
    is where the ulp distance is largest, `first` the first step at which a bit differs (None if
    none does).
    """

    name: str
    first: int | None
    absolute: float
    relative: float
    ulp: float
    step: int


def gap(name: str, a: np.ndarray, b: np.ndarray) -> Gap:
    """Measure two stacks of one parameter, shape ``(rows, ...)``, row 0 the start."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    apart = ulps(a, b)
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
        absolute = np.where(apart == 0, 0.0, difference)  # inf − inf and NaN − NaN are NaN
        scale = np.maximum(np.abs(a), np.abs(b)).astype(np.float64)
        relative = np.where(absolute == 0, 0.0, absolute / scale)
    differs = (a.view(f"u{a.dtype.itemsize}") != b.view(f"u{a.dtype.itemsize}")).any(axis=1)
    rows = apart.max(axis=1)
    return Gap(
        name=name,
        first=int(np.argmax(differs)) if differs.any() else None,
        absolute=float(absolute.max()),
        relative=float(relative.max()),
        ulp=float(rows.max()),
        step=int(np.argmax(rows)),
    )


def trajectories(a: RunRecord, b: RunRecord) -> list[Gap]:
    """Measure every parameter of two records over every step.

    Raises
    ------
    ValueError
        If the records do not hold the same parameters, steps, shapes or precision.
    """
    left, right = a.named("param"), b.named("param")
    if not left or not right:
        raise ValueError("one of the runs kept no parameters (record.trace=full keeps them)")
    if set(left) != set(right):
        raise ValueError(f"the runs have other parameters: {sorted(left)} and {sorted(right)}")
    for name in left:
        if left[name].shape != right[name].shape or left[name].dtype != right[name].dtype:
            raise ValueError(
                f"{name} was kept as {left[name].dtype}{left[name].shape} in one run and as "
                f"{right[name].dtype}{right[name].shape} in the other"
            )
    return [gap(name, left[name], right[name]) for name in left]
