"""Sentences about pairs, and which of them are folded away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.leaderboard import SeedVerdict
from pipeline.parity.verdict import WORST, Ladder

_NO_DERIVATIVE = 1e-4  # of the gradient's norm; right ones are within 1e-8 in float64


MOST_LINES = 8  # of a list or table in a description


MOST_NOTES = 5  # of a pair, that are shown at once


def tell_summary(
    verdicts: Sequence[str], *, over_seeds: Sequence[str], runs: int, unfinished: int, best: str
) -> str:
    """Say in one line what a comparison came to: verdicts by their number, and the best run.

    Parameters
    ----------
    verdicts, over_seeds
        On the pairs that are judged one by one, and on groups over seeds.
    runs, unfinished
        How many runs have a record, and how many did not end as they should.
    best
        What scored best, in words; may be empty.
    """
    parts = []
    for unit, units, judged in (
        ("pair", "pairs", verdicts), ("test over seeds", "tests over seeds", over_seeds),
    ):  # fmt: skip
        if judged:
            counted = [f"{judged.count(kind)} {kind}" for kind in WORST if kind in judged]
            many = unit if len(judged) == 1 else units
            parts.append(f"{len(judged)} {many}: {', '.join(counted)}")
    parts += [] if parts else ["1 run" if runs == 1 else f"{runs} runs"]
    parts += [f"{unfinished} not finished"] if unfinished else []
    return "; ".join([*parts, *([best] if best else [])])


def tell_training_end(about: Mapping[str, Any], *, steps: int) -> str:
    """Say when training stopped early and which score was the best; empty without validation.

    Parameters
    ----------
    about
        Of a finished run's record.
    steps
        How many updates it made.
    """
    best = about.get("best")
    if best is None:
        return ""
    train, each = about["config"]["train"], about["updates_per_epoch"]
    name = best["score"]
    parts = []
    if steps < train["epochs"] * each:
        parts.append(
            f"stopped early after epoch {steps // each} of {train['epochs']}, as the last "
            f"{train['patience']} scores were no better"
        )
    where = f"epoch {best['step'] // each} (step {best['step']})"
    return "; ".join([*parts, f"best val/{name} {best[name]:.6g} after {where}"])


def tell_leftovers(named: Sequence[str], *, pairs: int) -> str:
    """Return which runs have no partner, in a line; all of them are in ``parity.json``."""
    if not pairs and len(named) > 1:
        return f"No two of the {len(named)} runs are a pair: equal settings, another backend."
    more = len(named) - MOST_LINES
    shown = [*named[:MOST_LINES], *([f"{more} more are in parity.json"] if more > 0 else [])]
    return f"Without a partner: {'; '.join(shown)}"


def tell_beside(ladder: Ladder) -> list[str]:
    """Say what was measured beside a verdict, a sentence each; notes are not among them."""
    sentences = []
    if ladder.growth is not None:
        sentences.append(f"Distance over the steps: {ladder.growth.text}.")
    if ladder.verdict == "PASS" and "speed" in ladder.facts:
        sentences.append(f"{ladder.facts['speed']}.")
    labels = {"a": ladder.a, "b": ladder.b}
    ends = {side: (errors.max(), errors[-1]) for side, errors in ladder.errors.items()}
    if ends:
        words = ("is at most ", " ulp off", "last step ")
        parts: list[str] = []
        for side, (most, last) in ends.items():
            is_at, off, at_last = ("", "", "") if parts else words
            parts.append(f"{labels[side]} {is_at}{most:.3g}{off} ({at_last}{last:.3g})")
        sentences.append(f"Against {ladder.reference}: {', '.join(parts)}.{_nearer(labels, ends)}")
    prove = ladder.facts.get("prove")
    if prove is not None:
        ratio = prove["ratio"]
        times = "" if ratio is None else f", {ratio:.2g} times as far"
        sentences.append(
            f"Both again in float64: at most {prove['float64']:.2g} apart; as they were run "
            f"{prove['native']:.2g}{times} (rounding in float32 alone gives about 5e+08)."
        )
    for side, checked in ladder.facts.get("gradcheck", {}).items():
        sentences.append(f"Gradients of {labels[side]}: {_checked(checked)}.")
    return sentences


def _nearer(labels: Mapping[str, str], ends: Mapping[str, Sequence[float]]) -> str:
    """Say which side is nearer the reference, if one is by a tenth at most and at the end."""
    if len(ends) < 2:
        return ""
    for side, other in (("a", "b"), ("b", "a")):
        if all(x < 0.9 * y for x, y in zip(ends[side], ends[other], strict=True)):
            return f" {labels[side]} is nearer."
    return " Neither is clearly nearer."


def _checked(checked: Mapping[str, Any]) -> str:
    """Return the outcome of a check of gradients in words, for the end of a sentence."""
    if "why" in checked:
        return f"not checked, {checked['why']}"
    text = f"at most {checked['largest']:.2g} from central differences"
    if checked["largest"] > _NO_DERIVATIVE:
        worst = max(checked["central differences"], key=checked["central differences"].__getitem__)
        text = f"no derivative of the loss, that of {worst} is {checked['largest']:.2g} off"
    by_hand = checked.get("hand-derived")
    return f"{text}, {max(by_hand.values()):.2g} from those derived by hand" if by_hand else text


def list_covered(by_seeds: Sequence[SeedVerdict]) -> set[int]:
    """Return the positions of the pairs that are judged over seeds and not one by one."""
    return {i for group in by_seeds for i in group.covers}


def tell_pair_verdicts(
    ladders: Sequence[Ladder], by_seeds: Sequence[SeedVerdict] = ()
) -> list[tuple[str, str]]:
    """Return the verdict on each pair and why: its ladder's, or that on its group over seeds."""
    judged = [(ladder.verdict, ladder.sentence()) for ladder in ladders]
    for group in by_seeds:
        for i in group.covers:
            judged[i] = (group.verdict, group.sentence)
    return judged


def sort_by_verdict(by_seeds: Sequence[SeedVerdict], *, worst_first: bool) -> list[SeedVerdict]:
    """Return the verdicts over seeds, sorted; the worst one is what counts."""
    return sorted(by_seeds, key=lambda group: WORST[group.verdict], reverse=worst_first)
