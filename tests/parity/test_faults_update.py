"""Faults of the optimizer: updates that are small, rates, and the frameworks' own optimizers."""

from __future__ import annotations

import math

import faults as f
import numpy as np
import pytest
import wrongs
from faults import BIASES, HIDDEN, MLP, Fault

pytest.importorskip("torch")
pytest.importorskip("tensorflow")

W = ("layer1.w", "layer2.w", "out.w")
ADAMW = (*MLP, "optimizer=adamw")
GD = (*MLP, "optimizer=gd")
L2 = (*GD, "optimizer.decay=l2", "optimizer.weight_decay=0.01")
SCHEDULE = (*MLP, "schedule=exponential")
NATIVE = (*MLP, "train.loop=native")
TINY = f.Run(1e-7, "float32", 5)


def slots(name, tensors=HIDDEN):
    return tuple(f"{tensor} (slot {name})" for tensor in tensors)


def no_decay_of_biases(right):
    def wrong(plain, w, g, s, *, k, shrink, **numbers):
        return plain(w, g, s, shrink=shrink * (len(w.shape) > 1), **numbers)

    return wrongs.Wrong(right, rule=wrong)


def keras_epsilon(right, w, g, s, *, k, rate, correction):
    m, v = s
    m *= 0.9
    m += (1 - 0.9) * g
    v *= 0.999
    v += (1 - 0.999) * (g * g)
    w -= rate * math.sqrt(correction) * m / (v**0.5 + 1e-8)
    return w, (m, v)


def amsgrad(right, w, g, s, *, k, rate, correction):
    """The largest v so far, which here is v divided by a factor that never falls below 1."""
    m, v = s
    before = v + 0
    m *= 0.9
    m += (1 - 0.9) * g
    v *= 0.999
    v += (1 - 0.999) * (g * g)
    larger = before > v
    top = larger * before + (~larger) * v if hasattr(v, "mul_") else _where(larger, before, v)
    w -= rate * (m / ((top / correction) ** 0.5 + 1e-8))
    return w, (m, v)


def _where(condition, one, other):
    import tensorflow as tf

    return tf.where(condition, one, other)


def nesterov_of_keras(right, w, g, s, *, k, lr):
    """Looks ahead by the old velocity."""
    (v,) = s
    old = v + 0
    v *= 0.9
    v += g
    w -= lr * (g + 0.9 * old)
    return w, (v,)


def filled_with(value):
    """An accumulator that starts at another value, as Keras's Adagrad does."""

    def wrong(right, w, g, s, *, k, **numbers):
        if k == 1:
            (a,) = s
            a += value
        return right(w, g, s, **numbers)

    return wrongs.rule(wrong)


def by_value(gradients, update, ops, k):
    most = update.clip_norm
    return [ops.maximum(ops.minimum(g, most), -most) for g in gradients]


def with_a_millionth(gradients, update, ops, k):
    norm = ops.sqrt(sum(ops.total(g * g) for g in gradients))
    factor = update.clip_norm / ops.maximum(norm + 1e-6, update.clip_norm)
    return [g * factor for g in gradients]


def frozen(right, k, lr):
    frozen.first = lr if k == 1 else frozen.first
    return right(k, frozen.first)


def rate_of(change):
    """The rates that the optimizer uses instead of those that it is given."""

    def mutate(side):
        for name in ("train", "stepper"):
            original = getattr(side.backend, name)

            def changed(*args, original=original, **named):
                rates = named["trace"].rates if "trace" in named else named["rates"]

                def scalars(right, k, lr):
                    return right(k, change(rates, k))

                named["update"] = wrongs.Wrong(named["update"], scalars=scalars)
                return original(*args, **named)

            side.set(name, changed)

    return mutate


def optimizer(**changes):
    """The framework's own optimizer with some of its group's settings, or Keras's own, changed."""

    def mutate(side):
        right = side.get("make_optimizer")

        def wrong(*args):
            made = right(*args)
            for key, value in changes.items():
                if side.name == "torch":
                    made.param_groups[0][key] = value
                else:
                    setattr(made, key, value)
            return made

        side.set("make_optimizer", wrong)

    return mutate


CLIP = (*GD, "optimizer.clip_norm=0.01")
LR = ("lr (as used)",)
RATE = ("rate (as used)",)

SMALL = {
    "decay missing": Fault(ADAMW, wrongs.words(decay="none"), "update", ("shrink (as used)", *HIDDEN)),
    "decay missing in the rule": Fault(
        ADAMW, wrongs.rule(lambda right, w, g, s, *, k, shrink, **n: right(w, g, s, shrink=0.0, **n)),
        "update", HIDDEN, runs=(TINY, f.SHORT_32, f.MIDDLE_32, f.MIDDLE_64), first=f.moved_biases),
    "decay a tenth larger": Fault(
        ADAMW, wrongs.rule(lambda right, w, g, s, *, k, shrink, **n: right(w, g, s, shrink=1.1 * shrink, **n)),
        "update", HIDDEN, runs=(TINY, f.SHORT_64, f.LONG_64), first=f.moved_biases),
    "no decay of biases": Fault(
        ADAMW, wrongs.update(no_decay_of_biases), "update", BIASES, side="tensorflow",
        runs=(TINY, f.SHORT_32, f.SHORT_64), first=f.moved_biases),
    "l2 missing": Fault(L2, wrongs.words(decay="none"), "update", HIDDEN,
                        runs=(TINY, f.MIDDLE_32, f.MIDDLE_64), first=f.moved_biases),
    "l2 missing, in TensorFlow": Fault(L2, wrongs.words(decay="none"), "update", HIDDEN,
                        side="tensorflow", runs=(TINY, f.SHORT_64), first=f.moved_biases),
    "Adam's epsilon": Fault(MLP, wrongs.settings(epsilon=1e-7), "update", HIDDEN,
                            runs=(TINY, f.MIDDLE_32, f.LONG_32), first=f.moved_biases),
    "Adam's epsilon, in TensorFlow": Fault(MLP, wrongs.settings(epsilon=1e-7), "update", HIDDEN,
                            side="tensorflow", runs=(TINY, f.SHORT_64), first=f.moved_biases),
    "Keras's place of epsilon": Fault(MLP, wrongs.rule(keras_epsilon), "update", HIDDEN,
                                      runs=(TINY, f.MIDDLE_64), first=f.moved_biases),
    "a matrix moves two thousandths too little": Fault(
        MLP, wrongs.scaled(0.998, where=wrongs.is_shaped((12, 12))), "update", ("layer2.w",),
        runs=(TINY, f.MIDDLE_32, f.LONG_64), first=f.moved_biases, ratio=0.998),
    "a matrix moves two thousandths too little, in TensorFlow": Fault(
        MLP, wrongs.scaled(0.998, where=wrongs.is_shaped((12, 12))), "update", ("layer2.w",),
        side="tensorflow", runs=(TINY, f.SHORT_32), first=f.moved_biases, ratio=0.998),
    "a tensor's update is skipped": Fault(
        MLP, wrongs.scaled(0.0, where=wrongs.is_shaped((10,))), "update", ("out.b",),
        runs=(TINY, f.SHORT_64), first=f.moved_biases),
    "a tensor's update is skipped, plain descent": Fault(
        GD, wrongs.scaled(0.0, where=wrongs.is_shaped((10,))), "update", ("out.b",),
        runs=(TINY, f.Run(1e-8, "float32", 5)), first=f.moved_biases),
    "amsgrad": Fault(MLP, wrongs.rule(amsgrad), "trajectory", HIDDEN, step=None, runs=(f.MIDDLE_32, f.MIDDLE_64)),
    "Nesterov by the old velocity": Fault(
        (*MLP, "optimizer=nesterov"), wrongs.rule(nesterov_of_keras), "update", HIDDEN,
        runs=(f.SHORT_32, f.MIDDLE_32)),
    "an accumulator starts at a tenth": Fault(
        (*MLP, "optimizer=adagrad"), filled_with(0.1), "update", slots("a"),
        runs=(f.SHORT_32, f.SHORT_64)),
    "clip by value": Fault(CLIP, wrongs.clipped(by_value), "update", HIDDEN, runs=(f.SHORT_32, f.MIDDLE_64)),
    "a millionth beside a tiny norm": Fault(
        (*GD, "optimizer.clip_norm=1e-5"), wrongs.clipped(with_a_millionth), "update", HIDDEN,
        runs=(f.SHORT_32, TINY), ratio=None),
}  # fmt: skip

RATES = {
    "rates frozen at the first": Fault(
        SCHEDULE, rate_of(lambda rates, k: rates[0]), "trajectory", RATE, step=2,
        runs=(f.SHORT_32, f.MIDDLE_64, f.MIDDLE_32)),
    "rates one step late": Fault(
        SCHEDULE, rate_of(lambda rates, k: rates[max(k - 2, 0)]), "trajectory", RATE, step=2,
        side="tensorflow", runs=(f.SHORT_64, f.MIDDLE_32)),
    "rates one step early": Fault(
        (*GD, "schedule=exponential"), rate_of(lambda rates, k: rates[min(k, len(rates) - 1)]), "update", LR,
        runs=(f.SHORT_32, f.SHORT_64)),
    "rate halved inside the rule": Fault(
        GD, wrongs.rule(lambda right, w, g, s, *, k, lr: right(w, g, s, lr=0.5 * lr)), "update", HIDDEN,
        ratio=0.5, runs=(f.SHORT_32, f.MIDDLE_32, f.LONG_64, f.LONG_32)),
    "rate halved inside the rule, Adam": Fault(
        MLP, wrongs.rule(lambda right, w, g, s, *, k, rate, **n: right(w, g, s, rate=0.5 * rate, **n)),
        "update", HIDDEN, ratio=0.5, side="tensorflow", runs=(f.SHORT_64, f.MIDDLE_64)),
    "rate wrong from the schedule's first change": Fault(
        (*GD, "schedule=step", "schedule.every=10"),
        wrongs.rule(lambda right, w, g, s, *, k, lr: right(w, g, s, lr=lr * (2 if k > 10 else 1))),
        "trajectory", HIDDEN, step=11, ratio=2.0, runs=(f.MIDDLE_32, f.MIDDLE_64)),
}  # fmt: skip

OWN = {
    "own momentum": Fault((*NATIVE, "optimizer=momentum"), optimizer(momentum=0.91), "trajectory",
                          slots("v"), step=2, runs=(f.SHORT_32, f.MIDDLE_64)),
    "own momentum, Keras": Fault((*NATIVE, "optimizer=momentum"), optimizer(momentum=0.91),
                          "trajectory", slots("v"), step=2, side="tensorflow", runs=(f.SHORT_32, f.MIDDLE_64)),
    "own dampening": Fault((*NATIVE, "optimizer=momentum"), optimizer(dampening=0.1), "trajectory",
                           slots("v"), step=2, runs=(f.SHORT_64, f.MIDDLE_32)),
    "own Nesterov": Fault((*NATIVE, "optimizer=momentum"), optimizer(nesterov=True), "update",
                          HIDDEN, runs=(f.SHORT_32, f.SHORT_64)),
    "own Nesterov, Keras": Fault((*NATIVE, "optimizer=momentum"), optimizer(nesterov=True), "update",
                          HIDDEN, side="tensorflow", runs=(f.SHORT_32, f.SHORT_64)),
    "own epsilon": Fault((*NATIVE, "optimizer=adadelta"), optimizer(eps=1e-7), "update",
                         (*HIDDEN, *slots("u")), runs=(f.SHORT_32, f.MIDDLE_32)),
    "own epsilon, Keras": Fault((*NATIVE, "optimizer=adadelta"), optimizer(epsilon=1e-7), "update",
                         (*HIDDEN, *slots("u")), side="tensorflow", runs=(f.SHORT_32, f.MIDDLE_64)),
    "own rho": Fault((*NATIVE, "optimizer=adadelta"), optimizer(rho=0.95), "update",
                     (*slots("v"), *slots("u")), runs=(f.SHORT_32, f.SHORT_64)),
    "own betas": Fault((*NATIVE, "optimizer=adam"), optimizer(betas=(0.9, 0.99)), "update",
                       slots("v"), runs=(f.SHORT_32, f.MIDDLE_64)),
    "own beta, Keras": Fault((*NATIVE, "optimizer=adam"), optimizer(beta_2=0.99), "update",
                       slots("v"), side="tensorflow", runs=(f.SHORT_32, f.MIDDLE_32)),
    "own decay": Fault((*NATIVE, "optimizer=gd", "optimizer.decay=l2", "optimizer.weight_decay=0.01"),
                       optimizer(weight_decay=0.0), "update", HIDDEN, first=f.moved_biases,
                       runs=(f.MIDDLE_32, TINY)),
    "own decay, Keras": Fault((*NATIVE, "optimizer=gd", "optimizer.decay=l2", "optimizer.weight_decay=0.01"),
                       optimizer(weight_decay=np.float64(0.011)), "update", HIDDEN, first=f.moved_biases,
                       side="tensorflow", runs=(f.SHORT_64, TINY)),
}  # fmt: skip

FAULTS = SMALL | RATES | OWN


@pytest.mark.parametrize(("fault", "run"), f.cases(FAULTS))
def test_a_fault_of_the_optimizer_is_named(monkeypatch, fault, run):
    f.check(fault, run, monkeypatch)
