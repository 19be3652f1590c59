"""What does not fit together is known before training, in one line."""

from __future__ import annotations

import re

import numpy as np
import pairs
import pytest

from pipeline import backends
from pipeline.config.types import ConfigError
from pipeline.jobs.resolve import resolve

ROWS = ("data=digits", "data.layout=rows", "loss=cross_entropy")
IMAGES = ("data=digits", "data.layout=image", "loss=cross_entropy")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("data=diabetes", "loss=cross_entropy", "model=softmax"),
         "loss.name=cross_entropy: data=diabetes has continuous targets; use huber or mae or mse"),
        (("data=wine", "model=softmax"), "loss.name=mse: data=wine has 3 classes; use cross_entropy"),
        (("data=wine", "model=softmax", "loss=bce"),
         "loss.name=bce: data=wine has 3 classes; use cross_entropy"),
        ((*IMAGES, "model=rnn"), "model.name=rnn: takes rows (times, features), not samples of shape "
         "(8, 8, 1); digits come so with data.layout=rows"),
        ((*ROWS, "model=cnn"), "model.name=cnn: takes images (height, width, colours), not samples of "
         "shape (8, 8); digits come so with data.layout=image"),
        ((*IMAGES, "model=mlp"), "model.name=mlp: takes vectors, not samples of shape (8, 8, 1)"),
        ((*IMAGES, "model=cnn", "model.kernel=9", "model.padding=valid"),
         "model.channels=[16, 32]: images of (8, 8, 1) are gone after 1 blocks"),
        ((*ROWS, "model=attention", "model.heads=5"), "model.heads=5: must divide model.width=32"),
        (("train.batch=201",), "train.batch=201: the training set has 200 samples"),
        (("data=wine", "model=mlp", "model.norm=batch", "loss=cross_entropy", "train.batch=41"),
         "train.batch=41: leaves a batch of one of 124 samples, which model.norm=batch cannot take"),
        (("data=wine", "model=mlp", "model.norm=batch", "loss=cross_entropy", "train.batch=1"),
         "train.batch=1: leaves a batch of one of 124 samples, which model.norm=batch cannot take"),
        (("train.evaluate_every=1",), "train.evaluate_every=1: data=linear has no validation set here; null asks for no score"),
        (("data=wine", "data.validation=0", "model=softmax", "loss=cross_entropy", "train=minibatch"),
         "train.evaluate_every=1: data=wine has no validation set here; data.validation makes one"),
        (("data=sine", "model=mlp", "train.evaluate_every=1", "train.monitor=accuracy"),
         "train.monitor=accuracy: data=sine is scored by mse, mae, r2"),
        (("train.patience=3",), "train.patience=3: needs train.evaluate_every"),
        (("data.noise=1e300",), "backend.dtype=float32: cannot hold *, which is in y_train of data=linear"),
        (("data.m=1e308", "backend.dtype=float64"),
         "backend.dtype=float64: cannot hold *inf, which is in y_train of data=linear"),
        (("data.low=-1e308", "data.high=1e308"),
         "data.low=-1e+308: must be below data.high=1e+308, and not infinitely"),
        (("schedule=exponential", "schedule.factor=10"),
         "schedule.name=exponential: makes the rate infinite within 500 updates"),
        (("schedule=step", "schedule.factor=10", "schedule.every=1", "optimizer.lr=1e200"),
         "schedule.name=step: makes the rate infinite within 500 updates"),
        (("optimizer.accumulate=2",),
         "optimizer.accumulate=2: an epoch has 1 batch, and no update spans two"),
        (("train.batch=64", "optimizer.accumulate=5"),
         "optimizer.accumulate=5: an epoch has 4 batches, and no update spans two"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(overrides, says):
    with pytest.raises(ConfigError) as caught:
        resolve(pairs.composed(overrides))
    assert re.fullmatch(re.escape(says).replace(r"\*", r"[-0-9.e+]*"), str(caught.value))


@pytest.mark.parametrize(("backend", "loop"), [("torch", "native"), ("tensorflow", "fit")])
def test_a_loop_of_the_framework_needs_an_optimizer_of_the_framework(monkeypatch, backend, loop):
    overrides = (f"backend={backend}", f"train.loop={loop}", "optimizer=adam")
    resolve(pairs.composed(overrides))
    monkeypatch.setitem(backends.traits(backend), "NATIVE", ("gd",))
    with pytest.raises(ConfigError) as refused:
        resolve(pairs.composed(overrides))
    assert str(refused.value) == (
        f"train.loop={loop}: no optimizer of the framework is known for optimizer=adam; use manual"
    )


def test_a_schedule_may_grow_as_long_as_it_stays_a_number():
    """500 updates in groups of 4 batches: what counts is updates, not batches."""
    grows = ("schedule=exponential", "schedule.factor=10", "train.batch=50", "train.epochs=100")
    with pytest.raises(ConfigError, match=r"within 400 updates"):
        resolve(pairs.composed(grows))
    resolve(pairs.composed((*grows, "optimizer.accumulate=4")))


def test_the_full_batch_of_a_streamed_set_is_refused(tmp_path):
    np.save(tmp_path / "t.npy", np.arange(120.0).reshape(40, 3))
    mine = ("data=file", f"data.path={tmp_path}/t.npy", "data.features=[0,1]", "data.target=2",
            "data.source=mmap", "data.block=5", "model=dense")  # fmt: skip
    with pytest.raises(ConfigError, match=r"train\.batch=null: .* not in memory at once"):
        resolve(pairs.composed(mine))
    resolve(pairs.composed((*mine, "train.batch=4")))


def test_a_sample_alone_is_refused_where_it_is_normalised_alone_and_only_there():
    """PyTorch's own layer raises on such a batch, in the midst of an epoch."""
    wine = ("data=wine", "model=mlp", "loss=cross_entropy")  # 124 training samples
    for fine in (("model.norm=batch", "train.batch=40"), ("model.norm=batch", "train.batch=124"),
                 ("model.norm=batch",), ("model.norm=layer", "train.batch=41"),
                 ("train.batch=1",)):  # fmt: skip
        resolve(pairs.composed((*wine, *fine)))
