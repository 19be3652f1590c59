"""The probe trains a pair again: what it measures counts for runs that come out again alone."""

from __future__ import annotations

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.parity.evidence import DRAWS, Evidence, Suspect
from pipeline.parity.ladder import judge
from pipeline.parity.quantity import Quantity
from pipeline.probe import opinion, reference
from pipeline.probe.forced import leave_range, measure_rows, widen_gradients
from pipeline.record.record import RunRecord
from pipeline.report.sentences import tell_beside
from pipeline.stages import probe

torch = pytest.importorskip("torch")

SMALL = ("data=digits", "data.test=0.75", "train=minibatch", "train.batch=64", "train.epochs=1",
         "loss=cross_entropy", "model=mlp", "model.widths=[8]", "model.init=shared", "optimizer=adam",
         "optimizer.lr=1e-3")  # fmt: skip


@pytest.fixture(scope="module")
def pair(parity):
    return tuple(parity.recorded(f"backend={name}", *SMALL) for name in ("numpy", "torch"))


CHANGES = {
    "a parameter": ("param/layer1.w", 3, "parameter/layer1.w at step 3"),
    "a gradient": ("grad/out.w", 2, "gradient/out.w at step 3"),
    "a slot": ("slot/v/out.b", 4, "slot/v/out.b at step 5"),
    "a loss": ("loss", 2, "loss/loss at step 3"),
    "an activation": ("layer/layer1", 3, "activation/layer1"),
    "a prediction": ("prediction", 7, "prediction/prediction"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("side", [0, 1])
def test_a_record_that_does_not_come_out_again_is_not_judged(parity, pair, what, side):
    """One row changed: forced steps and float64 agree still."""
    key, row, place = CHANGES[what]
    arrays = dict(pair[side].arrays)
    arrays[key] = arrays[key].copy()
    arrays[key][row] *= np.float32(1.5)
    other = RunRecord(about=copy.deepcopy(pair[side].about), arrays=arrays)
    records = [other, pair[1]] if side == 0 else [pair[0], other]
    found = parity.ladder(*records)
    parity.show(found)
    assert found.verdict == "ABSTAIN"
    whys = [rung.why for rung in found.rungs if rung.verdict == "ABSTAIN"]
    said = f"{other.backend} does not come out again as it was recorded ({place})"
    assert whys
    assert all(said in why for why in whys)


def test_runs_that_come_out_again_differ_by_rounding(parity, pair):
    found = parity.ladder(*pair)
    parity.show(found)
    assert (found.verdict, found.suspects) == ("PASS", ())
    assert {rung.by for rung in found.rungs} == {"bits", "rounding"}
    largest = [max(rung.tensors.values(), default=0.0) for rung in found.rungs]
    assert max(largest) < 1
    assert max(largest) > 1e-6  # something was measured


def test_a_port_that_was_mended_after_the_run_is_not_passed(parity, pair, monkeypatch):
    """What is probed is the right port, what was recorded the wrong one."""
    from pipeline.pairs.builtin.mlp import torch as twin

    with monkeypatch.context() as wrong:
        wrong.setitem(twin.ACTIVATIONS, "relu", torch.nn.functional.gelu)
        b = parity.recorded("backend=torch", *SMALL)
    found = parity.ladder(pair[0], b)
    parity.show(found)
    assert found.verdict == "ABSTAIN"
    assert any("does not come out again" in rung.why for rung in found.rungs)


@pytest.fixture(scope="module")
def longer(parity):
    return parity.recorded("backend=numpy", *SMALL, "train.epochs=2")


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("status", "verdict"), [("KILLED", "PASS"), ("FINISHED", "FAIL")])
def test_of_runs_of_different_length_the_common_steps_are_judged(
    parity, pair, longer, status, verdict, turned
):
    """One ended after its first epoch: its record says why, or nothing does."""
    about = copy.deepcopy(pair[1].about) | {"status": status}
    about["config"]["train"]["epochs"] = 2
    short = RunRecord(about=about, arrays=dict(pair[1].arrays))
    found = parity.ladder(short, longer) if turned else parity.ladder(longer, short)
    parity.show(found)
    assert found.verdict == verdict
    if verdict == "FAIL":
        assert found.kind == "data"
        assert f"torch made {short.steps} of {longer.steps} steps, and nothing" in found.sentence()
    else:
        assert any(f"torch was stopped after step {short.steps}" in note for note in found.notes)
        assert found.rung("trajectory").by == "rounding"


def test_a_fault_in_the_common_steps_is_found(parity, pair, longer, monkeypatch):
    with_epsilon(monkeypatch)
    short = parity.recorded("backend=torch", *SMALL)
    short.about = copy.deepcopy(short.about) | {"status": "KILLED"}
    short.about["config"]["train"]["epochs"] = 2
    found = parity.ladder(longer, short)
    assert (found.kind, found.finding.rung) == ("meaning", "update")


def test_float64_shrinks_rounding_and_leaves_meaning(parity, pair, monkeypatch):
    right = parity.ladder(*pair, prove=True).facts["prove"]
    assert right["native"] < 1e-6
    assert 1e6 < right["ratio"] < 1e12
    with_epsilon(monkeypatch)
    wrong = parity.recorded("backend=torch", *SMALL)
    found = parity.ladder(pair[0], wrong, prove=True)
    assert (found.kind, found.finding.rung) == ("meaning", "update")
    assert found.facts["prove"]["ratio"] == pytest.approx(1, rel=0.01)


def with_epsilon(monkeypatch):
    """Give torch's optimizer another epsilon, in the run and in every step made again."""
    from wrongs import WrongSide

    side = WrongSide("torch", monkeypatch)

    def other(function):
        def call(*args, update, **more):
            update = dataclasses.replace(update, settings=update.settings | {"epsilon": 1e-6})
            return function(*args, update=update, **more)

        return call

    for name in ("train", "stepper"):
        side.set(name, other(side.get(name)))


def test_gradients_are_held_against_differences_and_those_by_hand(parity, pair, monkeypatch):
    right = parity.ladder(*pair, gradcheck=True)
    for checked in right.facts["gradcheck"].values():
        assert checked["largest"] < 1e-7
        assert max(checked["hand-derived"].values()) < 1e-14
        assert set(checked["central differences"]) == set(pair[0].named("grad"))
    from pipeline.pairs.builtin.mlp import torch as twin

    def wrong(x):
        """The right value with nine tenths of its derivative."""
        value = torch.relu(x)
        return value.detach() + 0.9 * (value - value.detach())

    monkeypatch.setitem(twin.ACTIVATIONS, "relu", wrong)
    b = parity.recorded("backend=torch", *SMALL)
    found = parity.ladder(pair[0], b, gradcheck=True)
    assert (found.kind, found.finding.rung, found.finding.tensor) == (
        "meaning",
        "gradients",
        "layer1.b",
    )
    checked = found.facts["gradcheck"]
    assert checked["a"]["largest"] < 1e-7
    assert checked["b"]["central differences"]["layer1.w"] > 1e-3
    assert checked["b"]["central differences"]["out.w"] < 1e-7
    assert "Gradients of torch: no derivative of the loss" in "".join(tell_beside(found))


@pytest.fixture
def kept(pair, monkeypatch, tmp_path):
    """The evidence of the pair, measured once and kept in a folder of this test."""
    monkeypatch.setattr("pipeline.stages.probe.EVIDENCE", tmp_path)
    probe.probe_and_save(*pair)
    return pair


def test_what_was_measured_is_found_again(parity, kept):
    found = probe.find_evidence(*kept)
    measured = parity.probe_pair(*kept)
    assert set(found.arrays) == set(measured.arrays)
    assert all(np.array_equal(found.arrays[key], rows) for key, rows in measured.arrays.items())
    assert judge(*kept, evidence=found).verdict == "PASS"
    assert probe.find_evidence(kept[1], kept[0]) is None  # of the other pair nothing was kept


def test_evidence_of_another_method_is_none(kept, monkeypatch):
    monkeypatch.setattr(probe, "METHOD", probe.METHOD + 1)
    assert probe.find_evidence(*kept) is None


@pytest.mark.parametrize("asked", ["prove", "gradcheck"])
def test_evidence_that_lacks_what_is_asked_is_none(kept, asked):
    assert probe.find_evidence(*kept, **{asked: True}) is None
    probe.probe_and_save(*kept, **{asked: True})
    assert asked in probe.find_evidence(*kept, **{asked: True}).about
    assert probe.find_evidence(*kept) is not None  # more than is asked is enough


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("what", ["array", "config"])
def test_evidence_of_a_record_that_was_changed_is_none(kept, what, side):
    records = list(kept)
    about, arrays = copy.deepcopy(records[side].about), dict(records[side].arrays)
    if what == "array":
        arrays["loss"] = np.nextafter(arrays["loss"], np.float32(0))
    else:
        about["config"]["optimizer"]["lr"] = 2e-3
    records[side] = RunRecord(about=about, arrays=arrays)
    assert probe.find_evidence(*records) is None


def test_evidence_of_other_code_is_none(kept, monkeypatch):
    monkeypatch.setattr("pipeline.identity.code_digest", lambda: "other")
    assert probe.find_evidence(*kept) is None


def test_evidence_that_was_altered_or_cut_short_is_none(kept):
    folder = probe.evidence_folder(*kept)
    file = next(folder.glob("apart/a/**/*.npy"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert probe.find_evidence(*kept) is None
    file.write_bytes(whole)
    assert probe.find_evidence(*kept) is not None
    (folder / "record.json").unlink()
    assert probe.find_evidence(*kept) is None


def test_seconds_of_a_run_are_no_part_of_what_it_was(kept):
    records = [
        RunRecord(about=r.about, arrays=r.arrays | {"seconds": np.ones(r.steps)}) for r in kept
    ]
    assert probe.find_evidence(*records) is not None


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["a", "b"])
def test_the_size_of_what_one_side_lost_is_the_others(side, value):
    four = {(s, d): np.ones((2, 4), d) for s in "ab" for d in ("float32", "float64")}
    for dtype in ("float32", "float64"):
        four[side, dtype][1, 2] = value
    for begin in (None, np.zeros((2, 4))):
        rows = measure_rows(four, native="float32", begin=begin)
        assert rows["size"] == pytest.approx(np.array([[2.0, 1.0]] * 2))
        assert list(rows["lonely"]) == [False, True]
        assert not rows["diverged"].any()
        assert not np.isfinite(rows["apart"][1]).any()
    four = {key: np.full((1, 4), value, key[1]) for key in four}
    rows = measure_rows(four, native="float32")
    assert (list(rows["lonely"]), list(rows["diverged"])) == ([False], [True])
    assert rows["apart"].tolist() == [[0, 0]]


def test_after_both_left_the_range_a_dead_unit_may_be_nan_or_0():
    grad = {(s, d): np.ones((2, 4), d) for s in "ab" for d in ("float32", "float64")}
    loss = {key: np.ones(2, key[1]) for key in grad}
    for key in grad:
        loss[key][1] = np.inf
        grad[key][1, 0] = np.nan if key[0] == "a" else 0.0  # 0·inf, multiplied or selected
    outcomes = {key: {"loss": loss[key], "grad/w": grad[key]} for key in grad}
    out_of_range = leave_range(outcomes, native="float32")
    assert list(out_of_range) == [False, True]
    rows = measure_rows(grad, native="float32", out_of_range=out_of_range)
    assert not rows["lonely"].any()
    assert (rows["apart"] == 0).all()
    for key in grad:
        grad[key][:, 3] += key[0] == "b"  # what is finite is compared still
    rows = measure_rows(grad, native="float32", out_of_range=out_of_range)
    assert (rows["apart"] == 1).all()
    for key in grad:  # one side alone out of range excuses nothing
        loss[key][1] = np.inf if key[0] == "a" else 1.0
    assert not leave_range(outcomes, native="float32").any()


def test_the_size_of_all_gradients_does_not_overflow():
    rows = {"size": np.full((1, 2), 1e200)}
    widen_gradients({Quantity("gradient", "w"): rows, Quantity("gradient", "b"): rows})
    assert (rows["size"] == 1e200).all()


class Jumping:
    """A quantity that jumps where roundings reach 5 of float32's, as a relu beside its kink does."""

    def __init__(self):
        self.calls = 0

    def moved(self, quantity, start, rng, unit):
        self.calls += 1
        reached = rng.integers(-1, 2) * unit >= 5 * opinion.ROUNDING["float32"]
        return np.array([1.04 if reached else 1.0])


@pytest.mark.parametrize(("terms", "reaches"), [(144, True), (16, False)])
def test_at_a_kink_draws_reach_as_far_as_a_sum_is_off(monkeypatch, terms, reaches):
    nearest, unavoidable, calls = draw_of(monkeypatch, "precision", side="b", terms=terms)
    assert (nearest <= 1) == reaches
    assert calls["a"] == DRAWS < calls["b"] <= 2 * DRAWS
    assert unavoidable.tolist() == [0, 0]  # by single roundings alone


def test_a_difference_of_meaning_is_drawn_by_single_roundings(monkeypatch):
    _, _, calls = draw_of(monkeypatch, "meaning", side="", terms=10**6)
    assert calls == {"a": DRAWS, "b": DRAWS}


def draw_of(monkeypatch, test, *, side, terms):
    """The draws of a suspect whose side b jumped in float32: nearest, unavoidable, calls by side."""
    suspect = Suspect(test, side, "a", Quantity("gradient", "w"), 1)
    monkeypatch.setattr(opinion, "start_of", lambda *given: None)
    monkeypatch.setattr(opinion, "_bound", lambda *given: np.array([1e-4, 1e-4]))
    evidence = Evidence(RunRecord(about={"terms": {"sample": terms}, "opinions": []}))
    for name, value in (("a32", 1.0), ("a64", 1.0), ("b32", 1.04), ("b64", 1.0)):
        evidence.arrays[f"vector/{name}/a/1/{suspect.quantity.key}"] = np.array([value])
    sides = {"a": SimpleNamespace(job=SimpleNamespace(settings=SimpleNamespace(seed=0)))}
    drawing = {"a": Jumping(), "b": Jumping()}
    nearest, unavoidable = opinion._draw(sides, evidence, suspect, drawing)
    return nearest, unavoidable, {name: each.calls for name, each in drawing.items()}


def test_a_start_of_zeros_on_both_sides_is_at_no_distance():
    """The pair `softmax` starts so; the largest distance over its steps was NaN."""
    rows = np.array([[0.0], [1.0], [2.0]])
    records = [RunRecord(about={}, arrays={"param/w": rows * factor}) for factor in (1.0, 1.5)]
    assert 0 < reference._largest_distance(records) <= 0.5
    assert reference._largest_distance([records[0]] * 2) == 0.0
