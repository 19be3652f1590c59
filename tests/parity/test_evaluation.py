"""The rung `evaluation`: predictions at equal weights, and what a run chose by its own curve."""

from __future__ import annotations

import hand
import numpy as np
import pytest
from hand import TEST

from pipeline.parity.ladder import judge
from pipeline.parity.quantity import VALIDATION


def chosen(curve, *, best=None, patience=None, both=True, **about):
    a, b = hand.pair()
    hand.with_curve(b, curve, best=best, patience=patience)
    hand.with_curve(a, curve, patience=patience)
    b.about |= about
    return judge(a, b)


def test_a_choice_that_follows_from_its_own_curve_passes():
    for curve in ([0.5, 0.25], [0.25, 0.5], [0.5, 0.5], [np.nan, 0.5], [0.5, np.nan]):
        best = 3 if np.isnan(curve[1]) else 6 if np.isnan(curve[0]) else None
        a, b = hand.pair()
        for side in (a, b):
            hand.with_curve(side, curve, best=best)
        assert judge(a, b).verdict == "PASS"


@pytest.mark.parametrize(
    ("curve", "best", "right"), [([0.5, 0.25], 3, 6), ([0.25, 0.5], 6, 3), ([0.5, 0.5], 6, 3)]
)
def test_best_weights_that_do_not_follow_from_the_curve_fail(curve, best, right):
    ladder = chosen(curve, best=best)
    assert (ladder.verdict, ladder.kind, ladder.finding.rung) == ("FAIL", "state", "evaluation")
    assert ladder.finding.detail == (
        f"tensorflow: its best weights are those of step {best}; by its curve step {right} was best"
    )


@pytest.mark.parametrize("name", ["accuracy", "r2"])
def test_of_some_scores_the_highest_is_best(name):
    for best, verdict in ((6, "PASS"), (3, "FAIL")):
        a, b = hand.pair()
        for side in (a, b):
            hand.with_curve(side, [0.25, 0.5], best=best)
            side.arrays[f"val/{name}"] = side.arrays.pop("val/mse")
            side.about["config"]["train"]["monitor"] = name
        assert judge(a, b).verdict == verdict


def test_early_stopping_that_came_too_late_fails():
    ladder = chosen([0.25, 0.5], patience=1)
    assert ladder.verdict == "PASS"  # the end came anyway
    a, b = hand.pair()
    for side in (a, b):
        side.about["config"]["train"]["epochs"] = 3
        hand.with_curve(side, [0.25, 0.5], patience=1)
    b.arrays |= {"val/step": np.array([3, 4, 6]), "val/mse": np.array([0.25, 0.5, 0.75])}
    ladder = judge(a, b)
    assert ladder.kind == "state"
    assert "it should have stopped at step 4 by its own validation curve" in ladder.sentence()


def test_early_stopping_that_came_too_early_fails():
    a, b = hand.pair()
    for side in (a, b):
        side.about["config"]["train"]["epochs"] = 5
        hand.with_curve(side, [0.25, 0.5], patience=2)
    ladder = judge(a, b)
    assert "it stopped at step 6, 1 of 2 scores without a better one" in ladder.sentence()
    for side in (a, b):
        side.about["config"]["train"]["patience"] = 1
    assert judge(a, b).verdict == "PASS"
    for side in (a, b):  # one that was stopped by hand need not follow
        side.about["config"]["train"]["patience"] = 2
        side.about["status"] = "KILLED"
    assert judge(a, b).verdict == "PASS"


def test_weights_that_scoring_changed_fail():
    a, b = hand.pair()
    for side in (a, b):
        hand.with_curve(side, [0.5, 0.25])
    b.arrays["best/w"] = b.arrays["best/w"] + np.float32(1e-6)
    ladder = judge(a, b)
    assert "w changed between step 6 and its score: scoring moves it" in ladder.sentence()


def test_two_choices_that_both_follow_are_distance_that_grew():
    a, b = hand.pair()
    hand.with_curve(a, [0.5, 0.25])
    hand.with_curve(b, [0.25, 0.5])
    ladder = judge(a, b, evidence=validated(a, b))
    assert ladder.verdict == "PASS"
    assert any(note.startswith("the best epochs ended at steps 6 and 3") for note in ladder.notes)


def test_a_run_that_was_not_evaluated_is_not_judged_unless_both_diverged():
    a, b = hand.pair()
    hand.drop(b, "prediction")
    assert judge(a, b).rung("evaluation").why == "a run was not evaluated"
    hand.drop(a, "prediction")
    assert judge(a, b).rung("evaluation").verdict == "ABSTAIN"
    for side in (a, b):
        side.arrays["loss"][-1] = np.nan
    assert "both runs diverged" in judge(a, b).rung("evaluation").why
    assert judge(a, b).rung("evaluation").verdict == "PASS"


def validated(a, b, **relative):
    """Evidence with the validation set at both scored epochs."""
    found = hand.evidence(a, b)
    found.about["scored"] = [3, 6]
    for source in "ab":
        found.put(VALIDATION, source, hand.measured(np.ones((2, 2)), **relative))
    return found


@pytest.mark.parametrize("norm", [0, 1])
@pytest.mark.parametrize("row", [0, 1])
def test_predictions_for_the_validation_set_are_judged_at_each_scored_epoch(row, norm):
    a, b = hand.other_bits()
    for side in (a, b):
        hand.with_curve(side, [0.5, 0.25])
    found = validated(a, b)
    ladder = judge(a, b, evidence=found)
    assert (ladder.verdict, ladder.rung("evaluation").by) == ("PASS", "rounding")
    found.arrays[f"apart/b/{VALIDATION.key}"][row, norm] = 1e-3
    ladder = judge(a, b, evidence=found)
    assert (ladder.kind, ladder.finding.rung, ladder.finding.tensor) == (
        "meaning",
        "evaluation",
        "validation",
    )
    assert [s.step for s in ladder.suspects] == [(3, 6)[row]]


def test_a_fault_in_the_test_set_is_told_before_one_in_the_validation_set():
    a, b = hand.other_bits()
    for side in (a, b):
        hand.with_curve(side, [0.5, 0.25])
    found = validated(a, b, apart=1e-3)
    hand.put(found, "apart", TEST, 1, 1e-3)
    assert judge(a, b, evidence=found).finding.tensor == "prediction"


def test_curves_of_other_bits_are_not_passed_without_evidence():
    """The weights and the test set agree in every bit: then so must what was scored on the way."""
    a, b = hand.pair()
    for side in (a, b):
        hand.with_curve(side, [0.5, 0.25])
    assert judge(a, b).verdict == "PASS"
    b.arrays["val/mse"] = np.array([0.5, 0.125])
    ladder = judge(a, b, hint="; measure")
    assert ladder.verdict == "ABSTAIN"
    assert ladder.rung("evaluation").why == "other validation scores, and no evidence; measure"
    assert judge(a, b, rtol=1e-3).verdict == "PASS"  # a tolerance is for tensors
    assert judge(a, b, evidence=validated(a, b)).verdict == "PASS"


def test_scores_of_the_runs_stand_beside():
    a, b = hand.other_bits()
    b.about["scores"] = {"mse": 0.25}
    why = judge(a, b, evidence=hand.evidence(a, b)).rung("evaluation").why
    assert why.startswith("at equal weights ")
    assert why.endswith("; the runs themselves: mse 0.5 and 0.25")
