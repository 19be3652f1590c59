"""Schedules: the learning rate of a step as a pure function; the backends get a number."""

from __future__ import annotations


def constant(step: int, *, lr: float, steps: int) -> float:
    """Return the base rate, whatever the step."""
    return lr
