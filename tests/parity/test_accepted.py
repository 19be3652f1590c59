"""Differences that are known: `parity.accept`, `parity.precision`, documented coarse formulas."""

from __future__ import annotations

import hand
import numpy as np
import pytest
from hand import GRAD_B, GRAD_W, HIDDEN, LOSS, SLOT_W, TEST, B, W

from pipeline.parity.ladder import judge


def beyond(*places, **settings):
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    for quantity, step in places:
        hand.put(found, "apart", quantity, step, 1e-3)
    return judge(a, b, evidence=found, **settings)


@pytest.mark.parametrize("name", ["update", "parameter", "parameter/w", "w"])
def test_a_difference_may_be_accepted_by_rung_or_quantity(name):
    ladder = beyond((W, 1), accept={name: "known"})
    rung = ladder.rung("update")
    assert (ladder.verdict, rung.by, rung.why) == ("PASS", "accepted", f"accepted: {name} (known)")
    assert [(each.name, each.reason, each.rungs) for each in ladder.accepted] == [
        (name, "known", ("update",))
    ]
    assert ladder.sentence().startswith(f"PASS with 1 accepted difference: {name} (known). ")
    assert ladder.suspects == ()


@pytest.mark.parametrize(
    ("quantity", "step", "names"),
    [
        (W, 4, ("trajectory", "update", "parameter", "parameter/w", "w")),
        (GRAD_W, 4, ("trajectory", "gradients", "gradient", "gradient/w", "w")),
        (TEST, 1, ("evaluation", "prediction", "prediction/prediction")),
        (HIDDEN, 1, ("forward", "activation", "activation/hidden", "hidden")),
        (LOSS, 1, ("loss", "loss/loss")),
        (SLOT_W, 1, ("update", "slot", "slot/v/w", "v/w", "w (slot v)")),
    ],
)
def test_every_name_of_a_difference_accepts_it_and_no_other_does(quantity, step, names):
    for name in names:
        assert beyond((quantity, step), accept={name: "known"}).verdict == "PASS"
    others = {"trajectory", "evaluation", "forward", "gradient/b", "rate", "data", "init", "best"}
    ladder = beyond((quantity, step), accept=dict.fromkeys(others - {*names}, "known"))
    assert ladder.verdict == "FAIL"


def test_two_accepted_differences_are_counted():
    ladder = beyond((W, 1), (GRAD_B, 3), accept={"update": "one", "gradient/b": "other"})
    assert ladder.sentence().startswith("PASS with 2 accepted differences: ")


def test_a_name_that_matches_nothing_is_noted():
    ladder = beyond(accept={"dropout": "known"})
    assert (ladder.verdict, ladder.accepted) == ("PASS", ())
    assert "parity.accept=dropout: nothing of that name differs" in ladder.notes
    assert "accepted" not in ladder.sentence()


@pytest.mark.parametrize("step", [1, 4])
def test_an_accepted_quantity_does_not_hide_another_one(step):
    ladder = beyond((W, step), (B, step), accept={"parameter/w": "known"})
    assert (ladder.verdict, ladder.finding.tensor, ladder.finding.step) == ("FAIL", "b", step)
    assert [each.name for each in ladder.accepted] == ["parameter/w"]


def test_an_accepted_rung_does_not_hide_another_one():
    ladder = beyond((W, 1), (GRAD_W, 3), accept={"update": "known"})
    assert (ladder.verdict, ladder.finding.rung) == ("FAIL", "trajectory")


def test_beyond_a_tolerance_an_accepted_quantity_does_not_hide_another_one():
    a, b = hand.pair()
    hand.changed(b, "grad/w", (0, 0, 0), 0.5)
    accept = {"gradient/w": "known"}
    ladder = judge(a, b, rtol=1e-3, accept=accept)
    assert (ladder.verdict, ladder.rung("gradients").by) == ("PASS", "accepted")
    hand.changed(b, "grad/b", (0, 0), 0.5)
    ladder = judge(a, b, rtol=1e-3, accept=accept)
    assert (ladder.verdict, ladder.finding.tensor) == ("FAIL", "b")


def test_an_accepted_rate_does_not_hide_a_gradient_or_parameter():
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    hand.changed(b, "lr", (2,), 1e-3)
    ladder = judge(a, b, evidence=found, accept={"rate": "known"})
    assert (ladder.verdict, ladder.rung("trajectory").by) == ("PASS", "accepted")
    hand.put(found, "apart", GRAD_W, 5, 1e-3)
    ladder = judge(a, b, evidence=found, accept={"rate": "known"})
    assert (ladder.verdict, ladder.finding.tensor, ladder.finding.step) == ("FAIL", "w", 5)
    assert judge(a, b, accept={"rate": "known"}).verdict == "ABSTAIN"  # other bits, not measured


@pytest.mark.parametrize("how", ["accepted", "noted"])
def test_what_is_no_fail_before_a_rate_does_not_hide_the_rate(how):
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    hand.changed(b, "lr", (3,), 1e-3)
    if how == "accepted":
        hand.put(found, "apart", GRAD_W, 2, 1e-3)
        ladder = judge(a, b, evidence=found, accept={"gradient/w": "known"})
    else:
        hand.put(found, "own_b", GRAD_W, 2, 1e-2)
        ladder = judge(a, b, evidence=found, precision="note")
    assert (ladder.verdict, ladder.finding.tensor, ladder.finding.step) == ("FAIL", "lr", 4)


def test_an_accepted_tensor_without_gradient_does_not_hide_another_gradient():
    a, b = hand.other_bits()
    b.about["without_gradient"] = ["b"]
    found = hand.evidence(a, b)
    accept = {"b": "frozen there"}
    ladder = judge(a, b, evidence=found, accept=accept)
    assert (ladder.verdict, ladder.rung("gradients").by) == ("PASS", "accepted")
    hand.put(found, "apart", GRAD_W, 1, 1e-3)
    assert judge(a, b, evidence=found, accept=accept).finding.tensor == "w"
    b.about["without_gradient"] = ["b", "w"]
    found = hand.evidence(a, b)
    assert judge(a, b, evidence=found, accept=accept).finding.tensor == "w"


def test_an_accepted_infinity_does_not_hide_what_was_not_measured():
    a, b = hand.pair()
    b.arrays["param/w"][3, 0, 0] = np.nan
    accept = {"parameter/w": "known"}
    assert judge(a, b, accept=accept).verdict == "PASS"
    hand.changed(b, "grad/b", (2, 0), 0.5)
    assert judge(a, b, accept=accept).verdict == "ABSTAIN"
    b.arrays["grad/b"][2, 0] = np.inf
    ladder = judge(a, b, accept=accept)
    assert (ladder.verdict, ladder.finding.tensor) == ("FAIL", "b")


def test_an_accepted_choice_does_not_hide_predictions():
    a, b = hand.pair()
    for side in (a, b):
        hand.with_curve(side, [0.5, 0.25])
    b.about["best"]["step"] = 3
    accept = {"best": "known"}
    assert judge(a, b, accept=accept).verdict == "PASS"
    assert [each.name for each in judge(a, b, accept=accept).accepted] == ["best"]
    hand.changed(b, "prediction", (1, 1), 0.5)
    ladder = judge(a, b, rtol=1e-3, accept=accept)
    assert (ladder.verdict, ladder.finding.tensor) == ("FAIL", "prediction")


def test_data_and_start_may_be_accepted():
    a, b = hand.pair()
    hand.changed(b, "order/sequence", 4, np.uint64(1))
    hand.changed(b, "param/b", (0, 1), 0.5)
    assert judge(a, b).verdict == "FAIL"
    ladder = judge(a, b, accept={"order": "streamed", "init": "ported"})
    assert (ladder.verdict, len(ladder.accepted)) == ("PASS", 2)
    assert judge(a, b, accept={"init": "ported"}).finding.rung == "data"


def coarse_loss(**settings):
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    hand.put(found, "own_b", LOSS, 1, 1e-2)
    return judge(a, b, evidence=found, **settings)


def test_precision_may_be_a_note():
    assert coarse_loss().kind == "precision"
    ladder = coarse_loss(precision="note")
    assert (ladder.verdict, ladder.suspects) == ("PASS", ())
    assert any(note.startswith("precision: the own error of tensorflow") for note in ladder.notes)
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    hand.put(found, "apart", W, 3, 1e-3)
    assert judge(a, b, evidence=found, precision="note").kind == "meaning"


def test_a_difference_that_types_explain_does_not_hide_a_later_one_that_they_do_not():
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    found.about["types"] = {"a": ["float32", "float64"], "b": ["float64"]}
    hand.put(found, "apart", GRAD_W, 3, 7 * hand.EPS32)
    assert judge(a, b, evidence=found, precision="note").verdict == "PASS"
    hand.put(found, "apart", GRAD_W, 5, 0.5)
    ladder = judge(a, b, evidence=found, precision="note")
    assert (ladder.kind, ladder.finding.step) == ("meaning", 5)


@pytest.mark.parametrize(("coarse", "verdict"), [
    ({"b": {"loss/loss": "its formula"}}, "PASS"), ({"a": {"loss/loss": "its formula"}}, "FAIL"),
    ({"b": {"gradient/w": "its formula"}}, "FAIL")], ids=str)  # fmt: skip
def test_a_documented_coarse_formula_is_a_note_on_its_side_alone(coarse, verdict):
    ladder = coarse_loss(coarse=coarse)
    assert ladder.verdict == verdict
    known = [
        note for note in ladder.notes if note.startswith("known to be coarse: loss in tensorflow")
    ]
    assert len(known) == (verdict == "PASS")


def test_a_documented_coarse_formula_excuses_no_difference_of_meaning():
    a, b = hand.other_bits()
    found = hand.evidence(a, b)
    hand.put(found, "apart", LOSS, 1, 1e-2)
    coarse = {side: {"loss/loss": "its formula"} for side in "ab"}
    assert judge(a, b, evidence=found, coarse=coarse).kind == "meaning"


def test_where_both_are_coarse_a_note_says_so():
    a, b = hand.other_bits()
    ladder = judge(a, b, evidence=hand.evidence(a, b, own_a=1e-3, own_b=1e-3))
    assert ladder.verdict == "PASS"
    assert any(note.startswith("both sides lose digits") for note in ladder.notes)
    assert not judge(a, b, evidence=hand.evidence(a, b)).notes
