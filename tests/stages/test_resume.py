"""A training that was interrupted goes on to the same bits, in every backend."""

from __future__ import annotations

import numpy as np
import pairs
import pytest
from tiers import tiered

from pipeline.pairs.registry import find_pair
from pipeline.record import checkpoint
from pipeline.record.record import RunRecord

BASE = ("train=minibatch", "train.epochs=5", "train.batch=16")
MLP = (*BASE, "data=wine", "model=mlp", "loss=cross_entropy", "model.widths=[6,5]", "model.dropout=0.3",
       "model.norm=batch")  # fmt: skip
CASES = {
    "mlp adam": (*MLP, "optimizer=adam", "schedule=cosine"),
    "mlp adadelta accumulated": (*MLP, "optimizer=adadelta", "optimizer.accumulate=2"),
    "linear, full batch": ("data=linear", "data.n=30", "model=linear", "train.epochs=5",
                           "optimizer=momentum"),
    "softmax float64": (*BASE, "data=wine", "model=softmax", "loss=cross_entropy", "backend.dtype=float64",
                        "optimizer=nesterov"),
    "rnn": (*BASE, "data=digits", "data.layout=rows", "data.test=0.9", "data.validation=0.05",
            "model=rnn", "model.width=4", "loss=cross_entropy", "optimizer=rmsprop"),
}  # fmt: skip
RUNS = [(name, backend) for name, case in CASES.items()
        for backend in find_pair(next(w[6:] for w in case if w.startswith("model="))).backends]  # fmt: skip


class StoppedError(Exception):
    """What interrupts a training."""


class Keep:
    """Writes a checkpoint after each epoch, and breaks off after one of them."""

    def __init__(self, folder, last=None):
        self.folder, self.last = folder, last

    def due(self):
        return True

    def save(self, *, epoch, counted, **what):
        about = {"counted": counted}
        checkpoint.save(self.folder, epoch=epoch, about=about, **what)
        if epoch == self.last:
            raise StoppedError


@pytest.mark.parametrize(
    ("name", "backend", "last"),
    tiered(
        ((*run, last) for run in RUNS for last in (1, 3)),
        short=lambda number, _: number % 6 in (0, 5),
    ),
)
def test_resumed_is_uninterrupted_bit_by_bit(tmp_path, name, backend, last):
    overrides = (f"backend={backend}", *CASES[name])
    has_val = "data=linear" not in overrides
    stage = {"evaluate_every": 1 if has_val else None}
    whole = pairs.recorded(*overrides, **stage)
    with pytest.raises(StoppedError):
        pairs.recorded(*overrides, keep=Keep(tmp_path, last), **stage)
    found = checkpoint.load(tmp_path)
    assert found.epoch == last
    resumed = pairs.recorded(*overrides, keep=Keep(tmp_path), resume=found, **stage)
    assert list(resumed.arrays) == list(whole.arrays)
    for key in set(whole.arrays) - {"seconds"}:
        one, other = whole.arrays[key], resumed.arrays[key]
        assert (one.dtype, one.shape) == (other.dtype, other.shape), key
        np.testing.assert_array_equal(one, other, err_msg=key)
    assert len(resumed.arrays["seconds"]) == whole.steps
    assert resumed.about.get("best") == whole.about.get("best")
    again = checkpoint.load(tmp_path)  # written by the resumed one
    assert (again.epoch, len(again.rows["loss"])) == (4, whole.steps * 4 // 5)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_resumed_trace_of_scalars_has_every_norm_and_checksum_once(tmp_path, backend):
    overrides = (f"backend={backend}", *CASES["mlp adam"])
    whole = pairs.recorded(*overrides, full=False, evaluate_every=2, patience=9)
    with pytest.raises(StoppedError):
        pairs.recorded(*overrides, keep=Keep(tmp_path, 3), full=False, evaluate_every=2, patience=9)
    record = RunRecord(about={})
    pairs.recorded(*overrides, resume=checkpoint.load(tmp_path), full=False, evaluate_every=2,
                   patience=9, into=record)  # fmt: skip
    for key in set(whole.arrays) - {"seconds"}:
        np.testing.assert_array_equal(whole.arrays[key], record.arrays[key], err_msg=key)
    assert record.arrays["check/step"].tolist() == whole.arrays["check/step"].tolist()
