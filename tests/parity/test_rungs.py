"""Rungs judged by evidence: cause before effect, kinds, replay, opinions, what cannot be judged."""

from __future__ import annotations

import hand
import numpy as np
import pytest
from hand import GRAD_B, GRAD_W, HIDDEN, LOSS, OUTPUT, RATE, SLOT_W, TEST, B, W

from pipeline.parity.ladder import judge
from pipeline.parity.quantity import Quantity


def beyond(*places, **settings):
    """The verdict on two right runs of which some quantities are in excess in some steps."""
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    for quantity, step in places:
        hand.put(found, "apart", quantity, step, 1e-3)
    return judge(a, b, evidence=found, **settings)


def test_other_bits_with_evidence_are_rounding():
    ladder = beyond()
    assert {rung.by for rung in ladder.rungs} == {"bits", "rounding"}
    assert (ladder.verdict, ladder.finding, ladder.suspects) == ("PASS", None, ())
    trajectory = ladder.rung("trajectory")
    assert trajectory.apart == pytest.approx(hand.OWN)
    assert set(ladder.distances) == {"apart", "forced", "own"}
    assert ladder.distances["own"][1:] == pytest.approx(ladder.distances["forced"][1:])


def test_each_tensor_has_its_largest_distance_over_its_bound_at_each_step():
    ladder = beyond((GRAD_W, 4), (B, 2))
    assert set(ladder.ratios) >= {"loss", "w", "b", "w (slot v)"}
    above = {t: (np.flatnonzero(r > 1) + 1).tolist() for t, r in ladder.ratios.items()}
    assert {tensor: steps for tensor, steps in above.items() if steps} == {"w": [4], "b": [2]}
    for rung in (ladder.rung("gradients"), ladder.rung("update")):  # of step 1
        for tensor, over in rung.tensors.items():
            assert over <= ladder.ratios.get(tensor, np.array([np.inf]))[0]
    for tensor, over in ladder.rung("trajectory").tensors.items():
        if tensor in ladder.ratios:
            assert ladder.ratios[tensor][1:].max() == over
    assert "ratios" not in ladder.to_dict()
    assert beyond(rtol=1e-3).ratios == {}


def test_equal_bits_do_not_pass_against_evidence():
    """What was measured from equal states counts, whatever the two records agree in."""
    a, b = hand.pair()
    found = hand.evidence(a, b)
    hand.put(found, "apart", W, 4, 1e-3)
    assert judge(a, b, evidence=found).kind == "meaning"


CAUSES = {
    "loss before all": ((LOSS, GRAD_W, SLOT_W, W), "loss"),
    "gradient before the update": ((W, SLOT_W, GRAD_W), "w"),
    "slot before the parameter": ((W, SLOT_W), "w (slot v)"),
    "the gradient nearest the loss": ((GRAD_B, GRAD_W), "b"),
    "a parameter alone": ((B,), "b"),
}  # fmt: skip


@pytest.mark.parametrize("what", CAUSES)
def test_in_one_step_a_cause_stands_before_its_effects(what):
    quantities, tensor = CAUSES[what]
    finding = beyond(*((q, 4) for q in quantities)).finding
    assert (finding.rung, finding.step, finding.tensor) == ("trajectory", 4, tensor)
    assert finding.agreed.endswith("every step before 4")


def test_in_the_first_update_a_slot_stands_before_the_parameter():
    finding = beyond((W, 1), (SLOT_W, 1)).finding
    assert (finding.rung, finding.step, finding.tensor) == ("update", 1, "w (slot v)")


def test_an_earlier_step_stands_before_an_earlier_phase():
    finding = beyond((LOSS, 5), (W, 3)).finding
    assert (finding.step, finding.tensor) == (3, "w")


def test_the_first_activation_stands_before_the_next():
    finding = beyond((OUTPUT, 1), (HIDDEN, 1)).finding
    assert (finding.rung, finding.tensor) == ("forward", "hidden")
    assert beyond((OUTPUT, 1)).finding.agreed.endswith("init, hidden")


@pytest.mark.parametrize(("quantity", "tensor"), [(GRAD_W, "w"), (LOSS, "loss"), (W, "lr")])
def test_a_rate_stands_behind_the_gradient_and_before_the_parameter(quantity, tensor):
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    hand.changed(b, "lr", (3,), 1e-3)
    hand.put(found, "apart", quantity, 4, 1e-3)
    ladder = judge(a, b, evidence=found)
    assert (ladder.finding.step, ladder.finding.tensor) == (4, tensor)


def test_rates_that_were_asked_for_are_equal_in_every_bit_and_those_used_to_float32():
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    hand.changed(b, "lr", (2,), 1e-16)
    assert judge(a, b, evidence=found).finding.tensor == "lr"
    for by, verdict in ((1e-9, "PASS"), (1e-7, "FAIL")):
        a, b = hand.other_bits()
        for side in (a, b):
            side.arrays["scalar/lr"] = np.full(hand.STEPS, 0.1)
        hand.changed(b, "scalar/lr", (2,), by)
        ladder = judge(a, b, evidence=found)
        assert ladder.verdict == verdict
        assert verdict == "PASS" or ladder.finding.tensor == "lr (as used)"


def test_an_activation_may_be_called_lr():
    """Names of different kinds may be equal: only the rate of a step is held to every bit."""
    a, b = hand.other_bits()
    for side in (a, b):
        hand.renamed(side, "hidden", "lr")
    ladder = judge(a, b, evidence=hand.evidence(a, b))
    assert (ladder.verdict, ladder.rung("forward").by) == ("PASS", "rounding")
    hand.changed(b, "layer/lr", (0, 0), 0.5)
    assert judge(a, b, rtol=1e-3).finding.rung == "forward"


def test_a_parameter_may_have_slashes_in_its_name():
    a, b = hand.other_bits()
    for side in (a, b):
        hand.renamed(side, "w", "block/0/w")
    found = hand.evidence(a, b)
    assert judge(a, b, evidence=found).verdict == "PASS"
    hand.put(found, "apart", Quantity("slot", "v/block/0/w"), 3, 1e-3)
    ladder = judge(a, b, evidence=found)
    assert (ladder.finding.step, ladder.finding.tensor) == (3, "block/0/w (slot v)")


@pytest.mark.parametrize("source", ["a", "b", "ab"])
def test_what_is_not_finite_on_one_side_from_equal_states_fails(source):
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    for side in source:
        found.arrays[f"lonely/{side}/{GRAD_W.key}"][3] = True
    ladder = judge(a, b, evidence=found)
    assert (ladder.kind, ladder.finding.step, ladder.finding.tensor) == ("meaning", 4, "w")
    assert "NaN or infinity on one side only" in ladder.sentence()
    assert not ladder.suspects  # nothing can excuse it


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("quantity", [GRAD_W, LOSS, W], ids=lambda q: q.kind)
def test_numbers_that_one_side_lost_are_told_where_it_lost_them(quantity, side, value):
    """Neither at a step before, nor as a record that does not come out of its own states."""
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    for source in "ab":
        for part in (f"own_{side}", "apart", "size", "free"):
            found.arrays[f"{part}/{source}/{quantity.key}"][3] = value
        found.arrays[f"lonely/{source}/{quantity.key}"][3] = True
        found.arrays[f"replay/{source}/{quantity.key}"][:3] = 1e-8  # as threads may round
    ladder = judge(a, b, evidence=found)
    assert (ladder.kind, ladder.finding.step) == ("meaning", 4)
    assert ladder.finding.tensor == quantity.label


def test_divergence_on_both_sides_is_a_note():
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    for part in ("diverged/a", "diverged/b"):
        found.arrays[f"{part}/{GRAD_W.key}"][4:] = True
    hand.put(found, "apart", GRAD_W, 6, 1.0)
    ladder = judge(a, b, evidence=found)
    assert ladder.verdict == "PASS"
    assert any("leave the range of numbers at step 5" in note for note in ladder.notes)


def test_meaning_and_precision_are_two_findings():
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    hand.put(found, "own_b", GRAD_W, 3, 1e-2)
    hand.put(found, "apart", W, 5, 1e-3)
    ladder = judge(a, b, evidence=found)
    assert {(f.kind, f.step) for f in ladder.findings} == {("precision", 3), ("meaning", 5)}
    assert (ladder.kind, len(ladder.suspects)) == ("precision", 2)
    hand.put(found, "apart", W, 5, hand.APART)
    hand.put(found, "apart", TEST, 1, 1e-3)
    sentence = judge(a, b, evidence=found).sentence()
    assert "Another finding is of kind meaning: evaluation, prediction." in sentence


def test_at_one_place_meaning_stands_before_precision():
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    hand.put(found, "own_b", GRAD_W, 3, 0.5)
    hand.put(found, "apart", GRAD_W, 3, 0.5)
    assert judge(a, b, evidence=found).kind == "meaning"


def test_a_second_opinion_may_excuse():
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    hand.put(found, "apart", GRAD_W, 3, 1e-3)
    hand.give_opinion(found, GRAD_W, 3)
    ladder = judge(a, b, evidence=found)
    assert ladder.verdict == "PASS"
    (note,) = (note for note in ladder.notes if note.startswith("rounding, step 3"))
    assert "at a kink" in note
    hand.put(found, "apart", GRAD_W, 5, 1e-3)  # nobody has looked at this one
    ladder = judge(a, b, evidence=found)
    assert (ladder.finding.step, [s.step for s in ladder.suspects]) == (5, [5])


def test_ill_conditioned_is_told_apart_from_a_kink():
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    hand.put(found, "apart", GRAD_W, 3, 1e-3)
    hand.give_opinion(found, GRAD_W, 3, nearest=7.0)
    assert any("ill-conditioned" in note for note in judge(a, b, evidence=found).notes)


@pytest.mark.parametrize("change", [
    {"quantity": GRAD_B}, {"step": 4}, {"test": "precision", "side": "b"}, {"excused": False}, {"sources": "a"}],
    ids=str)  # fmt: skip
def test_an_opinion_on_something_else_excuses_nothing(change):
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    hand.put(found, "apart", GRAD_W, 3, 1e-3)
    quantity, step = change.pop("quantity", GRAD_W), change.pop("step", 3)
    hand.give_opinion(found, quantity, step, **change)
    ladder = judge(a, b, evidence=found)
    assert (ladder.kind, ladder.finding.step, ladder.finding.tensor) == ("meaning", 3, "w")


def test_a_step_that_is_right_when_made_alone_is_a_matter_of_state():
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    hand.put(found, "apart", GRAD_W, 3, 1e-3)
    hand.give_opinion(found, GRAD_W, 3, excused=False, alone=False)
    ladder = judge(a, b, evidence=found)
    assert (ladder.kind, ladder.finding.step, ladder.suspects) == ("state", 3, ())
    assert "something is kept from the steps before it" in ladder.sentence()


@pytest.mark.parametrize(("quantity", "step", "rung"), [
    (W, 4, "trajectory"), (LOSS, 1, "loss"), (GRAD_B, 1, "gradients"), (SLOT_W, 1, "update")])  # fmt: skip
def test_a_state_that_changes_between_steps_fails_where_it_does(quantity, step, rung):
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    hand.explain_replay(found, "b", quantity, step, "state")
    ladder = judge(a, b, evidence=found)
    assert (ladder.kind, ladder.finding.rung, ladder.finding.step) == ("state", rung, step)
    assert ladder.finding.tensor == quantity.label
    assert "tensorflow's own recorded state" in ladder.sentence()
    assert not ladder.suspects


@pytest.mark.parametrize("kind", ["stale", "draws"])
def test_a_record_that_does_not_come_out_again_is_not_judged(kind):
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    hand.explain_replay(found, "b", W, 4, kind, text="it does not come out again")
    hand.put(found, "apart", GRAD_W, 3, 1e-3)
    ladder = judge(a, b, evidence=found)
    assert ladder.verdict == "ABSTAIN"
    judged = [rung for rung in ladder.rungs if rung.name not in ("data", "init", "evaluation")]
    assert {(rung.verdict, rung.why) for rung in judged} == {
        ("ABSTAIN", "it does not come out again")
    }
    assert "it does not come out again" in ladder.rung("evaluation").why


@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("value", [1.0, np.nan, np.inf])
@pytest.mark.parametrize(
    ("quantity", "step", "rung"),
    [(W, 4, "trajectory"), (HIDDEN, 1, "forward"), (TEST, 1, "evaluation")],
)
def test_a_record_that_does_not_come_out_again_for_no_known_reason_does_not_pass(
    quantity, step, rung, value, side
):
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    found.arrays[f"replay/{side}/{quantity.key}"][step - 1 if step > 1 else 0] = value
    ladder = judge(a, b, evidence=found)
    assert ladder.verdict == "ABSTAIN"
    assert quantity.key in ladder.rung(rung).why


SHORT = {
    "no evidence of a quantity": lambda arrays: [arrays.pop(k) for k in list(arrays) if k.endswith(GRAD_W.key)],
    "from one side's states only": lambda arrays: [
        arrays.pop(k) for k in list(arrays) if k.endswith(GRAD_W.key) and k.split("/")[1] == "b"],
    "of some steps only": lambda arrays: arrays.update(
        {k: v[:3] for k, v in arrays.items() if k.endswith(GRAD_W.key)}),
    "a record that was not made again": lambda arrays: arrays.pop(f"replay/a/{GRAD_W.key}"),
}  # fmt: skip


@pytest.mark.parametrize("what", SHORT)
def test_evidence_that_is_not_whole_is_none(what):
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    SHORT[what](found.arrays)
    ladder = judge(a, b, evidence=found, hint="; measure")
    assert ladder.verdict == "ABSTAIN"
    assert ladder.rung("trajectory").tensor == "w"
    assert ladder.rung("trajectory").why.endswith("; measure")


def test_a_float64_that_is_none_is_an_error():
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    found.about["broken"] = "float64 is no float64: loss/loss is float32 in one"
    ladder = judge(a, b, evidence=found)
    assert (ladder.verdict, ladder.rungs[0].why) == ("ERROR", found.about["broken"])


TYPES = {
    "narrower than the difference": (["float32", "float64"], ["float64"], "precision"),
    "seen on both sides": (["float32", "float64"], ["float32", "float64"], "meaning"),
    "seen by none": (["float64"], ["float64"], "meaning"),
}


@pytest.mark.parametrize("what", TYPES)
def test_types_that_operations_see_explain_a_difference(what):
    one, other, kind = TYPES[what]
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    found.about["types"] = {"a": one, "b": other}
    hand.put(found, "apart", GRAD_W, 3, 0.99 * hand.C * hand.EPS32)
    assert judge(a, b, evidence=found).kind == kind
    hand.put(found, "apart", GRAD_W, 3, 1.01 * hand.C * hand.EPS32)
    assert judge(a, b, evidence=found).kind == "meaning"
    leaks = [note for note in judge(a, b, evidence=found).notes if note.startswith("a leak")]
    assert len(leaks) == ("float32" in one) + ("float32" in other)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("share", "kind"), [(0.99, "precision"), (1.01, "meaning")])
def test_of_an_update_types_explain_a_share_of_the_update_not_of_the_weights(share, kind, turned):
    """Relative to the larger update: whichever side is called a, the answer is the same."""
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    found.about["types"] = {"a": ["float32", "float64"], "b": ["float64"]}
    hand.put(found, "apart", W, 3, 4 * hand.EPS32, sources="a")
    assert judge(a, b, evidence=found).kind == "meaning"  # how large the update is, nobody knows
    apart = found.measured(W, "a").apart
    found.arrays[f"update/a/{W.key}"] = np.ones_like(apart)
    found.arrays[f"update/a/{W.key}"][2] = apart[2] / (share * hand.C * hand.EPS32)
    found = hand.swapped(found) if turned else found
    assert (judge(b, a, evidence=found) if turned else judge(a, b, evidence=found)).kind == kind


def test_a_side_that_alone_has_a_gradient_is_named():
    a, b = hand.other_bits()
    b.about["without_gradient"] = ["b"]
    ladder = judge(a, b, evidence=hand.evidence(a, b))
    finding = ladder.finding
    assert (finding.kind, finding.rung, finding.tensor) == ("meaning", "gradients", "b")
    assert "b has no gradient in tensorflow" in ladder.sentence()
    a.about["without_gradient"] = ["b"]
    ladder = judge(a, b, evidence=hand.evidence(a, b))
    assert ladder.verdict == "PASS"
    assert "no gradient on either side: b" in ladder.notes


def test_a_rate_that_only_one_side_used_otherwise_is_not_hidden_by_its_name():
    assert RATE.label == "lr"
    assert Quantity("activation", "lr").key != RATE.key
