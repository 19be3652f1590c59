"""Faults of arithmetic: one side computes in less than its precision, somewhere and sometimes."""

from __future__ import annotations

import faults as f
import pytest
import wrongs
from faults import HIDDEN, MLP, VALUES, Fault
from wrongs import ANY

pytest.importorskip("torch")
pytest.importorskip("tensorflow")

ACCUMULATE = (*MLP, "optimizer.accumulate=2", "train.batch=32")
WIDE = (*MLP, "model.widths=[1600]", "train.batch=128", "train.epochs=1")
CHAOS = f.Run(2e-2, "float32", 60)
LONG_CHAOS = f.Run(2e-2, "float32", 1500)
GRADIENT = (*HIDDEN,)


def narrowed(narrow, *, of=("float32",), where=lambda i: True):
    return lambda side, i, g: wrongs.as_type(side, g, narrow, of=of) if where(i) else g


def one_element(narrow):
    """One element of the first matrix, which has 102,400."""

    def change(side, i, g):
        if i != 0:
            return g
        coarse = wrongs.as_type(side, g, narrow)
        if side.name == "torch":
            g = g.clone()
            g[7, 28] = coarse[7, 28]
            return g
        import tensorflow as tf

        return tf.tensor_scatter_nd_update(g, [[28, 7]], [coarse[28, 7]])

    return change


def running_sum(narrow, *, of=("float32",)):
    """The mean over the batch by a sum that is rounded after each sample."""

    def mutate(side):
        def mse(p, t, *, ops):
            each = ops.square(p - t)
            total = each[0, 0] * 0
            for n in range(len(each)):
                total = wrongs.as_type(side, total + each[n, 0], narrow, of=of)
            return total / len(each)

        wrongs.loss(mse=mse)(side)

    return mutate


def mean_in(narrow, *, of=ANY):
    """The loss itself in a narrower type."""

    def mutate(side):
        def mse(p, t, *, ops):
            return ops.mean(ops.square(wrongs.as_type(side, p - t, narrow, of=of)))

        wrongs.loss(mse=mse)(side)

    return mutate


def activation_in(narrow, *, of=ANY):
    return wrongs.activation(
        "tanh", lambda side, right: lambda x: wrongs.as_type(side, right(x), narrow, of=of)
    )


def rule_in(narrow, *, of=("float32",), when=wrongs.always):
    def mutate(side):
        def wrong(right, w, g, slots, *, k, **numbers):
            return right(
                w, wrongs.as_type(side, g, narrow, of=of) if when(k) else g, slots, **numbers
            )

        wrongs.rule(wrong)(side)

    return mutate


def precision(overrides, mutate, rung, tensors, step=1, **more):
    return Fault(overrides, mutate, rung, tensors, step, kind="precision", **more)


TANH = (*MLP, "model.activation=tanh")
MSE = (*VALUES, "loss=mse")
LAYERS = ("layer1", "layer2", "output")
SLOTS = tuple(f"{n} (slot {s})" for n in HIDDEN for s in "mv")

FAULTS = {
    "products in bfloat16": precision(
        MLP, wrongs.products("bfloat16"), "forward", LAYERS[1:], runs=(f.SHORT_32, f.MIDDLE_32)),
    "products in TF32": precision(
        TANH, wrongs.products("tf32"), "forward", LAYERS[1:], runs=(f.SHORT_32, f.MIDDLE_32)),
    "products in TF32, in TensorFlow": precision(
        TANH, wrongs.products("tf32"), "forward", LAYERS[1:], side="tensorflow"),
    "products in float16 whatever the precision": precision(
        MLP, wrongs.products("float16", of=ANY), "forward", LAYERS[1:], runs=(f.SHORT_32, f.SHORT_64, f.MIDDLE_64)),
    "products in bfloat16 whatever the precision, in TensorFlow": precision(
        MLP, wrongs.products("bfloat16", of=ANY), "forward", LAYERS[1:], side="tensorflow",
        runs=(f.SHORT_32, f.SHORT_64)),
    "an activation in float32 whatever the precision": precision(
        TANH, activation_in("float32"), "forward", ("activation1",), runs=(f.SHORT_32, f.SHORT_64)),
    "an activation in float32 whatever the precision, in TensorFlow": precision(
        TANH, activation_in("float32"), "forward", ("activation1",), side="tensorflow",
        runs=(f.SHORT_32, f.MIDDLE_64)),
    "a running sum over the batch in bfloat16": precision(
        MSE, running_sum("bfloat16"), "loss", ("loss",), runs=(f.SHORT_32,)),
    "a running sum over the batch in TF32": precision(
        MSE, running_sum("tf32"), "loss", ("loss",), runs=(f.SHORT_32, f.MIDDLE_32)),
    "a running sum in bfloat16 whatever the precision, in TensorFlow": precision(
        MSE, running_sum("bfloat16", of=ANY), "loss", ("loss",), side="tensorflow", runs=(f.SHORT_32, f.SHORT_64)),
    "errors of a loss in bfloat16 whatever the precision": precision(
        MSE, mean_in("bfloat16"), "loss", ("loss",), runs=(f.SHORT_32, f.LONG_64)),
    "two halves reduced in bfloat16": precision(
        ACCUMULATE, wrongs.gradients(narrowed("bfloat16")), "gradients", GRADIENT, runs=(f.SHORT_32, f.MIDDLE_32)),
    "two halves reduced in TF32, in TensorFlow": precision(
        ACCUMULATE, wrongs.gradients(narrowed("tf32")), "gradients", GRADIENT, side="tensorflow"),
    "one element of 100,000 in bfloat16": precision(
        WIDE, wrongs.gradients(one_element("bfloat16")), "gradients", ("layer1.w",), runs=(f.SHORT_32,)),
    "one element of 100,000 in TF32": precision(
        WIDE, wrongs.gradients(one_element("tf32")), "gradients", ("layer1.w",), runs=(f.SHORT_32,)),
    "every seventh batch in bfloat16": precision(
        MLP, wrongs.gradients(narrowed("bfloat16"), when=wrongs.every(7)), "trajectory", GRADIENT, 7,
        runs=(f.MIDDLE_32, f.LONG_32)),
    "every seventh batch in TF32, in TensorFlow": precision(
        MLP, wrongs.gradients(narrowed("tf32"), when=wrongs.every(7)), "trajectory", GRADIENT, 7,
        side="tensorflow", runs=(f.MIDDLE_32,)),
    "products in bfloat16 from step 40 on": precision(
        MLP, wrongs.products("bfloat16", when=wrongs.since(40)), "trajectory", ("loss",), 40,
        runs=(f.MIDDLE_32, f.LONG_32)),
    "gradients in TF32 in chaos": precision(
        MLP, wrongs.gradients(narrowed("tf32"), when=wrongs.since(30)), "trajectory", GRADIENT, 30, runs=(CHAOS,)),
    "gradients in bfloat16 late in chaos": precision(
        MLP, wrongs.gradients(narrowed("bfloat16"), when=wrongs.only(1200)), "trajectory", GRADIENT, 1200,
        runs=(LONG_CHAOS,)),
    "an update from bfloat16": precision(
        MLP, rule_in("bfloat16"), "update", (*HIDDEN, *SLOTS), runs=(f.SHORT_32, f.MIDDLE_32)),
    "an update from bfloat16 whatever the precision, in TensorFlow": precision(
        MLP, rule_in("bfloat16", of=ANY), "update", (*HIDDEN, *SLOTS), side="tensorflow",
        runs=(f.SHORT_32, f.SHORT_64)),
    "an update from float32 in every third step of float64": precision(
        MLP, rule_in("float32", of=("float64",), when=wrongs.every(3)), "trajectory", (*HIDDEN, *SLOTS), 3,
        runs=(f.SHORT_64, f.MIDDLE_64)),
}  # fmt: skip


@pytest.mark.parametrize(("fault", "run"), f.cases(FAULTS))
def test_coarse_arithmetic_is_named(monkeypatch, fault, run):
    f.check(fault, run, monkeypatch)
