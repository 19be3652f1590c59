"""The probe trains a pair again: what it measures counts for runs that come out again alone."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

from pipeline import report
from pipeline.record import RunRecord

torch = pytest.importorskip("torch")

SMALL = ("data=digits", "data.test=0.75", "train=minibatch", "train.batch=64", "train.epochs=1",
         "loss=cross_entropy", "model=mlp", "model.widths=[8]", "model.init=shared", "optimizer=adam",
         "optimizer.lr=1e-3")  # fmt: skip


@pytest.fixture(scope="module")
def pair(parity):
    return tuple(parity.recorded(f"backend={name}", *SMALL) for name in ("numpy", "torch"))


CHANGES = {
    "a parameter": ("param/layer1.w", 3), "a gradient": ("grad/out.w", 2), "a slot": ("slot/v/out.b", 4),
    "a loss": ("loss", 2), "an activation": ("layer/layer1", 3), "a prediction": ("prediction", 7),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("side", [0, 1])
def test_a_record_that_does_not_come_out_again_is_not_judged(parity, pair, what, side):
    """One row changed: forced steps and float64 agree still, and a floor from it hides it."""
    key, row = CHANGES[what]
    arrays = dict(pair[side].arrays)
    arrays[key] = arrays[key].copy()
    arrays[key][row] *= np.float32(1.5)
    other = RunRecord(about=copy.deepcopy(pair[side].about), arrays=arrays)
    records = [other, pair[1]] if side == 0 else [pair[0], other]
    found = parity.ladder(*records)
    parity.show(found)
    assert found.verdict == "ABSTAIN"
    whys = [rung.why for rung in found.rungs if rung.verdict == "ABSTAIN"]
    assert whys
    said = f"{other.backend} does not come out again as it was recorded"
    assert all(said in why and ("parameter" in what or key in why) for why in whys)


def test_a_port_that_was_mended_after_the_run_is_not_passed(parity, pair, monkeypatch):
    """What is probed is the right port, what was recorded the wrong one."""
    from pipeline.models.mlp import torch as twin

    with monkeypatch.context() as wrong:
        wrong.setitem(twin.ACTIVATIONS, "relu", torch.nn.functional.gelu)
        b = parity.recorded("backend=torch", *SMALL)
    found = parity.ladder(pair[0], b)
    parity.show(found)
    assert found.verdict == "ABSTAIN"
    assert any("does not come out again" in rung.why for rung in found.rungs)


def test_runs_of_different_length_can_be_probed(parity):
    """Early stopping may end one before the other; what both did is judged, and does not pass."""
    longer = (*SMALL, "train.epochs=2")
    a, b = (parity.recorded(f"backend={name}", *longer) for name in ("numpy", "torch"))
    half, short = a.steps // 2, RunRecord(about=b.about)
    stepwise = ("loss", "lr", "grad_norm", "grad", "slot", "order", "param")
    for key, rows in b.arrays.items():
        if key.split("/")[0] in stepwise:
            short.arrays[key] = rows[: half + key.startswith("param")]
        elif key != "prediction":
            short.arrays[key] = rows
    for one, other in ((a, short), (short, a)):
        found = parity.ladder(one, other)
        parity.show(found)
        assert found.verdict == "ABSTAIN"
        assert any(f"{half} steps" in rung.why or f"{half} and" in rung.why for rung in found.rungs)


def test_float64_shrinks_rounding_and_leaves_meaning(parity, pair, monkeypatch):
    from pipeline.backends import torch as side

    right = parity.ladder(*pair, prove=True).facts["prove"]
    assert right["native"] < 1e-6
    assert 1e6 < right["ratio"] < 1e12
    original = side.train
    monkeypatch.setattr(
        side, "train", lambda *a, update, **k: original(*a, update=epsilon(update), **k)
    )
    wrong = parity.recorded("backend=torch", *SMALL)
    found = parity.ladder(pair[0], wrong, prove=True)
    assert (found.verdict, found.finding.rung) == ("FAIL", "update")
    assert found.facts["prove"]["ratio"] == pytest.approx(1, rel=0.01)


def epsilon(update):
    return dataclasses.replace(update, settings=update.settings | {"epsilon": 1e-6})


def test_gradients_are_held_against_differences_and_those_by_hand(parity, pair, monkeypatch):
    right = parity.ladder(*pair, gradcheck=True)
    for checked in right.facts["gradcheck"].values():
        assert checked["largest"] < 1e-7
        assert max(checked["hand-derived"].values()) < 1e-14
        assert set(checked["central differences"]) == set(pair[0].named("grad"))
    from pipeline.models.mlp import torch as twin

    def wrong(x):
        """The right value with nine tenths of its derivative."""
        value = torch.relu(x)
        return value.detach() + 0.9 * (value - value.detach())

    monkeypatch.setitem(twin.ACTIVATIONS, "relu", wrong)
    b = parity.recorded("backend=torch", *SMALL)
    found = parity.ladder(pair[0], b, gradcheck=True)
    assert (found.verdict, found.finding.rung) == ("FAIL", "gradients")
    checked = found.facts["gradcheck"]
    assert checked["a"]["largest"] < 1e-7
    assert checked["b"]["central differences"]["layer1.w"] > 1e-3
    assert checked["b"]["central differences"]["out.w"] < 1e-7
    assert "Gradients of torch: no derivative of the loss" in "".join(report.beside(found))
