"""The ladder on records made by hand: every verdict, every reason, and nothing passed by omission."""

from __future__ import annotations

import json
import zlib

import hand
import numpy as np
import pytest
from hand import STEPS, changed, pair

from pipeline.parity.growth import growth
from pipeline.parity.ladder import judge
from pipeline.parity.verdict import RUNGS, WORST


def by_name(found):
    return {rung.name: rung for rung in found.rungs}


def test_equal_bits_pass_on_every_rung():
    found = judge(*pair())
    assert [rung.name for rung in found.rungs] == list(RUNGS)
    assert {(rung.verdict, rung.by) for rung in found.rungs} == {("PASS", "bits")}
    assert (found.verdict, found.finding, found.growth.kind) == ("PASS", None, "none")
    assert "every bit" in found.sentence()


PLACES = [
    ("first", "init", "param/w", (0, 2, 1), 0, "w", (2, 1)),
    ("layers", "forward", "layer/hidden", (1, 2), 1, "hidden", (1, 2)),
    ("loss", "loss", "loss", (0,), 1, "loss", ()),
    ("gradient", "gradients", "grad/b", (0, 1), 1, "b", (1,)),
    ("slot", "update", "slot/v/w", (0, 0, 1), 1, "w (slot v)", (0, 1)),
    ("weight", "update", "param/w", (1, 1, 1), 1, "w", (1, 1)),
    ("later gradient", "trajectory", "grad/w", (3, 2, 0), 4, "w", (2, 0)),
    ("later weight", "trajectory", "param/b", (5, 0), 5, "b", (0,)),
    ("rate", "trajectory", "lr", (2,), 3, "lr", ()),
    ("prediction", "evaluation", "prediction", (4, 1), None, "prediction", (4, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("what", "rung", "key", "index", "step", "tensor", "place"), PLACES,
                         ids=[place[0] for place in PLACES])  # fmt: skip
def test_a_difference_is_found_where_it_is(what, rung, key, index, step, tensor, place):
    """With a tolerance that everything else keeps, the finding is that one number."""
    a, b = pair()
    changed(b, key, index, 0.25)
    found = judge(a, b, rtol=1e-3, atol=1e-3)
    assert found.verdict == "FAIL"
    finding = found.finding
    assert (finding.rung, finding.step, finding.tensor, finding.index) == (
        rung,
        step,
        tensor,
        place,
    )
    assert finding.b - finding.a == pytest.approx(0.25)
    assert finding.absolute == pytest.approx(0.25)
    assert finding.ulp is None or finding.ulp > 1000  # none across signs
    others = [r for r in found.rungs if r.name != rung and r.verdict != "PASS"]
    assert not [r for r in others if RUNGS.index(r.name) < RUNGS.index(rung)]
    json.dumps(found.to_dict(), allow_nan=False)


def test_without_evidence_it_abstains_and_says_how_to_get_some():
    a, b = pair()
    changed(b, "param/w", (2, 0, 0), 1e-3)
    found = judge(a, b, hint="; run the probe")
    assert found.verdict == "ABSTAIN"
    assert by_name(found)["trajectory"].why.endswith("run the probe")
    assert "cannot be judged" in found.sentence()


def test_a_tolerance_has_numpys_meaning():
    a, b = pair()
    value = float(b.arrays["param/w"][3, 0, 0])
    changed(b, "param/w", (3, 0, 0), np.float32(1e-3))
    gap = abs(float(b.arrays["param/w"][3, 0, 0]) - float(a.arrays["param/w"][3, 0, 0]))
    other = abs(float(b.arrays["param/w"][3, 0, 0]))
    assert value != 0
    assert judge(a, b, atol=gap * 1.001).verdict == "PASS"
    assert judge(a, b, atol=gap * 0.999).verdict == "FAIL"
    assert judge(a, b, rtol=gap / other * 1.001).verdict == "PASS"
    assert judge(a, b, rtol=gap / other * 0.999).verdict == "FAIL"
    assert "given" in by_name(judge(a, b, atol=1.0))["trajectory"].source


def test_beyond_a_tolerance_is_the_element_that_leaves_it():
    """Not the one with the largest difference, which a larger number may allow."""
    a, b = pair()
    a.arrays["grad/w"][2, 0] = b.arrays["grad/w"][2, 0] = (1000.0, 1e-3)
    b.arrays["grad/w"][2, 0] += np.float32((0.5, 1e-4))
    found = judge(a, b, rtol=1e-3)
    assert (found.finding.tensor, found.finding.step, found.finding.index) == ("w", 3, (0, 1))
    assert found.sentence().startswith("The first difference beyond the tolerance is in trajectory")
    assert "tolerance given, |a − b| <= 0 + 0.5·|b|" in judge(a, b, rtol=0.5).sentence()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tolerance", [{}, {"rtol": 1.0, "atol": 1e9}])
def test_what_is_not_finite_on_one_side_only_fails(value, tolerance):
    a, b = pair()
    b.arrays["param/w"][4, 0, 0] = value
    found = judge(a, b, **tolerance)
    assert found.verdict == "FAIL"
    assert (found.finding.tensor, found.finding.step) == ("w", 4)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("other", [np.nan, np.inf])
def test_as_many_at_other_places_fail_too_whatever_float64_says(other):
    a, b = pair()
    a.arrays["param/w"][4, 0, 0] = np.nan
    b.arrays["param/w"][4, 0, 1] = other
    found = judge(a, b)
    assert found.verdict == "FAIL"
    assert (found.finding.tensor, found.finding.step) == ("w", 4)
    for evidence in (hand.evidence(a, b), hand.evidence(*pair())):
        if not np.isnan(evidence.arrays["size/a/parameter/w"]).any():
            for side in "ab":  # what comes out of its own states is finite
                evidence.arrays[f"replay/{side}/parameter/w"][3] = np.nan
        found = judge(a, b, evidence=evidence)
        assert found.verdict in ("FAIL", "ABSTAIN")
        assert found.rung("trajectory").verdict == found.verdict


def test_own_starts_are_not_judged():
    a, b = pair()
    for side in (a, b):
        side.about["config"]["model"]["init"] = "framework"
    assert judge(a, b).verdict == "PASS"  # the same start after all
    changed(b, "param/b", (0, 1), 0.5)
    found = judge(a, b)
    assert [rung.verdict for rung in found.rungs] == ["PASS"] + ["ABSTAIN"] * 7
    assert "its own start" in found.sentence()


def test_what_is_not_finite_on_both_sides_is_named():
    a, b = pair()
    for side in (a, b):
        side.arrays["grad/w"][4, 0, 0] = side.arrays["grad_norm"][4] = np.nan
    found = judge(a, b)
    assert found.verdict == "PASS"
    assert "not finite on both sides: a gradient at step 5" in found.notes
    for side in (a, b):
        side.arrays["param/w"][0, 0, 0] = side.arrays["first/w"][0, 0] = np.inf
    assert "w: not finite on both sides at the same place, step 0" in judge(a, b).notes


def broken(change):
    a, b = pair()
    change(b)
    return judge(a, b)


def drop(*kinds):
    def change(side):
        side.arrays = {k: v for k, v in side.arrays.items() if k.split("/")[0] not in kinds}

    return change


def shorter(side):
    for key in ("loss", "lr", "grad_norm", "grad/w", "grad/b", "slot/v/w", "slot/v/b"):
        side.arrays[key] = side.arrays[key][:-1]
    for key in ("param/w", "param/b"):
        side.arrays[key] = side.arrays[key][:-1]


def without(*keys):
    return lambda side: [side.arrays.pop(key) for key in keys]


def cut(key, rows):
    return lambda side: side.arrays.update({key: side.arrays[key][:rows]})


def other_rate(side):
    """Another rate, and what comes of it: no finding, for nobody said that the two should agree."""
    side.about["config"]["optimizer"].update(lr=0.2)
    side.arrays["lr"] = np.full(STEPS, 0.2)
    side.arrays["param/w"] = side.arrays["param/w"] * np.float32(1.5)


BROKEN = {
    "dtype": (lambda s: s.arrays.update(loss=s.arrays["loss"].astype(np.float64)), "ERROR", "precision"),
    "shape": (lambda s: s.arrays.update({"first/w": np.zeros((2, 3), np.float32)}), "ERROR", "w was kept"),
    "names": (lambda s: s.arrays.update({"first/c": np.zeros(3)}), "ERROR", "other parameters"),
    "model": (lambda s: s.about["config"]["model"].update(name="dense"), "ERROR", "other models"),
    "nothing": (lambda s: s.arrays.clear(), "ERROR", "no step"),
    "length": (shorter, "FAIL", "made 5 of 6 steps"),
    "config": (lambda s: s.about["config"]["optimizer"].update(lr=0.2), "ABSTAIN", "optimizer.lr"),
    "config and all": (other_rate, "ABSTAIN", "optimizer.lr"),
    "rows": (cut("grad/w", 3), "ERROR", "fewer rows of gradient/w"),
    "shape of a step": (lambda s: s.arrays.update({"slot/v/b": s.arrays["slot/v/w"]}), "ERROR", "v/b was kept"),
    "dtype of a step": (lambda s: s.arrays.update({"grad/b": s.arrays["grad/b"].astype(float)}), "ERROR", "b was kept"),
    "shape of a prediction": (cut("prediction", 4), "ERROR", "prediction was kept"),
    "dtype of an activation": (
        lambda s: s.arrays.update({"layer/output": s.arrays["layer/output"].astype(float)}), "FAIL", "float64"),
    "one order": (cut("order/sequence", 4), "ABSTAIN", "4 batches"),
    "one parameter": (without("param/b"), "ABSTAIN", "one side only: parameter/b"),
    "one gradient": (without("grad/b"), "ABSTAIN", "one side only: gradient/b"),
    "one slot": (without("slot/v/b"), "ABSTAIN", "one side only: slot/v/b"),
    "no rate": (without("lr"), "ABSTAIN", "one side only: rate/lr"),
    "no order": (drop("order"), "ABSTAIN", "not recorded"),
    "no activations": (drop("layer"), "ABSTAIN", "no activations"),
    "no gradients": (drop("grad"), "ABSTAIN", "no gradients"),
    "no prediction": (drop("prediction"), "ABSTAIN", "not evaluated"),
    "no parameters": (drop("param", "slot"), "ABSTAIN", "nor checksums"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_nothing_passes_by_omission(what):
    change, verdict, why = BROKEN[what]
    found = broken(change)
    assert found.verdict == verdict
    assert any(why in rung.why for rung in found.rungs if rung.verdict == verdict)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("kinds", [("first", "last"), ("order",)])
def test_what_neither_side_has_was_not_compared(kinds):
    a, b = pair()
    for side in (a, b):
        for key in side.arrays:
            if key.split("/")[0] in kinds:
                side.arrays[key] = side.arrays[key][:0]
    drop("first", "last")(a), drop("first", "last")(b)
    found = judge(a, b)
    assert found.verdict == "ABSTAIN"
    assert by_name(found)["init"].why == "no parameters were recorded"
    assert ("0 and 0 batches" in found.rungs[0].why) == (kinds == ("order",))


def test_a_run_of_one_step_has_no_trajectory_and_says_so():
    a, b = pair()
    for side in (a, b):
        for key, rows in side.arrays.items():
            if len(rows) in (STEPS, STEPS + 1) and not key.startswith(("first", "last")):
                side.arrays[key] = rows[: 2 if key.startswith("param") else 1]
        side.arrays |= {f"last/{name}": side.arrays[f"param/{name}"][-1] for name in "wb"}
    found = judge(a, b)
    trajectory = by_name(found)["trajectory"]
    assert (found.verdict, trajectory.why) == ("PASS", "there is no step after the first")


def test_a_zero_of_another_sign_is_rounding_and_a_denormal_counts():
    a, b = pair()
    for side, value in ((a, 0.0), (b, -0.0)):
        side.arrays["grad/w"][3, 0, 0] = value
    assert judge(a, b).verdict == "ABSTAIN"  # other bits
    assert judge(a, b, atol=0.0).verdict == "PASS"
    found = judge(a, b, evidence=hand.evidence(a, b))
    assert (found.verdict, by_name(found)["trajectory"].by) == ("PASS", "rounding")
    b.arrays["grad/w"][3, 0, 0] = np.float32(1e-45)
    found = judge(a, b, atol=0.0)
    assert (found.finding.tensor, found.finding.ulp, found.finding.step) == ("w", 1, 4)


def checksums(side, other_from=None):
    drop("param", "slot", "grad")(side)
    values = np.arange(3, dtype=np.uint64)
    side.arrays |= {"check/step": np.array([2, 4, 6]), "check/w": values.copy(), "check/b": values}
    if other_from is not None:
        side.arrays["check/w"][other_from:] += np.uint64(1)


def test_checksums_can_tell_bits_and_where_they_end():
    a, b = pair()
    checksums(a)
    checksums(b)
    trajectory = by_name(judge(a, b))["trajectory"]
    assert (trajectory.verdict, trajectory.by) == ("PASS", "bits")
    checksums(b, other_from=1)
    trajectory = by_name(judge(a, b))["trajectory"]
    assert (trajectory.verdict, trajectory.tensor, trajectory.step) == ("ABSTAIN", "w", 4)


def test_a_run_that_kept_its_steps_is_held_against_the_checksums_of_one_that_did_not():
    a, b = pair()
    b.about["config"]["record"] = {"trace": "scalars"}
    kept = {name: b.arrays[f"param/{name}"] for name in "wb"}
    drop("param", "slot", "grad")(b)
    b.arrays["check/step"] = np.array([3, 6])
    for name, rows in kept.items():
        b.arrays[f"check/{name}"] = np.array([zlib.crc32(rows[k].tobytes()) for k in (3, 6)])
    rungs = by_name(judge(a, b))
    assert (rungs["trajectory"].verdict, rungs["trajectory"].by) == ("PASS", "bits")
    assert (rungs["loss"].verdict, rungs["gradients"].verdict) == ("PASS", "ABSTAIN")
    changed(a, "param/w", (6, 1, 1), np.float32(1e-6))
    trajectory = by_name(judge(a, b))["trajectory"]
    assert (trajectory.verdict, trajectory.tensor, trajectory.step) == ("ABSTAIN", "w", 6)


def test_the_worst_counts():
    assert max(("PASS", "ABSTAIN", "FAIL"), key=WORST.__getitem__) == "FAIL"
    assert max(("PASS", "ABSTAIN"), key=WORST.__getitem__) == "ABSTAIN"


K = np.arange(1, 201.0)
GROWTHS = {
    "none": (0 * K, None), "constant": (1e-7 * (1 + 0.2 * np.sin(K)), None),
    "power": (1e-8 * K, 1.0), "exponential": (1e-9 * 1.05**K, 1.05),
    "jump": (np.where(K < 100, 1e-8, 1e-3), None),
}  # fmt: skip


@pytest.mark.parametrize("kind", GROWTHS)
def test_growth_is_named(kind):
    distance, rate = GROWTHS[kind]
    found = growth(distance, {100: ["the rate goes from 0.1 to 0.01"]})
    assert found.kind == kind
    assert rate is None or found.rate == pytest.approx(rate, rel=1e-3)
    if kind == "jump":
        assert found.step == 100
        assert "the rate goes" in found.text


def test_growth_of_what_scatters_or_ends():
    rng = np.random.default_rng(0)
    assert growth(10 ** rng.uniform(-8, -6.6, 300), {}).kind in ("unclear", "constant")
    assert growth(np.array([0, 0, 1e-9]), {}).kind == "unclear"
    assert growth(np.array([1e-9, np.inf]), {}).step == 2


@pytest.mark.parametrize(("ulps", "verdict"), [(1, "PASS"), (2, "FAIL")])
@pytest.mark.parametrize("side", [0, 1])
def test_a_start_may_differ_by_one_conversion_of_a_decimal(ulps, verdict, side):
    runs = pair()
    start = runs[side].arrays["param/w"][0]
    for _ in range(ulps):
        start = np.nextafter(start, np.float32(9))
    runs[side].arrays["first/w"] = start
    rung = by_name(judge(*runs))["init"]
    assert rung.verdict == verdict
    assert rung.kind == ("" if verdict == "PASS" else "start")
    assert f"at most {ulps} ulp" in rung.why


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, -1.0])
def test_no_tolerance_or_evidence_passes_another_start(value):
    a, b = pair()
    b.arrays["first/w"] = b.arrays["first/w"].copy()
    b.arrays["first/w"][1, 1] = value
    for settings in ({}, {"evidence": hand.evidence(a, b)}, {"rtol": 0.5}):
        assert judge(a, b, **settings).kind == "start"
