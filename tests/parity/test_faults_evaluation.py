"""Faults of evaluation: the mode, the weights, the best epoch, and where training ends."""

from __future__ import annotations

from types import SimpleNamespace

import faults as f
import numpy as np
import pytest
from faults import ALL, MLP, NORM, Fault

from pipeline import metrics
from pipeline.stages import train as stage

pytest.importorskip("torch")
pytest.importorskip("tensorflow")

SCORED = ("train.evaluate_every=1",)
BEST = (*NORM, *SCORED)
STOPS = (*MLP, *SCORED, "train.patience=3", "train.monitor=accuracy")
STATISTICS = ("norm1.mean", "norm1.variance", "norm2.mean", "norm2.variance")
TEN = f.Run(1e-3, "float32", 10)
STEADY = f.Run(1e-3, "float64", 10)


def training_mode(side):
    def predict(model, x):
        if side.name == "torch":
            import torch

            model.train()
            with torch.no_grad():
                return model(side.get("to_tensor")(x, next(model.parameters()))).numpy()
        kept = [v.numpy() for v in model.variables]
        outputs = model(side.get("to_tensor")(x, model.variables[0]), training=True).numpy()
        for v, value in zip(model.variables, kept, strict=True):
            v.assign(value)
        return outputs

    side.set("predict", predict)


def outputs(change, when=lambda rows: True):
    """What comes out in evaluation mode, changed; `when` is told how many samples there are."""

    def mutate(side):
        right = side.backend.predict

        def predict(model, x):
            return change(right(model, x)) if when(len(x)) else right(model, x)

        side.set("predict", predict)

    return mutate


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def narrow(z):
    return (z.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32).astype(z.dtype)


def unbiased_in_evaluation(side):
    """The running variance of n − 1 in evaluation alone."""
    from torch import nn

    right = nn.functional.batch_norm

    def batch_norm(x, mean, variance, *rest, training, **named):
        return right(x, mean, variance * (64 / 63), *rest, training=training, **named)

    side.patch.setattr(nn.functional, "batch_norm", batch_norm)


def other_best(step):
    """Another epoch's weights as the best ones, and scored with them or not."""

    def after(record):
        record.about["best"] = record.about["best"] | {"step": step}
        for name, rows in record.named("param").items():
            record.arrays[f"best/{name}"] = rows[step]

    return lambda side: {"after": after}


def best_weights_of(step):
    """The right number of the best epoch, and another epoch's weights."""

    def after(record):
        for name, rows in record.named("param").items():
            record.arrays[f"best/{name}"] = rows[step]

    return lambda side: {"after": after}


def scored_with_the_last(side):
    """The test set scored with the last weights, where the best ones are asked for."""
    kept = {}
    train, predict = side.backend.train, side.backend.predict

    def training(model, *args, **named):
        kept["model"] = model
        return train(model, *args, **named)

    def predicting(model, x):
        kept["x"] = x
        return predict(model, x)

    side.set("train", training)
    side.set("predict", predicting)
    return {
        "after": lambda record: record.arrays.update(prediction=predict(kept["model"], kept["x"]))
    }


def stage_with(**names):
    """One side's own loop around the backend's: some names of the stage replaced."""

    def mutate(side):
        for name, make in names.items():
            side.patch.setattr(stage, name, make(getattr(stage, name)))

    return mutate


def late_scores(right):
    """The score of the epoch before."""
    kept = {}  # by the model, so that each training begins anew

    def scores(*args, **named):
        own = kept.setdefault(id(args[1]), [args[1]])
        own.append(right(*args, **named))
        return own[max(len(own) - 2, 1)]

    return scores


def scores_of_the_start(right):
    kept = {}  # by the model, so that each training begins anew

    def scores(*args, **named):
        own = kept.setdefault(id(args[1]), [args[1]])
        own.append(right(*args, **named))
        return own[1]

    return scores


def state(overrides, mutate, says="", **more):
    return Fault(overrides, mutate, "evaluation", ALL, None, kind="state", says=says, **more)


def meaning(overrides, mutate, tensors=("prediction", "validation"), **more):
    return Fault(overrides, mutate, "evaluation", tensors, None, **more)


FAULTS = {
    "training mode": meaning(NORM, training_mode, runs=(f.SHORT_32, f.SHORT_64)),
    "training mode, in TensorFlow": meaning(NORM, training_mode, side="tensorflow", runs=(f.SHORT_32, f.MIDDLE_64)),
    "training mode, with a validation set": Fault(
        BEST, training_mode, "trajectory", STATISTICS, 6, kind="state", runs=(TEN,)),
    "the unbiased variance in evaluation alone": meaning(
        NORM, unbiased_in_evaluation, runs=(f.SHORT_32, f.MIDDLE_32, f.LONG_64)),
    "a softmax in evaluation alone": meaning(MLP, outputs(softmax), runs=(f.SHORT_32, f.MIDDLE_64)),
    "outputs in bfloat16": Fault(
        MLP, outputs(narrow), "evaluation", ("prediction",), None, kind="meaning", runs=(f.SHORT_32,)),
    "a softmax for the validation set alone": meaning(
        (*MLP, *SCORED), outputs(softmax, lambda rows: rows < 200), ("validation",), runs=(TEN,)),
    "another epoch is best": state(BEST, other_best(5), "best", runs=(TEN, STEADY)),
    "another epoch is best, in TensorFlow": state(
        BEST, other_best(5), "best", side="tensorflow", runs=(TEN,)),
    "the best epoch's number, another one's weights": state(BEST, best_weights_of(5), runs=(TEN, STEADY)),
    "the lowest accuracy is best": state(
        (*BEST, "train.monitor=accuracy"),
        stage_with(metrics=lambda right: SimpleNamespace(**{**vars(metrics), "HIGHER": ()})), "best",
        runs=(TEN,)),
    "less patience": state(STOPS, lambda side: {"patience": 1}, "stopped", runs=(f.Run(1e-5, "float32", 60),)),
    "more patience": state(STOPS, lambda side: {"patience": 6}, "should have stopped", runs=(f.Run(1e-5, "float32", 60),)),
    "less patience, in TensorFlow": state(
        STOPS, lambda side: {"patience": 2}, "stopped", side="tensorflow", runs=(f.Run(1e-5, "float64", 60),)),
    "validation scored one epoch late": state((*MLP, *SCORED), stage_with(scores=late_scores), runs=(TEN, STEADY)),
    "validation scored with the start": state(
        (*MLP, *SCORED), stage_with(scores=scores_of_the_start), side="tensorflow", runs=(TEN,)),
}  # fmt: skip


@pytest.mark.parametrize(("fault", "run"), f.cases(FAULTS))
def test_a_fault_of_evaluation_is_named(monkeypatch, fault, run):
    f.check(fault, run, monkeypatch)
