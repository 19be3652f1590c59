"""The inequalities that a verdict rests on, each one a function; `docs/parity.md` derives them.

=============  ==================================================================================
symbol         meaning
=============  ==================================================================================
``E_a, E_b``   own error: ‖Q in float32 − Q in float64‖ of one side, both from one recorded state
``D``          ‖Q of a − Q of b‖ in float64, from one recorded state
``S_k``        the larger of both sides' ‖Q‖ in float64 at step k; of an update ‖Δw‖ + ‖w‖
``S*_k``       the largest ``S_j`` with j ≤ k: large numbers may have cancelled into small ones
``n``          terms of the longest sum that makes Q
``R, C``       ``max(30, √n)`` and ``max(8, √n/2)``
``eps, tiny``  distance from 1 to the next number, and the smallest normal number, of a precision
=============  ==================================================================================

Every array has shape ``(rows, 2)``: the Euclidean norm, in which a difference of many elements
shows, and the largest element, in which one of a million does. A comparison is written
``not (distance <= bound)``, so that NaN never passes.
"""

from __future__ import annotations

import math

import numpy as np

COARSE = 1e3
"""How many eps32 of its size an own error is from which on a side is called coarse."""
FREE = 1e4
"""The same of two free updates: a rule that divides by a root amplifies noise, and two of them
more; a right pair at a rate of 20 came to 1.05e3."""
NARROW, WIDE = np.finfo(np.float32), np.finfo(np.float64)


def roundings(n: int) -> float:
    """Return R: how many times the other's error, or the scaled own one, a distance may be.

    Measured: right kernels of two frameworks round up to 30 times as far as each other over short
    sums, where one of them may be exact by luck, and by up to √n over n terms (a chain of additions
    against a tree: n·eps/2 against log₂ n·eps/2 at worst, √n of that on average; N. Higham,
    "Accuracy and Stability of Numerical Algorithms", ch. 4).
    """
    return max(30.0, math.sqrt(n))


def units(n: int) -> float:
    """Return C: how many eps of its size a quantity may be off where no error was measured."""
    return max(8.0, math.sqrt(n) / 2)


def usual_error(own_error: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return ``min(max(E_k, S_k · median_j(E_j/S_j)), S_k)``: an own error on the right of a bound.

    At least its usual share of the size, because one number can be exact by luck; at most the size,
    because an error beyond that says nothing (and an infinite one would excuse everything). What is
    not finite is not known, and has the usual share; it is told at its own step.
    """
    known = np.isfinite(own_error)
    own_error = np.where(known, own_error, 0.0)
    share = np.zeros(own_error.shape[1:])
    for column in range(own_error.shape[1]):
        there = (size[:, column] > 0) & np.isfinite(size[:, column]) & known[:, column]
        if there.any():
            share[column] = np.median(own_error[there, column] / size[there, column])
    usual: np.ndarray = np.minimum(np.maximum(own_error, share * size), size)
    return usual


def largest_so_far(size: np.ndarray) -> np.ndarray:
    """Return ``S*``, the largest size of this step and all before it."""
    largest: np.ndarray = np.maximum.accumulate(size, axis=0)
    return largest


def meaning_bound(own_a: np.ndarray, own_b: np.ndarray, size: np.ndarray, *, n: int) -> np.ndarray:
    """Return the bound of D, ``R·max(E_a, E_b)·eps64/eps32 + C·(eps64·S* + tiny64)``.

    A rounding difference shrinks with the precision, a difference of meaning does not.
    """
    own_error = np.maximum(usual_error(own_a, size), usual_error(own_b, size))
    shrink = float(WIDE.eps) / float(NARROW.eps)
    return roundings(n) * (own_error * shrink) + units(n) * (
        float(WIDE.eps) * largest_so_far(size) + float(WIDE.tiny)
    )


def precision_bound(own_other: np.ndarray, size: np.ndarray, *, n: int) -> np.ndarray:
    """Return the bound of E of one side, ``R·E_other + C·(eps32·S* + tiny32)``.

    Each side may round as the other does, no coarser.
    """
    return roundings(n) * usual_error(own_other, size) + units(n) * (
        float(NARROW.eps) * largest_so_far(size) + float(NARROW.tiny)
    )


def replay_bound(own_error: np.ndarray, size: np.ndarray, *, n: int, dtype: str) -> np.ndarray:
    """Return how far a record may be from its own step done again, in the run's precision.

    ``R·E·eps/eps32 + C·(eps·S* + tiny)``: the rounding of threads or atomics, say. Where the other
    side is not finite, its error and size count as 0: they say nothing about this side's record.
    """
    own_error, size = (np.where(np.isfinite(values), values, 0.0) for values in (own_error, size))
    info = np.finfo(dtype)
    shrink = float(info.eps) / float(NARROW.eps)
    return roundings(n) * usual_error(own_error, size) * shrink + units(n) * (
        float(info.eps) * largest_so_far(size) + float(info.tiny)
    )


def is_beyond(distance: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Return for each row whether a distance is not within its bound, in either norm.

    Nothing is within a bound that is not finite: a size of infinity measures nothing.
    """
    within = (distance <= bound) & np.isfinite(bound)
    return np.asarray((~within).any(axis=1))
