"""What holds of every verdict, whatever was measured: by Hypothesis, over evidence made by hand."""

from __future__ import annotations

import copy

import hand
import numpy as np
import pytest
from hand import GRAD_B, GRAD_W, HIDDEN, LOSS, SLOT_W, TEST, B, W
from hypothesis import assume, event, given
from hypothesis import strategies as st

from pipeline.parity import bounds
from pipeline.parity.evidence import Evidence
from pipeline.parity.ladder import judge
from pipeline.parity.quantity import PHASES, Quantity
from pipeline.record.record import RunRecord

QUANTITIES = (LOSS, GRAD_W, GRAD_B, SLOT_W, W, B, HIDDEN, TEST)
powers = st.floats(-20, 0) | st.floats(-14.8, -14.1)  # the latter around the bound of meaning
errors = st.sampled_from([0.0, hand.OWN / 100, hand.OWN])
places = st.tuples(st.sampled_from(QUANTITIES), st.integers(1, hand.STEPS))
edits = st.lists(
    st.tuples(
        st.sampled_from(["own_a", "own_b", "apart", "size"]), st.sampled_from(["a", "b", "ab"]),
        st.sampled_from(QUANTITIES), st.integers(1, hand.STEPS), st.sampled_from([0, 1]), powers,
    ), max_size=5,
)  # fmt: skip
opinions = st.lists(
    st.tuples(
        st.sampled_from(QUANTITIES), st.integers(1, hand.STEPS),
        st.sampled_from([("meaning", ""), ("precision", "a"), ("precision", "b")]),
        st.booleans(), st.booleans(), st.sampled_from(["a", "b", "ab"]),
    ), max_size=3,
)  # fmt: skip
replays = st.dictionaries(
    st.sampled_from("ab"),
    st.tuples(places, st.sampled_from(["state", "stale", "draws"])),
    max_size=1,
)
types = st.fixed_dictionaries(
    {
        side: st.sampled_from([[], ["float64"], ["float32", "float64"], ["bfloat16"]])
        for side in "ab"
    }
)


def edited(found, changes):
    for part, sources, quantity, step, norm, power in changes:
        hand.put(found, part, quantity, step, 10.0**power, sources=sources, norm=norm)


@st.composite
def pairs(draw):
    """Two runs of other bits and what was measured of them, with faults and opinions at random."""
    a, b = hand.other_bits(draw(st.sampled_from([np.float32, np.float64])))
    apart = draw(st.sampled_from([0.0, hand.APART]))
    found = hand.evidence(a, b, own_a=draw(errors), own_b=draw(errors), apart=apart)
    changes = draw(edits)
    edited(found, changes)
    found.about["types"] = draw(types)
    for quantity, step, (test, side), excused, alone, sources in draw(opinions):
        hand.give_opinion(
            found,
            quantity,
            step,
            test=test,
            side=side,
            excused=excused,
            alone=alone,
            sources=sources,
        )
    for side, ((quantity, step), kind) in draw(replays).items():
        step = step if quantity.kind in PHASES else 1
        hand.explain_replay(
            found, side, quantity, step, kind if quantity.kind in PHASES else "stale"
        )
    return a, b, found


def verdicts(ladder):
    return (
        ladder.verdict,
        ladder.kind,
        [(rung.name, rung.verdict, rung.kind) for rung in ladder.rungs],
    )


@given(pairs(), st.sampled_from(["fail", "note"]))
def test_the_verdict_does_not_depend_on_which_side_is_called_a(pair, precision):
    a, b, found = pair
    one = judge(a, b, evidence=found, precision=precision)
    other = judge(b, a, evidence=hand.swapped(found), precision=precision)
    event(f"{one.verdict} {one.kind}")
    assert verdicts(one) == verdicts(other)
    assert {s.step for s in one.suspects} == {s.step for s in other.suspects}


@given(st.data())
def test_swapping_twice_gives_the_same_evidence(data):
    *_, found = data.draw(pairs())
    again = hand.swapped(hand.swapped(found))
    assert again.about == found.about
    assert set(again.arrays) == set(found.arrays)
    assert all(np.array_equal(again.arrays[key], values) for key, values in found.arrays.items())


def copied(found):
    arrays = {key: values.copy() for key, values in found.arrays.items()}
    return Evidence(RunRecord(about=copy.deepcopy(found.about), arrays=arrays))


def grown(found, part, source, quantity, step, times, norm):
    """Make one number of the evidence larger, from 0 to one part in 10²⁰."""
    key = f"{part}/{source}/{quantity.key}"
    row = 0 if quantity.kind in ("activation", "prediction") else step - 1
    size = found.arrays[f"size/{source}/{quantity.key}"][row, norm]
    found.arrays[key][row, norm] = max(found.arrays[key][row, norm], 1e-20 * size) * times


@given(pairs(), places, st.sampled_from("ab"), st.floats(1, 1e18), st.sampled_from([0, 1]))
def test_a_larger_distance_never_turns_a_fail_into_a_pass(pair, place, source, times, norm):
    a, b, found = pair
    before = judge(a, b, evidence=found).verdict
    grown(found, "apart", source, *place, times, norm)
    after = judge(a, b, evidence=found).verdict
    event(f"{before} to {after}")
    assert before == "PASS" or after != "PASS"


@given(
    st.sampled_from("ab"), places, st.sampled_from("ab"), powers, st.floats(1, 1e18),
    st.sampled_from([0, 1]), st.lists(st.tuples(places, powers), max_size=3),
)  # fmt: skip
@pytest.mark.long
def test_a_larger_own_error_never_excuses_the_side_that_makes_it(
    side, place, source, power, times, norm, rest
):
    """Precision, one direction: only the other's errors are on the right of the inequality."""
    a, b = hand.other_bits()
    found = hand.evidence(a, b, apart=0.0)
    for (quantity, step), other in rest:
        hand.put(found, f"own_{side}", quantity, step, 10.0**other)
    hand.put(found, f"own_{side}", *place, 10.0**power, sources=source, norm=norm)
    before = judge(a, b, evidence=found)
    event(f"{before.verdict} {before.kind}")
    assume(before.verdict == "FAIL")
    grown(found, f"own_{side}", source, *place, times, norm)
    assert judge(a, b, evidence=found).verdict == "FAIL"


WRONG = st.sampled_from([np.nan, np.inf, -np.inf, 1e300])


@given(
    WRONG,
    st.sampled_from(["own_a", "own_b", "apart", "size"]),
    places,
    st.sampled_from("ab"),
    st.sampled_from([0, 1, slice(None)]),
)
def test_a_number_that_is_none_in_the_evidence_never_passes(value, part, place, source, norm):
    """One that is too large as well: an error is no larger than the size, but for this one side."""
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    quantity, step = place
    row = 0 if quantity.kind in ("activation", "prediction") else step - 1
    rows = found.arrays[f"{part}/{source}/{quantity.key}"]
    assume(part != "size" or not np.isfinite(value))  # a large size alone is a large number
    rows[row, norm] = value
    ladder = judge(a, b, evidence=found)
    event(ladder.verdict)
    if part.startswith("own") and value == -np.inf:
        return  # no norm is negative
    assert ladder.verdict != "PASS" or value == -np.inf
    assert ladder.to_dict()["verdict"] == ladder.verdict


@given(
    st.sampled_from([np.nan, np.inf, -np.inf, 1e300]),
    places,
    st.sampled_from("ab"),
    st.booleans(),
    st.integers(0, 5),
)
def test_a_number_that_is_none_in_one_record_never_passes(
    value, place, side, with_evidence, element
):
    """With evidence: the record does not come out of its own states, which are finite."""
    quantity, step = place
    a, b = hand.other_bits(np.float64)
    found = hand.evidence(a, b) if with_evidence else None
    record = a if side == "a" else b
    prefix = {"loss": "loss", "prediction": "prediction"}.get(quantity.kind)
    key = prefix or f"{hand.PREFIX[quantity.kind]}/{quantity.name}"
    row = 0 if quantity.kind in ("activation", "prediction") else step - 1
    rows = record.arrays[key] = record.arrays[key].copy()
    whole = quantity.kind in ("activation", "prediction")
    part = rows if whole else rows[row + (quantity.kind == "parameter") :][:1]
    part.reshape(-1)[element % part.size] = value
    if quantity.kind == "parameter":
        record.arrays[f"last/{quantity.name}"] = rows[-1]
    if found is not None:
        found.arrays[f"replay/{side}/{quantity.key}"][row] = abs(value)
    ladder = judge(a, b, evidence=found)
    assert ladder.verdict in ("FAIL", "ABSTAIN")
    if not with_evidence and not np.isfinite(value):
        end = (
            quantity == LOSS and step == hand.STEPS
        )  # a run that diverged: not known without evidence
        assert ladder.verdict == ("ABSTAIN" if end else "FAIL")
    assert judge(a, b, rtol=0.5, atol=1e6).verdict == "FAIL"


def scaled(a, b, found, factor):
    """The same pair in another unit: every number and every norm times a power of two."""
    for side in (a, b):
        for key, values in side.arrays.items():
            if values.dtype in (np.float32, np.float64) and key not in ("lr", "grad_norm"):
                side.arrays[key] = values * values.dtype.type(factor)
    for key, values in found.arrays.items():
        if values.dtype == np.float64:
            found.arrays[key] = values * factor


@given(pairs(), st.integers(-40, 40))
@pytest.mark.long
def test_another_unit_changes_nothing(pair, power):
    a, b, found = pair
    before = judge(a, b, evidence=found)
    scaled(a, b, found, 2.0**power)
    after = judge(a, b, evidence=found)
    assert verdicts(before) == verdicts(after)
    for one, other in zip(before.rungs, after.rungs, strict=True):
        assert one.tensor == other.tensor
        assert (one.distance is None) == (other.distance is None)
        assert one.distance is None or one.distance == pytest.approx(other.distance, rel=1e-9)


def rename_all(a, b, found, names):
    """Give parameters other names in records and evidence, whatever order they sort in."""
    for old, new in names.items():
        for side in (a, b):
            hand.renamed(side, old, new)
        for key in list(found.arrays):
            if key.endswith(f"/{old}"):
                found.arrays[key.removesuffix(old) + new] = found.arrays.pop(key)
    new_name = lambda name: "/".join(names.get(part, part) for part in name.split("/"))  # noqa: E731
    for opinion in found.about["opinions"]:
        opinion["suspect"][4] = new_name(opinion["suspect"][4])
    for replay in found.about["replay"].values():
        replay["quantity"][1] = new_name(replay["quantity"][1])


@given(pairs())
@pytest.mark.long
def test_other_names_change_nothing(pair):
    a, b, found = pair
    before = judge(a, b, evidence=copied(found))
    names = {"w": "loss", "b": "block/0/lr", "hidden": "prediction"}
    rename_all(a, b, found, names)
    after = judge(a, b, evidence=found)
    assert verdicts(before) == verdicts(after)
    assert [(s.test, s.side, s.source, s.step) for s in before.suspects] == [
        (s.test, s.side, s.source, s.step) for s in after.suspects]  # fmt: skip


norms = st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=4, max_size=4).map(
    np.array
)
BOUNDS = {
    "meaning": lambda e, f, s, n: bounds.meaning_bound(e, f, s, n=n),
    "meaning of the other": lambda e, f, s, n: bounds.meaning_bound(f, e, s, n=n),
    "precision": lambda e, f, s, n: bounds.precision_bound(e, s, n=n),
    "replay": lambda e, f, s, n: bounds.replay_bound(e, s, n=n, dtype="float32"),
}


@pytest.mark.parametrize("name", BOUNDS)
@given(own=norms, other=norms, size=norms, n=st.integers(1, 10**7), more=norms)
def test_a_bound_grows_with_errors_and_terms(name, own, other, size, n, more):
    bound = BOUNDS[name](own, other, size, n)
    assert (bound > 0).all()
    assert np.isfinite(bound).all()
    assert (BOUNDS[name](own + more, other, size, n) >= bound).all()
    assert (BOUNDS[name](own, other, size, 4 * n) >= bound).all()


@pytest.mark.parametrize("name", BOUNDS)
@given(
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    size=norms,
    n=st.integers(1, 10**7),
    more=norms,
)
def test_a_bound_grows_with_sizes_at_equal_shares(name, shares, size, n, more):
    """Errors that are a share of the size: the usual share of a step's size is then the same."""
    bound = BOUNDS[name](shares[0] * size, shares[1] * size, size, n)
    larger = BOUNDS[name](shares[0] * (size + more), shares[1] * (size + more), size + more, n)
    assert (larger >= bound * (1 - 1e-12)).all()


@given(own=norms, size=norms)
def test_a_usual_error_is_at_most_the_size_and_what_was_measured_counts(own, size):
    usual = bounds.usual_error(own, size)
    assert (usual <= size).all()
    assert (usual >= np.minimum(own, size)).all()


@given(size=norms, row=st.integers(0, 3))
def test_the_largest_size_looks_back_and_not_ahead(size, row):
    later = size.copy()
    later[row + 1 :] *= 1e3
    assert np.array_equal(
        bounds.largest_so_far(size)[: row + 1], bounds.largest_so_far(later)[: row + 1]
    )
    assert (bounds.largest_so_far(size) >= size).all()


def test_keys_of_quantities_are_their_own():
    keys = [q.key for q in (*QUANTITIES, Quantity("activation", "w"), Quantity("slot", "w"))]
    assert len(set(keys)) == len(keys)
