"""Losses, each once, in arithmetic that all backends obey; means over every sample, not sums.

`ops` is the backend's small table of functions: ``mean`` (over everything), ``sum`` (over the last
axis), ``square``, ``absolute``, ``minimum``, ``logsumexp`` and ``top`` (the largest, which has no
gradient; both over the last axis, which stays) and ``softplus``. A loss says which targets it
wants: ``values`` (the target columns), ``binary`` (one column of 0 and 1), ``classes`` (one
column a class, one of them 1) or ``any``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.config.types import Fraction, Positive

Array = Any


def _targets(kind: str) -> Callable[[Any], Any]:
    """Say which kind of targets a loss wants."""

    def mark(function: Any) -> Any:
        function.targets = kind
        return function

    return mark


@_targets("values")
def mse(prediction: Array, target: Array, *, ops: Any) -> Array:
    """Mean squared error, ``mean((ŷ − y)²)``, without the factor ½ of some textbooks."""
    return ops.mean(ops.square(prediction - target))


@_targets("values")
def mae(prediction: Array, target: Array, *, ops: Any) -> Array:
    """Mean absolute error, ``mean(|ŷ − y|)``; where an error is 0, its gradient is 0."""
    return ops.mean(ops.absolute(prediction - target))


@_targets("values")
def huber(prediction: Array, target: Array, *, ops: Any, delta: Positive) -> Array:
    """Huber's loss: ``e²/2`` up to ``|e| = δ`` and ``δ·(|e| − δ/2)`` beyond, averaged.

    Written with ``q = min(|e|, δ)`` as ``q²/2 + δ·(|e| − q)``. So Keras's and PyTorch's ``Huber``
    (not PyTorch's ``SmoothL1``, which divides by δ). Source: P. Huber, "Robust estimation of a
    location parameter", Annals of Mathematical Statistics 35 (1964).
    """
    error = ops.absolute(prediction - target)
    near = ops.minimum(error, delta)
    return ops.mean(0.5 * ops.square(near) + delta * (error - near))


@_targets("binary")
def bce(prediction: Array, target: Array, *, ops: Any) -> Array:
    """Binary cross-entropy of logits z, ``mean(log(1 + exp z) − y·z)``; no probability is formed.

    Keras's ``BinaryCrossentropy`` takes probabilities unless told (``from_logits=True``).
    """
    return ops.mean(ops.softplus(prediction) - target * prediction)


@_targets("any")
def own(prediction: Array, target: Array, *, ops: Any) -> Array:
    """Outputs times numbers that are given as their targets, averaged: ``mean(ŷ·y)``.

    Of a pair that is not ours and brings neither loss nor target: with random numbers every
    parameter has a gradient. A pair's own loss takes its place.
    """
    return ops.mean(prediction * target)


@_targets("classes")
def cross_entropy(prediction: Array, target: Array, *, ops: Any, smoothing: Fraction) -> Array:
    """Cross-entropy of logits, averaged over the samples: ``mean(log Σ exp z − Σ y·z)``.

    The largest logit is taken from all of them first. It changes no value, because Σ y is 1, but
    the gradient ``exp(z − log Σ exp z)`` has no cancellation of large logits then.

    `smoothing` ε mixes the target with the uniform distribution over K classes, ``y·(1−ε) + ε/K``,
    as Keras and PyTorch do; it is an error of meaning to spread ε over the K − 1 wrong ones only.
    Source: C. Szegedy et al., "Rethinking the Inception architecture", arXiv:1512.00567 (2015).
    """
    smooth = target * (1 - smoothing) + smoothing / prediction.shape[-1] if smoothing else target
    z = prediction - ops.top(prediction)
    return ops.mean(ops.logsumexp(z) - ops.sum(smooth * z))
