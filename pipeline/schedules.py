"""Schedules: the learning rate of an update as a pure function; the backends get a number.

Updates are counted 1, 2, …, `steps`; `lr` is the optimizer's base rate.
"""

from __future__ import annotations

import math

from pipeline.config.types import Count, Fraction, Natural, Positive


def constant(step: int, *, lr: float, steps: int) -> float:
    """Return the base rate, whatever the step."""
    return lr


def step(step: int, *, lr: float, steps: int, every: Count, factor: Positive) -> float:
    """Return the base rate times `factor` once for every `every` updates made before this one."""
    return float(lr * factor ** ((step - 1) // every))


def exponential(step: int, *, lr: float, steps: int, factor: Positive) -> float:
    """Return a rate that starts at the base rate and is multiplied by `factor` at each update."""
    return float(lr * factor ** (step - 1))


def cosine(step: int, *, lr: float, steps: int, final: Fraction) -> float:
    """Return half a cosine from the base rate at update 1 to `final` of it at the last one.

    Source: I. Loshchilov and F. Hutter, "SGDR: stochastic gradient descent with warm restarts",
    arXiv:1608.03983 (2016), without restarts.
    """
    done = (step - 1) / max(steps - 1, 1)
    return lr * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done)))


def warmup_cosine(step: int, *, lr: float, steps: int, warmup: Natural, final: Fraction) -> float:
    """Return a rate that rises in `warmup` equal steps to the base rate, then falls as `cosine`."""
    if step <= warmup:
        return lr * step / (warmup + 1)
    return cosine(step - warmup, lr=lr, steps=steps - warmup, final=final)
