"""The bounds from both sides: just inside passes, just outside fails, in each of the two norms."""

from __future__ import annotations

import hand
import numpy as np
import pytest

from pipeline.parity import bounds
from pipeline.parity.ladder import judge

INSIDE, OUTSIDE = 1 - 1e-9, 1 + 1e-9
SHRINK = hand.EPS64 / hand.EPS32
PLACES = {
    "loss": (hand.LOSS, 1, "loss"), "gradient": (hand.GRAD_W, 1, "gradients"), "slot": (hand.SLOT_B, 1, "update"),
    "parameter": (hand.W, 1, "update"), "activation": (hand.HIDDEN, 1, "forward"),
    "prediction": (hand.TEST, 1, "evaluation"), "later loss": (hand.LOSS, 4, "trajectory"),
    "later gradient": (hand.GRAD_B, 6, "trajectory"), "later slot": (hand.SLOT_W, 2, "trajectory"),
    "later parameter": (hand.B, 3, "trajectory"),
}  # fmt: skip


def sizes(found, quantity, source, step):
    """S and S* of one step, in both norms."""
    rows = found.arrays[f"size/{source}/{quantity.key}"]
    row = 0 if quantity.kind in ("activation", "prediction") else step - 1
    return rows[row], rows[: row + 1].max(axis=0)


@pytest.mark.parametrize("norm", [0, 1], ids=["Euclidean", "largest element"])
@pytest.mark.parametrize("source", ["a", "b"])
@pytest.mark.parametrize("place", PLACES)
def test_meaning_from_both_sides_of_its_bound(place, source, norm):
    quantity, step, rung = PLACES[place]
    for factor, verdict in ((INSIDE, "PASS"), (OUTSIDE, "FAIL")):
        a, b = hand.other_bits()
        found = hand.evidence(a, b)
        size, star = sizes(found, quantity, source, step)
        bound = hand.R * hand.OWN * size * SHRINK + hand.C * hand.EPS64 * star
        times = factor * (bound / size)[norm]
        hand.put(found, "apart", quantity, step, times, sources=source, norm=norm)
        ladder = judge(a, b, evidence=found)
        assert ladder.verdict == verdict
        assert ladder.rung(rung).test == "meaning"
        assert ladder.rung(rung).tensors[quantity.label] == pytest.approx(factor, rel=1e-6)
        if verdict == "FAIL":
            finding = ladder.finding
            assert (finding.kind, finding.rung, finding.tensor) == ("meaning", rung, quantity.label)
            assert finding.step == (None if rung == "evaluation" else step)
            assert ladder.suspects[0].source == source
            assert ladder.rung(rung).bound == pytest.approx((bound / size)[norm])


@pytest.mark.parametrize("norm", [0, 1], ids=["Euclidean", "largest element"])
@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("place", PLACES)
def test_precision_from_both_sides_of_its_bound(place, side, norm):
    """One row is coarse on one side: the other's usual error allows so much and no more."""
    quantity, step, rung = PLACES[place]
    for factor, verdict in ((INSIDE, "PASS"), (OUTSIDE, "FAIL")):
        a, b = hand.other_bits()
        found = hand.evidence(a, b)
        size, star = sizes(found, quantity, "a", step)
        bound = hand.R * hand.OWN * size + hand.C * hand.EPS32 * star
        times = factor * (bound / size)[norm]
        hand.put(found, f"own_{side}", quantity, step, times, sources="a", norm=norm)
        ladder = judge(a, b, evidence=found)
        assert ladder.verdict == verdict
        if verdict == "FAIL":
            finding = ladder.finding
            assert (finding.kind, finding.rung, finding.tensor) == (
                "precision",
                rung,
                quantity.label,
            )
            (suspect,) = ladder.suspects
            assert (suspect.test, suspect.side, suspect.source) == ("precision", side, "a")
            name = "torch" if side == "a" else "tensorflow"
            assert f"the own error of {name}" in ladder.rung(rung).why


def test_a_run_in_float64_has_no_test_of_precision():
    a, b = hand.other_bits(np.float64)
    found = hand.evidence(a, b)
    hand.put(found, "own_b", hand.W, 3, 0.5)
    assert judge(a, b, evidence=found).verdict == "PASS"
    hand.put(found, "apart", hand.W, 3, 0.5)
    assert judge(a, b, evidence=found).kind == "meaning"


@pytest.mark.parametrize("large_at", [2, 5], ids=["before", "after"])
def test_a_large_value_widens_the_bound_of_the_steps_behind_it_alone(large_at):
    """S*: large numbers may have cancelled into small ones, but not ones that come later."""
    a, b = hand.other_bits()
    found = hand.evidence(a, b, own_a=0.0, own_b=0.0, apart=0.0)
    for source in "ab":
        for part in ("size", "own_a", "own_b", "apart", "free"):
            found.arrays[f"{part}/{source}/{hand.GRAD_W.key}"][:] = float(part == "size")
        found.arrays[f"size/{source}/{hand.GRAD_W.key}"][large_at - 1] = 1e6
        found.arrays[f"apart/{source}/{hand.GRAD_W.key}"][3] = 0.9 * hand.C * hand.EPS64 * 1e6
    ladder = judge(a, b, evidence=found)
    assert ladder.verdict == ("PASS" if large_at == 2 else "FAIL")
    assert large_at == 2 or (ladder.finding.step, ladder.finding.tensor) == (4, "w")


def test_an_error_that_is_exact_by_luck_is_taken_as_usual():
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    for side in "ab":
        hand.put(found, f"own_{side}", hand.W, 4, 0.0)
    hand.put(found, "apart", hand.W, 4, 0.9 * hand.R * hand.OWN * SHRINK)
    assert judge(a, b, evidence=found).verdict == "PASS"
    found = hand.evidence(a, b)
    hand.put(found, "own_a", hand.W, 4, 0.0)
    hand.put(found, "own_b", hand.W, 4, 0.9 * hand.R * hand.OWN)
    assert judge(a, b, evidence=found).verdict == "PASS"


def test_an_error_that_is_exact_as_a_rule_excuses_nothing():
    """Of six errors one is not 0: the usual one is 0, and the bound is that of rounding alone."""
    a, b = hand.other_bits()
    found = hand.evidence(a, b, own_a=0.0, own_b=0.0)
    hand.put(found, "own_a", hand.W, 2, hand.OWN)
    hand.put(found, "apart", hand.W, 4, 0.9 * hand.R * hand.OWN * SHRINK)
    ladder = judge(a, b, evidence=found)
    assert (ladder.kind, ladder.finding.step) == ("meaning", 4)


@pytest.mark.parametrize("value", [np.inf, 1e30])
def test_an_own_error_beyond_the_size_excuses_no_more_than_the_size(value):
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    for side in "ab":
        hand.put(found, f"own_{side}", hand.W, 4, value)
    hand.put(found, "apart", hand.W, 4, 2 * hand.R * SHRINK)
    ladder = judge(a, b, evidence=found)
    assert (ladder.kind, ladder.finding.step) == ("meaning", 4)


def test_long_sums_may_round_further():
    """R = √n and C = √n/2 from 900 and 256 terms on."""
    assert [bounds.roundings(n) for n in (1, 900, 10**6)] == [30, 30, 1000]
    assert [bounds.units(n) for n in (1, 256, 10**6)] == [8, 8, 500]
    a, b = hand.other_bits()
    for n, verdict in ((1, "FAIL"), (10**6, "PASS")):
        found = hand.evidence(a, b, n=n)
        hand.put(found, "apart", hand.W, 4, 20 * hand.R * hand.OWN * SHRINK)
        assert judge(a, b, evidence=found).verdict == verdict


def test_terms_of_a_step_are_not_those_of_a_sample():
    a, b = hand.other_bits()
    for quantity, verdicts in ((hand.W, ("PASS", "FAIL")), (hand.TEST, ("FAIL", "PASS"))):
        for n, verdict in zip(
            ({"step": 10**6, "sample": 1}, {"step": 1, "sample": 10**6}), verdicts, strict=True
        ):
            found = hand.evidence(a, b)
            found.about["terms"] = n
            hand.put(found, "apart", quantity, 4, 20 * hand.R * hand.OWN * SHRINK)
            assert judge(a, b, evidence=found).verdict == verdict


def test_bounds_keep_their_formulas():
    """Each against the formula of its docstring, at one point, with the smallest normal numbers."""
    size = np.array([[2.0, 1.0], [0.5, 0.25]])
    own, other = 1e-7 * size, 3e-7 * size
    star = np.array([[2.0, 1.0], [2.0, 1.0]])
    tiny32, tiny64 = 2.0**-126, 2.0**-1022
    meaning = hand.R * other * SHRINK + hand.C * (hand.EPS64 * star + tiny64)
    precision = hand.R * other + hand.C * (hand.EPS32 * star + tiny32)
    assert bounds.meaning_bound(own, other, size, n=1) == pytest.approx(meaning, rel=1e-14)
    assert bounds.precision_bound(other, size, n=1) == pytest.approx(precision, rel=1e-14)
    for dtype, eps, tiny in (("float32", hand.EPS32, tiny32), ("float64", hand.EPS64, tiny64)):
        replay = hand.R * own * eps / hand.EPS32 + hand.C * (eps * star + tiny)
        assert bounds.replay_bound(own, size, n=1, dtype=dtype) == pytest.approx(replay, rel=1e-14)
    zero = np.zeros((1, 2))
    assert bounds.meaning_bound(zero, zero, zero, n=1)[0, 0] == pytest.approx(8 * tiny64, rel=1e-9)
    assert bounds.precision_bound(zero, zero, n=1)[0, 0] == pytest.approx(8 * tiny32, rel=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["distance", "bound", "both"])
def test_what_is_no_number_is_never_within(value, where):
    """Not even infinity within infinity: a size that is not finite measures nothing."""
    distance, bound = np.zeros((2, 2)), np.ones((2, 2))
    if where != "bound":
        distance[1, 1] = value
    if where != "distance":
        bound[1, 1] = value
    assert list(bounds.is_beyond(distance, bound)) == [False, True]


def test_a_distance_of_zero_is_within_a_bound_of_zero():
    assert not bounds.is_beyond(np.zeros((1, 2)), np.zeros((1, 2))).any()
