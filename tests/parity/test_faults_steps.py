"""Faults of some steps, between two steps, and of the samples that a side takes."""

from __future__ import annotations

import faults as f
import numpy as np
import pytest
import wrongs
from faults import HIDDEN, MLP, NORM, PER_EPOCH, Fault

pytest.importorskip("torch")
pytest.importorskip("tensorflow")

GD = (*MLP, "optimizer=gd")
SCORED = (*NORM, "train.evaluate_every=1")
W = ("layer1.w", "layer2.w", "out.w")
SLOT = tuple(f"{n} (slot {s})" for n in HIDDEN for s in "mv")
DIVERGING = f.Run(80.0, "float32", 60)


def shares(change):
    """What a batch counts for: a factor on the loss by the batch's own size."""

    def mutate(side):
        right = side.get("losses").cross_entropy

        def cross_entropy(z, y, *, ops, smoothing):
            return right(z, y, ops=ops, smoothing=smoothing) * change(int(z.shape[0]))

        wrongs.loss(cross_entropy=cross_entropy)(side)

    return mutate


def no_correction_at(k_wrong):
    def scalars(right, k, lr):
        numbers = right(k, lr)
        return numbers | ({"correction": 1.0} if k == k_wrong else {})

    return wrongs.scalars(scalars)


def skipped(when):
    """A step that a scaler skips: nothing moves."""

    def wrong(right, w, g, slots, *, k, **numbers):
        if not when(k):
            return right(w, g, slots, **numbers)
        kept = w + 0
        _, slots = right(w + 0, g, slots, **numbers)
        w -= w - kept
        return w, slots

    return wrongs.rule(wrong)


def other_gradient(factor, when):
    def change(gradients, update, ops, k):
        return [g * factor for g in gradients] if when(k) else gradients

    return wrongs.clipped(change)


IN_STEPS = {
    "every fifth update a thousandth too large": Fault(
        MLP, wrongs.scaled(1.001, when=wrongs.every(5)), "trajectory", HIDDEN, 5, ratio=1.001,
        runs=(f.SHORT_32, f.MIDDLE_32, f.LONG_64)),
    "every fifth update skipped": Fault(
        MLP, skipped(wrongs.every(5)), "trajectory", HIDDEN, 5, side="tensorflow",
        runs=(f.SHORT_32, f.SHORT_64, f.MIDDLE_64)),
    "the last batch divided by the full size": Fault(
        MLP, shares(lambda n: n / 64), "trajectory", ("loss",), PER_EPOCH, runs=(f.SHORT_32, f.MIDDLE_64)),
    "the last batch divided by the full size, in TensorFlow": Fault(
        MLP, shares(lambda n: n / 64), "trajectory", ("loss",), PER_EPOCH, side="tensorflow",
        runs=(f.SHORT_64,)),
    "no correction at the first step": Fault(
        MLP, no_correction_at(1), "update", ("correction (as used)",), runs=(f.SHORT_32, f.SHORT_64)),
    "the first update halved": Fault(
        GD, wrongs.scaled(0.5, when=wrongs.only(1)), "update", HIDDEN, 1, ratio=0.5, runs=(f.SHORT_32, f.MIDDLE_32)),
    "the last update halved": Fault(
        GD, wrongs.scaled(0.5, when=wrongs.only(5)), "trajectory", HIDDEN, 5, ratio=0.5, runs=(f.SHORT_32, f.SHORT_64)),
    "an update skipped at step 1,000": Fault(
        MLP, skipped(wrongs.only(1000)), "trajectory", HIDDEN, 1000, runs=(f.LONG_32,)),
    "one bias moves by half at step 1,000": Fault(
        MLP, wrongs.scaled(0.5, where=wrongs.is_shaped((10,)), when=wrongs.only(1000)), "trajectory", ("out.b",), 1000,
        ratio=0.5, runs=(f.LONG_32, f.LONG_64)),
    "a gradient a hundredth too large at one step of chaos": Fault(
        MLP, other_gradient(1.01, wrongs.only(50)), "trajectory", (*SLOT, *HIDDEN), 50,
        runs=(f.Run(2e-2, "float32", 60),)),
    "a wrong step of a diverging run": Fault(
        GD, wrongs.scaled(0.999, when=wrongs.only(4)), "trajectory", HIDDEN, 4, runs=(DIVERGING,)),
    "one side alone diverges": Fault(
        GD, wrongs.scaled(1e30, where=wrongs.is_shaped((10,)), when=wrongs.only(3)), "trajectory", ("out.b",), 3,
        runs=(f.SHORT_32,)),
}  # fmt: skip


def slots_anew(side):
    def act(step, k, model, arguments):
        parts, numbers, slots, given = arguments
        if k > 1 and (k - 1) % PER_EPOCH == 0:
            slots = [tuple(s * 0 for s in each) for each in slots]
        return step(parts, numbers, slots, given)

    return act


def start_of_slots(value):
    def make(side):
        def act(step, k, model, arguments):
            parts, numbers, slots, given = arguments
            if k == 1:
                slots = [tuple(s + value for s in each) for each in slots]
            return step(parts, numbers, slots, given)

        return act

    return make


def limit_weights(most):
    def make(side):
        def act(step, k, model, arguments):
            done = step(*arguments)
            if side.name == "torch":
                import torch

                with torch.no_grad():
                    for p in model.parameters():
                        p.clamp_(-most, most)
                return done
            import tensorflow as tf

            value, gradients, changed, slots = done
            changed = [tf.clip_by_value(w, -most, most) for w in changed]
            for p, w in zip(model.trainable_variables, changed, strict=True):
                p.assign(w)
            return value, gradients, changed, slots

        return act

    return make


def limit_after_epoch(most):
    def change(side, model, epoch):
        if side.name == "torch":
            import torch

            with torch.no_grad():
                for p in model.parameters():
                    p.clamp_(-most, most)
        else:
            for p in model.trainable_variables:
                p.assign(np.clip(p.numpy(), -most, most))

    return wrongs.after_epoch(change)


def bias_moves(at_epoch):
    def change(side, model, epoch):
        if epoch == at_epoch:
            wrongs.add_to(side, model.out.bias, 1e-3)

    return wrongs.after_epoch(change)


def moved_by_validation(side):
    right = side.backend.predict

    def predict(model, x):
        if side.name == "torch":
            import torch

            model.train()
            with torch.no_grad():
                model(side.get("to_tensor")(x, next(model.parameters())))
        else:
            model(side.get("to_tensor")(x, model.variables[0]), training=True)
        return right(model, x)

    side.set("predict", predict)


def state(overrides, mutate, rung, tensors, step, **more):
    return Fault(overrides, mutate, rung, tensors, step, kind="state", **more)


STATISTICS = ("norm1.mean", "norm1.variance", "norm2.mean", "norm2.variance")
MOVED = f.Run(1e-3, "float32", 10)
BETWEEN = {
    "slots made anew each epoch": state(
        MLP, wrongs.during_training(slots_anew), "trajectory", SLOT, 6, runs=(MOVED, f.MIDDLE_32, f.MIDDLE_64)),
    "slots made anew each epoch, in TensorFlow": state(
        (*MLP, "optimizer=momentum"), wrongs.during_training(slots_anew), "trajectory",
        tuple(f"{n} (slot v)" for n in HIDDEN), 6, side="tensorflow", runs=(MOVED, f.MIDDLE_32)),
    "slots that start at a tenth": state(
        (*MLP, "optimizer=adagrad"), wrongs.during_training(start_of_slots(0.1)), "update",
        tuple(f"{n} (slot a)" for n in HIDDEN), 1, runs=(f.SHORT_32, f.SHORT_64)),
    "weights limited after each step": state(
        MLP, wrongs.during_training(limit_weights(0.25)), "update", W, 1, runs=(f.SHORT_32, f.MIDDLE_64)),
    "weights limited after each step, in TensorFlow": state(
        MLP, wrongs.during_training(limit_weights(0.25)), "update", W, 1, side="tensorflow",
        runs=(f.SHORT_32, f.SHORT_64)),
    "weights limited after each epoch": state(
        MLP, limit_after_epoch(0.25), "trajectory", ("loss",), 6, runs=(MOVED, f.MIDDLE_32, f.LONG_32, f.LONG_64)),
    "running statistics moved by validation": state(
        SCORED, moved_by_validation, "trajectory", STATISTICS, 6, runs=(MOVED,)),
    "running statistics moved by validation, in TensorFlow": state(
        SCORED, moved_by_validation, "trajectory", STATISTICS, 6, side="tensorflow", runs=(MOVED,)),
    "a bias changed by a callback": state(
        MLP, bias_moves(1), "trajectory", ("out.b",), 6, runs=(MOVED, f.MIDDLE_64)),
    "a bias changed by a callback, in TensorFlow": state(
        MLP, bias_moves(2), "trajectory", ("out.b",), 11, side="tensorflow", runs=(f.MIDDLE_32,)),
    "a bias changed by a callback after the last epoch": state(
        MLP, bias_moves(1), "evaluation", f.ALL, None, runs=(f.SHORT_32, f.SHORT_64)),
}  # fmt: skip


def blocks(change):
    """What a side's batches are cut from, or how."""

    def mutate(side):
        right = side.get("cut_updates")

        class Other:
            def __init__(self, batches):
                self._batches = batches

            def __getattr__(self, name):
                return getattr(self._batches, name)

            def blocks(self, epoch):
                yield from change(self._batches, epoch)

        def updates(batches, epoch, **named):
            return right(Other(batches), epoch, **named)

        side.set("cut_updates", updates)

    return mutate


def once(batches, epoch):
    yield from batches.blocks(1)


def without_rest(batches, epoch):
    for x, y in batches.blocks(epoch):
        whole = len(x) // batches.size * batches.size
        yield x[:whole], y[:whole]


def apart(batches, epoch):
    for x, y in batches.blocks(epoch):
        order = np.random.Generator(np.random.PCG64(epoch)).permutation(len(y))
        yield x, y[order]


def darker(batches, epoch):
    for x, y in batches.blocks(epoch):
        yield x * x.dtype.type(255 / 256), y


def backwards(batches, epoch):
    for x, y in batches.blocks(epoch):
        n = batches.size
        order = np.concatenate([np.arange(len(x))[i : i + n][::-1] for i in range(0, len(x), n)])
        yield x[order], y[order]


def twice(batches, epoch):
    for x, y in batches.blocks(epoch):
        order = np.arange(len(x))
        order[5] = 4
        yield x[order], y[order]


def data(mutate, step, says="", tensor="batches", **more):
    return Fault(MLP, mutate, "data", (tensor,), step, kind="data", says=says, **more)


SAMPLES = {
    "the last batch dropped": data(blocks(without_rest), 5, "lacks the batch", runs=(MOVED, f.MIDDLE_64)),
    "the only epoch's last batch dropped": data(
        blocks(without_rest), 5, "lacks the batch of 13 samples at step 5", runs=(f.SHORT_32, f.SHORT_64)),
    "the last batch dropped, in TensorFlow": data(
        blocks(without_rest), 5, "lacks the batch", side="tensorflow", runs=(MOVED, f.MIDDLE_32)),
    "the order drawn once": data(blocks(once), 6, runs=(MOVED, f.MIDDLE_32, f.LONG_64)),
    "the order drawn once, in TensorFlow": data(blocks(once), 6, side="tensorflow", runs=(MOVED,)),
    "x and y apart": data(blocks(apart), 1, "in y", runs=(f.SHORT_32, f.SHORT_64)),
    "x and y apart, in TensorFlow": data(blocks(apart), 1, "in y", side="tensorflow", runs=(f.MIDDLE_32,)),
    "pixels by 256": data(blocks(darker), 1, "in x", runs=(f.SHORT_32, f.MIDDLE_64)),
    "each batch backwards": data(blocks(backwards), 1, "in another order", "order", runs=(f.SHORT_32, f.LONG_32)),
    "a sample twice": data(blocks(twice), 1, "sample 5 of the batch", runs=(f.SHORT_32, f.SHORT_64)),
}  # fmt: skip

FAULTS = IN_STEPS | BETWEEN | SAMPLES


@pytest.mark.parametrize(("fault", "run"), f.cases(FAULTS))
def test_a_fault_in_or_between_some_steps_is_named(monkeypatch, fault, run):
    f.check(fault, run, monkeypatch)
