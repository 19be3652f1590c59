"""The rung ``evaluation``: predictions at equal weights, and what a run chose by its curve."""

from __future__ import annotations

import dataclasses

import numpy as np

from pipeline import metrics
from pipeline.parity.compared import Compared, are_same_bits
from pipeline.parity.judged import Judged, accept_or_fail, with_accepted
from pipeline.parity.quantity import TEST, VALIDATION
from pipeline.parity.rungs import judge_quantities
from pipeline.parity.verdict import Finding, Rung
from pipeline.record.record import RunRecord


def judge_evaluation(pair: Compared) -> Judged:
    """Compare predictions in evaluation mode at each side's scored weights.

    Which epoch was best, and where early stopping ended, must follow from each side's own
    validation curve by the same rule.
    """
    accepted: list[Judged] = []
    chosen = [(pair.label(s), check_choice(r)) for s, r in (("a", pair.a), ("b", pair.b))]
    whys = [f"{label}: {why}" for label, why in chosen if why]
    for why in [*whys, _find_other_scoring(pair)]:
        if why:
            rung = Rung(name="evaluation", verdict="FAIL", kind="state", tensor="best", why=why)
            finding = Finding(
                kind="state", rung="evaluation", phase="evaluation", step=None, tensor="best",
                detail=why,
            )  # fmt: skip
            choice = accept_or_fail(pair, Judged(rung=rung, findings=(finding,)), {"best"})
            if choice.rung.verdict == "FAIL":
                return choice
            accepted.append(choice)
    one, other = (record.arrays.get("prediction") for record in (pair.a, pair.b))
    if one is None and other is None and all(map(_has_diverged, (pair.a, pair.b))):
        why = "both runs diverged: there is nothing to evaluate"
        rung = Rung(name="evaluation", verdict="PASS", by="bits", why=why)
        return with_accepted(Judged(rung=rung), accepted)
    if one is None or other is None:
        return Judged(
            rung=Rung(name="evaluation", verdict="ABSTAIN", why="a run was not evaluated")
        )
    judged = judge_quantities(pair, "evaluation", {TEST: (one[None], other[None])}, first=1)
    validation = _judge_validation(pair)
    if validation is not None and judged.rung.verdict == "PASS":
        if validation.rung.verdict != "PASS":
            judged = validation
        elif not _is_nearer(judged.rung, validation.rung):
            judged = dataclasses.replace(
                validation, accepted=judged.accepted | validation.accepted,
                notes=(*judged.notes, *validation.notes),
            )  # fmt: skip
    if validation is None and judged.rung.verdict == "PASS" and _have_other_curves(pair):
        why = f"other validation scores, and no evidence{pair.hint}"
        rung = dataclasses.replace(judged.rung, verdict="ABSTAIN", by="", why=why)
        return with_accepted(dataclasses.replace(judged, rung=rung), accepted)
    scores = _tell_scores(pair)
    measured = pair.evidence is not None and pair.tolerance is None
    where = "at equal weights " if measured and not are_same_bits(one, other) else ""
    why = f"{where}{judged.rung.why}" + (f"; the runs themselves: {scores}" if scores else "")
    rung = dataclasses.replace(judged.rung, why=why)
    notes = (*judged.notes, *_tell_best(pair))
    return with_accepted(dataclasses.replace(judged, rung=rung, notes=notes), accepted)


def _find_other_scoring(pair: Compared) -> str:
    """Say that one side scored its validation set after other steps than the other side."""
    steps = [
        [int(step) for step in record.arrays.get("val/step", ()) if step <= pair.steps]
        for record in (pair.a, pair.b)
    ]
    alone = sorted({*steps[0]} ^ {*steps[1]})
    if not alone:
        return ""
    side = pair.label("a" if alone[0] in steps[0] else "b")
    return f"{side} alone scored its validation set after step {alone[0]}"


def _has_diverged(record: RunRecord) -> bool:
    """Whether the last loss of a run is not finite."""
    return not np.isfinite(record.arrays["loss"][-1])


def _is_nearer(one: Rung, other: Rung) -> bool:
    """Whether the first rung's numbers are the farther ones relative to their bound."""
    ratios = [max(rung.tensors.values(), default=0.0) for rung in (one, other)]
    return ratios[0] >= ratios[1]


def _judge_validation(pair: Compared) -> Judged | None:
    """Judge the predictions for the validation set at each scored epoch's weights, if measured."""
    evidence = pair.evidence
    if evidence is None or not evidence.sources(VALIDATION) or pair.tolerance is not None:
        return None
    steps = np.asarray(evidence.about["scored"], np.int64)
    curves = [record.arrays.get("val/step", np.empty(0)) for record in (pair.a, pair.b)]
    rows = {VALIDATION: (np.zeros((len(steps), 1)), np.ones((len(steps), 1)))}
    if not len(curves[0]) or pair.unusable(VALIDATION):
        return None
    return judge_quantities(pair, "evaluation", rows, first=1, steps=steps)


def _have_other_curves(pair: Compared) -> bool:
    """Whether scores of the same weights' epochs differ in a bit; a tolerance is not for scores."""
    steps = [record.arrays.get("val/step", np.empty(0)) for record in (pair.a, pair.b)]
    n = min(map(len, steps))
    if pair.tolerance is not None or not n or not np.array_equal(steps[0][:n], steps[1][:n]):
        return False
    one, other = (record.named("val") for record in (pair.a, pair.b))
    return any(not are_same_bits(one[name][:n], other[name][:n]) for name in one if name in other)


def check_choice(record: RunRecord) -> str:
    """Say in what a run's best weights or its end do not follow from its own validation curve."""
    moved = _find_moved_end(record)
    if moved:
        return moved
    steps, best = record.arrays.get("val/step"), record.about.get("best")
    if steps is None or not len(steps):
        return ""
    train = record.config["train"]
    name = train.get("monitor") or str((best or {}).get("score", ""))
    curve = record.arrays.get(f"val/{name}")
    if curve is None or len(curve) != len(steps):
        return ""
    sign = -1.0 if name in metrics.HIGHER else 1.0
    chosen, waited, patience = 0, 0, train.get("patience")
    lowest = np.inf
    for i, value in enumerate(sign * np.asarray(curve, np.float64)):
        if i == 0 or value < lowest:
            chosen, waited = i, 0
            lowest = value if np.isfinite(value) else lowest
        else:
            waited += 1
        if patience is not None and waited >= patience and i < len(curve) - 1:
            return f"it should have stopped at step {int(steps[i])} by its own validation curve"
    ended_early = record.steps < int(record.about.get("updates_per_epoch", 0)) * int(
        train["epochs"]
    )
    finished = record.about.get("status") == "FINISHED"
    if patience is not None and finished and ended_early and waited < patience:
        return (
            f"it stopped at step {record.steps}, {waited} of {patience} scores without a better one"
        )
    step = int(steps[chosen])
    if best is not None and int(best["step"]) != step:
        there = int(best["step"])
        return f"its best weights are those of step {there}; by its curve step {step} was best"
    return _check_best_weights(record, step)


def _find_moved_end(record: RunRecord) -> str:
    """Say which parameter the last update did not leave as it is at the end of the run."""
    if record.about.get("status") != "FINISHED":
        return ""
    rows, last = record.named("param"), record.named("last")
    for name, values in last.items():
        if name in rows and not are_same_bits(rows[name][-1], values):
            return f"{name} changed after the last update"
    return ""


def _check_best_weights(record: RunRecord, step: int) -> str:
    """Say which best weight is not what was recorded at its step; empty where there is none."""
    rows, best = record.named("param"), record.named("best")
    for name, values in best.items():
        if name in rows and len(rows[name]) > step and not are_same_bits(rows[name][step], values):
            return f"{name} changed between step {step} and its score: scoring moves it"
    return ""


def _tell_scores(pair: Compared) -> str:
    """Return the scores that both runs have, in words."""
    one, other = (record.about.get("scores", {}) for record in (pair.a, pair.b))
    return ", ".join(f"{k} {one[k]:.6g} and {v:.6g}" for k, v in other.items() if k in one)


def _tell_best(pair: Compared) -> tuple[str, ...]:
    """Tell where the two chose another epoch: their curves differ, which is growth."""
    best = [record.about["best"]["step"] for record in (pair.a, pair.b) if "best" in record.about]
    if len(best) < 2 or best[0] == best[1]:
        return ()
    steps = " and ".join(map(str, best))
    return (
        f"the best epochs ended at steps {steps}, each by its own validation curve: distance that "
        "grew",
    )
