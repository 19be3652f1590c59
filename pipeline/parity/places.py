"""Where two tensors are farthest apart, and whether one is a multiple of the other."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.parity import distance


def describe_place(
    a: np.ndarray,
    b: np.ndarray,
    *,
    farthest: np.ndarray | None = None,
    tolerance: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Return the element that is farthest apart: its index, both values and their distances.

    Parameters
    ----------
    farthest
        What decides which element it is; None: the distance itself, or what of it is beyond the
        tolerance.

    Returns
    -------
    dict
        ``index``, ``a``, ``b``, ``absolute``, ``relative``, and ``ulp`` (None across signs, where
        a count of numbers in between says nothing, and where a value is not finite).
    """
    a, b = np.asarray(a), np.asarray(b)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        gap = np.abs(wide_a - wide_b)
    gap = np.where(np.isnan(gap), np.where(np.isnan(a) & np.isnan(b), 0, np.inf), gap)
    gap = np.where(wide_a == wide_b, 0.0, gap)
    decisive = gap if farthest is None else np.nan_to_num(farthest, nan=np.inf)
    if tolerance is not None:
        with np.errstate(invalid="ignore"):
            beyond = gap - tolerance[0] * np.abs(wide_b)
        decisive = np.where(np.isnan(beyond), gap, beyond)
    index = np.unravel_index(int(np.argmax(decisive)), gap.shape)
    one, other = a[index], b[index]
    scale = max(abs(float(one)), abs(float(other)))
    countable = np.isfinite(one) and np.isfinite(other) and np.signbit(one) == np.signbit(other)
    return {
        "index": tuple(int(i) for i in index),
        "a": float(one),
        "b": float(other),
        "absolute": float(gap[index]),
        "relative": float(gap[index]) / scale if scale else 0.0,
        "ulp": float(distance.ulps(np.atleast_1d(one), np.atleast_1d(other))[0])
        if countable and a.dtype == b.dtype
        else None,
    }  # fmt: skip


def find_ratio(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return the one factor r with ``b = r·a``, if there is one that is not 1; else None.

    By least squares; what is left over may be a millionth of b, so that a factor is named only
    where it explains the whole tensor. A tensor of one number always has one.
    """
    one, other = (np.asarray(x, np.float64).ravel() for x in (a, b))
    with np.errstate(over="ignore", invalid="ignore"):
        square = float(one @ one) if np.isfinite(one).all() and np.isfinite(other).all() else 0.0
    if not (0 < square < np.inf) or not other.any():
        return None
    ratio = float(one @ other) / square
    rest = float(np.linalg.norm(other - ratio * one))
    if not rest <= 1e-6 * float(np.linalg.norm(other)) or abs(ratio - 1) <= 1e-9:
        return None
    return ratio
