"""The words of a verdict, made last from its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.parity.compared import Compared
    from pipeline.parity.tested import Excess
    from pipeline.parity.verdict import Finding, Ladder


def tell_verdict(ladder: Ladder) -> str:
    """Return the finding, or what decided, in a few sentences."""
    if ladder.finding is not None:
        return tell_findings(ladder)
    if ladder.verdict == "PASS":
        return tell_pass(ladder)
    first = next(rung for rung in ladder.rungs if rung.verdict != "PASS")
    return f"{first.name} cannot be judged: {first.why}."


def tell_pass(ladder: Ladder) -> str:
    """Say what a PASS rests on, and how far the two are apart at most."""
    by = {rung.by for rung in ladder.rungs}
    accepted = ""
    if ladder.accepted:
        count = len(ladder.accepted)
        names = "; ".join(f"{each.name} ({each.reason})" for each in ladder.accepted)
        accepted = (
            f"PASS with {count} accepted difference{'s' * (count > 1)}: {names}. "
        )  # fmt: skip
    if by == {"bits"}:
        return f"{accepted}The runs are the same in every bit that was compared."
    if "tolerance" in by:
        return f"{accepted}The runs agree within the tolerance {ladder.facts['given']}."
    rest = "but for that, t" if accepted else "T"
    text = f"{accepted}{rest}he runs differ by rounding alone: no step does anything else."
    if rest[0] == "b":
        text = f"{accepted}But for that, the runs differ by rounding alone."
    far = [rung for rung in ladder.rungs if rung.apart is not None]
    if far:
        worst = max(far, key=lambda rung: rung.apart or 0.0)
        text += (
            f" From equal states no quantity of any step is more than {worst.apart:.2g} of its "
            f"size apart ({worst.apart_at})."
        )
    return text


def tell_findings(ladder: Ladder) -> str:
    """Tell the first difference, and that of another kind if there is one."""
    finding = ladder.finding
    assert finding is not None
    others = [f for f in ladder.findings if f.kind != finding.kind and f.rung != finding.rung]
    if finding.kind in ("data", "start"):  # what follows is their effect
        others = []
    text = tell_finding(finding, ladder)
    for other in others[:1]:
        text += (
            f" Another finding is of kind {other.kind}: {other.rung}{_at(other)}, {other.tensor}."
        )
    return text


_KINDS = {
    "data": "The two did not see the same data",
    "start": "The two do not start from the same parameters",
    "meaning": "The first difference of meaning is in",
    "precision": "One side computes in less than its precision, first in",
    "state": "Something besides the update changes the state between steps, first seen in",
    "undecided": "The first difference, of meaning or of precision, is in",
}


def tell_finding(finding: Finding, ladder: Ladder) -> str:
    """Tell one finding: place, both values, their distance, and what agreed until then."""
    opening = _KINDS[finding.kind]
    if finding.kind == "meaning" and ladder.facts.get("given"):
        opening = "The first difference beyond the tolerance is in"
    joint = ":" if finding.kind in ("data", "start") else ""
    text = f"{opening}{joint} {_place(finding)}"
    if finding.phase not in (finding.rung, finding.tensor) and finding.kind != "data":
        text += f" ({finding.phase})"
    if finding.a is not None:
        ulps = "" if finding.ulp is None else f", {finding.ulp:.6g} ulp"
        text += (
            f" is {finding.a:.9g} in {ladder.a} and {finding.b:.9g} in {ladder.b}"
            f" ({finding.absolute:.3g} apart, {finding.relative:.3g} relative{ulps})"
        )
    if finding.ratio is not None and f"{finding.ratio:.9g}" != "1":
        text += f"; all of it is {finding.ratio:.9g} times as large in {ladder.b} as in {ladder.a}"
    if (finding.detail and finding.kind != "meaning") or (finding.detail and finding.a is None):
        text += f"; {finding.detail}"
    return f"{text}. Until then these agreed: {finding.agreed or 'nothing'}."


def _at(finding: Finding) -> str:
    """Return the step of a finding in words, empty where it has none."""
    return "" if finding.step is None else f" at step {finding.step}"


def _place(finding: Finding) -> str:
    """Return where a finding is: rung, step, tensor, and the index inside it."""
    inside = f"[{', '.join(map(str, finding.index))}]" if finding.index else ""
    return f"{finding.rung}{_at(finding)}: {finding.tensor}{inside}"


def place_of(finding: Finding) -> str:
    """Return where a finding is, in words."""
    return _place(finding)


def tell_excess(pair: Compared, excess: Excess) -> str:
    """Say by how much something is beyond its bound, and in which test."""
    test, side, _, quantity, step = excess.suspect
    times = "infinitely many" if excess.ratio == float("inf") else f"{excess.ratio:.3g}"
    if test == "finite":
        return "NaN or infinity on one side only, from equal states"
    if test == "replay" and quantity.kind in ("prediction", "score"):
        miss = {} if pair.evidence is None else pair.evidence.about["replay"][side]
        return str(miss.get("text", ""))
    if test == "replay":
        return (
            f"from {pair.label(side)}'s own recorded state of step {step} the update gives another "
            f"{quantity.key} than was recorded ({times} times the bound), and a free run gives the "
            "record"
        )
    if excess.kind == "state":
        return (
            f"{excess.distance:.2g} of its size apart, {times} times the bound, but not when step "
            f"{excess.suspect.step} is made alone: something is kept from the steps before it, or "
            "drawn"
        )
    if excess.kind == "precision" and test == "meaning":
        return (
            f"{excess.distance:.2g} of its size apart in float64, where operations of one side see "
            f"a narrower type ({times} times the bound)"
        )
    if quantity.kind == "free":
        coarse = f", and {pair.label(side)} is the coarser" if side else ""
        return (
            f"two updates from one state, each with its own gradient, end {excess.distance:.2g} of "
            f"their size apart, {times} times the bound ({test}{coarse}): look at small elements "
            "of gradients and slots"
        )
    if excess.kind == "undecided":
        return (
            f"{pair.label(side)} is {excess.distance:.2g} of the size away from the float64 that "
            f"stands for both, {times} times what the other side's own error allows"
        )
    if test == "precision":
        return (
            f"the own error of {pair.label(side)} is {excess.distance:.2g} of the size, {times} "
            "times what the other side's allows; in float64 the two agree"
        )
    return f"{excess.distance:.2g} of its size apart in float64, {times} times the bound"


def tell_times(times: float, distance: float) -> str:
    """Return how many times its bound a distance is; never 0 for one that is not 0."""
    if times < 0.01 and distance > 0:
        return "less than 0.01"
    return f"{times:.2g}"
