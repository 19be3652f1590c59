"""Update rules, each once, in arithmetic that NumPy, PyTorch and TensorFlow arrays all obey.

A rule takes a parameter ``w``, its gradient ``g`` and its slots (arrays, zeros at first, as many as
its `slots` has names), and returns the new parameter and the new slots. The augmented assignments
are meant: they work in place on PyTorch and NumPy arrays, which saves the copy, and make a new
tensor in TensorFlow, which has no other way. `sqrt` is passed in by the backend, because
TensorFlow's ``x**0.5`` differs from its ``sqrt`` in the last bit of a quarter of the float32
values. (PyTorch's own float32 root is one ulp off in a sixth of them on CPUs with AVX-512, so rules
with a root agree there to rounding, not to the bit.)

What depends on the step alone (the rate, Adam's bias corrections) is computed once, on the host and
in float64, by the rule's `scalars`, so that no backend's ``pow`` gets a say in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pipeline.config.types import Fraction, Positive

Array = Any
Slots = tuple[Array, ...]
Scalars = Mapping[str, Any]


def _rule(
    *, slots: tuple[str, ...], scalars: Callable[..., dict[str, float]]
) -> Callable[[Any], Any]:
    """Say what a rule's slots are called, and how its scalars follow from the step and rate."""

    def mark(function: Any) -> Any:
        function.slots, function.scalars = slots, scalars
        return function

    return mark


def _rate(step: int, lr: float, **settings: float) -> dict[str, float]:
    """Return the scalars of a rule that needs only the learning rate."""
    return {"lr": lr}


def _corrected(step: int, lr: float, *, beta1: float, beta2: float, **others: float) -> dict:
    """Adam's bias corrections; the first is taken into the rate, as in the paper's section 2."""
    return {"rate": lr / (1 - beta1**step), "correction": 1 - beta2**step}


@_rule(slots=(), scalars=_rate)
def gd(w: Array, g: Array, slots: Slots, *, lr: float, sqrt: Callable) -> tuple[Array, Slots]:
    """Gradient descent, ``w ← w − lr·g``; no momentum, no decay.

    The same in PyTorch (``SGD``) and Keras (``SGD``). Source: A. Cauchy, "Méthode générale pour la
    résolution des systèmes d'équations simultanées", Comptes rendus 25 (1847).
    """
    w -= lr * g
    return w, slots


@_rule(slots=("v",), scalars=_rate)
def momentum(
    w: Array, g: Array, slots: Slots, *, lr: float, sqrt: Callable, momentum: Fraction
) -> tuple[Array, Slots]:
    """Heavy ball: ``v ← μ·v + g``, ``w ← w − lr·v``; the rate stands outside the velocity.

    So PyTorch (``SGD``, dampening 0). Keras keeps ``v ← μ·v − lr·g``, ``w ← w + v``: the same at a
    constant rate, another path once the rate changes. Source: B. Polyak, "Some methods of speeding
    up the convergence of iteration methods" (1964).
    """
    (v,) = slots
    v *= momentum
    v += g
    w -= lr * v
    return w, (v,)


@_rule(slots=("v",), scalars=_rate)
def nesterov(
    w: Array, g: Array, slots: Slots, *, lr: float, sqrt: Callable, momentum: Fraction
) -> tuple[Array, Slots]:
    """Nesterov's momentum: ``v ← μ·v + g``, ``w ← w − lr·(g + μ·v)``.

    So PyTorch (``SGD(nesterov=True)``); Keras differs as for `momentum`. Source: I. Sutskever et
    al., "On the importance of initialization and momentum in deep learning" (2013).
    """
    (v,) = slots
    v *= momentum
    v += g
    w -= lr * (g + momentum * v)
    return w, (v,)


@_rule(slots=("v",), scalars=_rate)
def rmsprop(
    w: Array,
    g: Array,
    slots: Slots,
    *,
    lr: float,
    sqrt: Callable,
    rho: Fraction,
    epsilon: Positive,
) -> tuple[Array, Slots]:
    """RMSprop: ``v ← ρ·v + (1 − ρ)·g²``, ``w ← w − lr·g / (√v + ε)``; not centred, no momentum.

    So PyTorch (there ρ is ``alpha``). Keras has ε inside the root, ``√(v + ε)``. Source: T.
    Tieleman and G. Hinton, "Neural Networks for Machine Learning", lecture 6e (2012).
    """
    (v,) = slots
    v *= rho
    v += (1 - rho) * (g * g)
    w -= lr * (g / (sqrt(v) + epsilon))
    return w, (v,)


@_rule(slots=("a",), scalars=_rate)
def adagrad(
    w: Array, g: Array, slots: Slots, *, lr: float, sqrt: Callable, epsilon: Positive
) -> tuple[Array, Slots]:
    """Adagrad: ``a ← a + g²``, ``w ← w − lr·g / (√a + ε)``; the sum starts at 0.

    So PyTorch. Keras starts the sum at 0.1 and has ε inside the root. Source: J. Duchi, E. Hazan
    and Y. Singer, "Adaptive subgradient methods for online learning and stochastic optimization",
    JMLR 12 (2011).
    """
    (a,) = slots
    a += g * g
    w -= lr * (g / (sqrt(a) + epsilon))
    return w, (a,)


@_rule(slots=("u", "v"), scalars=_rate)
def adadelta(
    w: Array,
    g: Array,
    slots: Slots,
    *,
    lr: float,
    sqrt: Callable,
    rho: Fraction,
    epsilon: Positive,
) -> tuple[Array, Slots]:
    """Adadelta: ``d = √(u + ε) / √(v + ε) · g`` with running means u of d² and v of g².

    The same in PyTorch and Keras, but for their defaults; the paper's rate is 1. Source: M. Zeiler,
    "ADADELTA: an adaptive learning rate method", arXiv:1212.5701 (2012).
    """
    u, v = slots
    v *= rho
    v += (1 - rho) * (g * g)
    d = sqrt(u + epsilon) / sqrt(v + epsilon) * g
    u *= rho
    u += (1 - rho) * (d * d)
    w -= lr * d
    return w, (u, v)


@_rule(slots=("m", "v"), scalars=_corrected)
def adam(
    w: Array,
    g: Array,
    slots: Slots,
    *,
    rate: float,
    correction: float,
    sqrt: Callable,
    beta1: Fraction,
    beta2: Fraction,
    epsilon: Positive,
) -> tuple[Array, Slots]:
    """Adam: ``w ← w − lr·m̂ / (√v̂ + ε)``, with ε beside the *corrected* root.

    So PyTorch. Keras has ε beside the uncorrected one, so that no constant ε of its makes the two
    the same. Source: D. Kingma and J. Ba, "Adam: a method for stochastic optimization", algorithm
    1, arXiv:1412.6980 (2014).
    """
    m, v = slots
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * (g * g)
    w -= rate * (m / (sqrt(v / correction) + epsilon))
    return w, (m, v)


@_rule(slots=("m", "v"), scalars=_corrected)
def adamw(
    w: Array,
    g: Array,
    slots: Slots,
    *,
    rate: float,
    correction: float,
    sqrt: Callable,
    beta1: Fraction,
    beta2: Fraction,
    epsilon: Positive,
) -> tuple[Array, Slots]:
    """Adam with decoupled decay, ``w ← w − lr·λ·w``, which the gradient's moments never see.

    The decay is `Update`'s, before this rule, as for every other one; ``l2`` is refused here. So
    PyTorch and Keras (with Keras's ε as for `adam`). Source: I. Loshchilov and F. Hutter,
    "Decoupled weight decay regularization", algorithm 2, arXiv:1711.05101 (2017).
    """
    return adam(
        w,
        g,
        slots,
        rate=rate,
        correction=correction,
        sqrt=sqrt,
        beta1=beta1,
        beta2=beta2,
        epsilon=epsilon,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Update:
    """One optimizer, whole: a rule, its settings, and what stands around it.

    Attributes
    ----------
    name, settings
        The rule and what it takes besides its scalars.
    decay, weight_decay
        ``l2`` adds λ·w to the gradient; ``decoupled`` takes lr·λ·w from the parameter before the
        rule; both for every trained parameter, biases included.
    clip_norm
        The largest norm of all gradients together, or None.
    accumulate
        How many batches make one update.
    brought
        Of an optimizer that a pair brings, what its arrays are called; None of our own rules.
    counts_steps
        Whether such an optimizer counts its steps.
    """

    name: str
    settings: Mapping[str, float]
    decay: str
    weight_decay: float
    clip_norm: float | None
    accumulate: int
    brought: tuple[str, ...] | None = None
    counts_steps: bool = False

    @property
    def slots(self) -> tuple[str, ...]:
        """What the arrays are called that the rule keeps for each parameter."""
        names: tuple[str, ...] = (
            globals()[self.name].slots if self.brought is None else self.brought
        )
        return names

    def scalars(self, step: int, lr: float) -> dict[str, float]:
        """Return what depends on the step alone, in float64."""
        scalars: dict[str, float] = globals()[self.name].scalars(step, lr, **self.settings)
        return (
            scalars | {"shrink": lr * self.weight_decay} if self.decay == "decoupled" else scalars
        )

    def rule(self, *, sqrt: Callable) -> Callable[..., tuple[Array, Slots]]:
        """Return the update of one parameter, ``(w, g, slots, **scalars)``, decay included."""
        bare = partial(globals()[self.name], sqrt=sqrt, **self.settings)

        def coupled(w: Array, g: Array, slots: Slots, **scalars: Any) -> tuple[Array, Slots]:
            return bare(w, g + self.weight_decay * w, slots, **scalars)

        def decoupled(
            w: Array, g: Array, slots: Slots, *, shrink: Any, **scalars: Any
        ) -> tuple[Array, Slots]:
            w -= shrink * w
            return bare(w, g, slots, **scalars)

        rules: dict[str, Callable[..., tuple[Array, Slots]]]
        rules = {"none": bare, "l2": coupled, "decoupled": decoupled}
        return rules[self.decay]

    def clipped(self, gradients: Sequence[Array], *, ops: Any) -> Sequence[Array]:
        """Return ``g · c / max(‖g‖, c)``, with the norm over all parameters at once.

        PyTorch divides by ``‖g‖ + 1e-6`` instead. Source: R. Pascanu, T. Mikolov and Y. Bengio, "On
        the difficulty of training recurrent neural networks", arXiv:1211.5063 (2012).
        """
        if self.clip_norm is None:
            return gradients
        norm = ops.sqrt(sum(ops.total(g * g) for g in gradients))
        factor = self.clip_norm / ops.maximum(norm, self.clip_norm)
        return [g * factor for g in gradients]
