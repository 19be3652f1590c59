"""A rung judged by what a probe measured: the two tests from equal states."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.parity.compared import Compared, relative
from pipeline.parity.evidence import Suspect
from pipeline.parity.judged import PHASE_WORDS, RUNG_OF, Judged, matching_names
from pipeline.parity.places import describe_place, find_ratio
from pipeline.parity.quantity import PHASES, Quantity, list_some
from pipeline.parity.tell import tell_excess, tell_times
from pipeline.parity.tested import (
    Excess,
    Tested,
    largest_apart,
    run_tests,
    sift,
)
from pipeline.parity.verdict import KINDS, Finding, Rung


def judge_by_evidence(
    pair: Compared,
    name: str,
    quantities: Sequence[Quantity],
    *,
    rows: Mapping[Quantity, tuple[np.ndarray, np.ndarray]],
    first: int,
    steps: np.ndarray | None,
    same_bits: bool,
) -> Judged:
    """Judge by the two tests from equal states."""
    if not quantities:
        why = "the same bits" if same_bits else "nothing was measured"
        return Judged(rung=Rung(name=name, verdict="PASS", by="bits", source="bits", why=why))
    assert pair.evidence is not None
    tests = select_tests(pair, quantities, rows, first=first, steps=steps)
    sifted = sift(pair, tests)
    excess, notes = without_coarse(pair, list(sifted.excess))
    between = between_steps(pair, name, first)
    excess += [] if between is None else [between]
    tensors: dict[str, float] = {}
    for tested in tests:
        if tested.test != "replay":
            label = tested.quantity.label
            tensors[label] = max(float(tested.ratios().max(initial=0.0)), tensors.get(label, 0.0))
    accepted = frozenset(n for e in excess for n in matching_names(pair, name, e))
    excess = [e for e in excess if not matching_names(pair, name, e)]
    part = slice(first - 1, None if name == "trajectory" else first)
    apart = largest_apart(pair.evidence, quantities, part if steps is None else slice(None))
    notes += tell_excused(pair, sifted.excused)
    common: dict[str, Any] = {
        "name": name, "tensors": tensors, "apart": None if apart is None else apart[0],
        "apart_at": "" if apart is None else _tell_place(name, apart[1], apart[2] + first),
        "source": "own errors of both sides, from equal states",
    }  # fmt: skip
    if not excess:
        rung = _passed(pair, tests, same_bits=same_bits, accepted=accepted, common=common)
        return Judged(rung=rung, accepted=accepted, notes=tuple(notes))
    order = list(quantities)
    kinds = {kind: _cause(kind, excess, order) for kind in dict.fromkeys(e.kind for e in excess)}
    worst = min(kinds.values(), key=lambda e: (*e.place(), KINDS.index(e.kind)))
    rung = Rung(
        verdict="FAIL", kind=worst.kind, test=worst.suspect.test,
        tensor=worst.suspect.quantity.label,
        step=None if name == "evaluation" else worst.suspect.step, distance=worst.distance,
        bound=worst.bound, why=tell_excess(pair, worst), **common,
    )  # fmt: skip
    findings = tuple(_finding(pair, name, e, quantities) for e in kinds.values())
    suspects = tuple(e.suspect for e in kinds.values() if e.open)
    return Judged(rung=rung, findings=findings, suspects=suspects, accepted=accepted,
                  notes=tuple(notes))  # fmt: skip


def _tell_place(name: str, quantity: Quantity, step: int) -> str:
    """Return a quantity in words, with its step except in the rungs forward and evaluation."""
    at_step = "" if name in ("forward", "evaluation") else f" at step {step}"
    kind = {"loss": "loss", "gradient": "gradient of ", "activation": "activation "}
    return (
        f"{kind.get(quantity.kind, '')}{quantity.label if quantity.kind != 'loss' else ''}{at_step}"
    )


def find_excess_before(
    pair: Compared,
    name: str,
    rows: Mapping[Quantity, Any],
    *,
    first: int,
    step: int,
    steps: np.ndarray | None,
) -> Excess | None:
    """Return what fails before the rates of a step: a step before, loss or gradient."""
    phases = [q for q in rows if q.kind != "rate" and not pair.unusable(q)]
    if pair.evidence is None or not phases:
        return None
    excess = sift(pair, select_tests(pair, phases, rows, first=first, steps=steps)).excess
    excess, _ = without_coarse(pair, list(excess))
    excess = [e for e in excess if not matching_names(pair, name, e)]
    before = [e for e in excess if e.place() < (step, PHASES.index("rate"))]
    return min(before, key=Excess.place, default=None)


def select_tests(
    pair: Compared,
    quantities: Sequence[Quantity],
    rows: Mapping[Quantity, Any],
    *,
    first: int,
    steps: np.ndarray | None,
) -> list[Tested]:
    """Test quantities over all that was measured, and keep the steps of a rung."""
    selected = []
    for quantity in quantities:
        assert pair.evidence is not None
        source = pair.evidence.sources(quantity)[0]
        count = len(pair.evidence.measured(quantity, source).size)
        numbers = np.arange(1, count + 1) if steps is None else steps
        length = len(rows[quantity][0]) if steps is None else count
        part = slice(first - 1, first - 1 + length) if steps is None else slice(None)
        for tested in run_tests(pair, quantity, steps=numbers):
            cut = {
                f: getattr(tested, f)[part]
                for f in ("steps", "distance", "bound", "size", "beyond")
            }
            selected.append(dataclasses.replace(tested, **cut))
    return selected


def _cause(kind: str, excess: Sequence[Excess], order: Sequence[Quantity]) -> Excess:
    """Return the cause among what is in excess: the first step, in it the first phase.

    In one phase: of activations the first in their order; of gradients the last, which is nearest
    to the loss; of others the one farthest over its bound.
    """
    place = min(e.place() for e in excess if e.kind == kind)
    same = [e for e in excess if e.kind == kind and e.place() == place]
    if same[0].suspect.quantity.kind == "activation":
        return min(same, key=lambda e: order.index(e.suspect.quantity))
    if same[0].suspect.quantity.kind == "gradient":
        return max(same, key=lambda e: order.index(e.suspect.quantity))
    return max(same, key=lambda e: e.ratio)


def _finding(pair: Compared, name: str, excess: Excess, quantities: Sequence[Quantity]) -> Finding:
    """Return an excess as the ladder's finding, with the values where they were kept."""
    assert pair.evidence is not None
    test, side, source, quantity, step = excess.suspect
    vectors = pair.evidence.vectors(quantity, source, step)
    narrow = "32" if pair.dtype == "float32" else "64"
    place: dict[str, Any] = {}
    ratio = None
    if vectors and excess.kind != "state":  # made alone, such a step is right
        a, b = vectors[f"a{narrow}"], vectors[f"b{narrow}"]
        wide = vectors["a64"], vectors["b64"]
        farthest = np.abs(wide[0].astype(np.float64) - wide[1])
        if test == "precision":
            farthest = np.abs(vectors[f"{side}32"].astype(np.float64) - vectors[f"{side}64"])
        place = describe_place(a, b, farthest=farthest)
        if not place["absolute"]:  # the run's own precision does not show it
            place = describe_place(*wide, farthest=farthest)
        ratio = find_ratio(*wide) if test == "meaning" else None
        if quantity.kind == "parameter" and test == "meaning":
            ratio = find_ratio(wide[0] - vectors["start"], wide[1] - vectors["start"])
    agreed = ""
    if name == "trajectory":
        agreed = f"every step before {step}"
    elif name == "forward":
        before = quantities[: list(quantities).index(quantity)]
        agreed = list_some(before) if before else ""
    return Finding(
        kind=excess.kind, rung=name, phase=PHASE_WORDS.get(quantity.kind, name),
        step=None if name == "evaluation" else step, tensor=quantity.label, ratio=ratio,
        detail=tell_excess(pair, excess), agreed=agreed, **place,
    )  # fmt: skip


def _passed(
    pair: Compared,
    tests: Sequence[Tested],
    *,
    same_bits: bool,
    accepted: frozenset[str],
    common: Mapping[str, Any],
) -> Rung:
    """Return the PASS of a rung: by bits, or by the test that came closest to its bound."""
    if same_bits and not accepted:
        return Rung(verdict="PASS", by="bits", why="the same bits", **{**common, "source": "bits"})
    judged = [t for t in tests if t.test != "replay" and len(t.steps)]
    worst = max(judged, key=lambda t: float(t.ratios().max()))
    row = int(np.argmax(worst.ratios()))
    times, size = float(worst.ratios()[row]), worst.size[row]
    norm = int(np.argmax(np.where(worst.bound[row] > 0, worst.distance[row] / worst.bound[row], 0)))
    why = f"{tell_times(times, float(worst.distance[row, norm]))} of the bound ({worst.test})"
    if times > 1:
        why = "as far apart in float64 as float32 inside that step explains"
    if accepted:
        why = "accepted: " + "; ".join(f"{n} ({pair.accept[n]})" for n in sorted(accepted))
    return Rung(
        verdict="PASS", by="accepted" if accepted else "rounding", test=worst.test,
        tensor=worst.quantity.label,
        step=None if common["name"] == "evaluation" else int(worst.steps[row]),
        distance=relative(float(worst.distance[row, norm]), float(size[norm])),
        bound=relative(float(worst.bound[row, norm]), float(size[norm])), why=why, **common,
    )  # fmt: skip


def between_steps(pair: Compared, name: str, first: int) -> Excess | None:
    """Return where something besides the update changed the state, if it belongs to this rung."""
    assert pair.evidence is not None
    replay = pair.evidence.about.get("replay", {})
    for side, replayed in replay.items():
        if replayed["kind"] != "state":
            continue
        quantity, step = Quantity(*replayed["quantity"]), int(replayed["step"])
        belongs = RUNG_OF.get(quantity.kind, "evaluation")
        if belongs != "evaluation" and step >= 2:
            belongs = "trajectory"
        inside = belongs == name
        if inside:
            suspect = Suspect("replay", side, side, quantity, step)
            ratio, far, bound = (float(replayed[word]) for word in ("ratio", "distance", "bound"))
            return Excess(kind="state", suspect=suspect, ratio=ratio, distance=far, bound=bound)
    return None


def without_coarse(pair: Compared, excess: list[Excess]) -> tuple[list[Excess], list[str]]:
    """Leave out precision where it is a note: as the config says, or of a documented formula."""
    rest, notes, leaked = [], [], []
    for e in excess:
        listed = pair.coarse.get(e.suspect.side, {}).get(e.suspect.quantity.key)
        if e.kind == "precision" and listed:
            notes.append(
                f"known to be coarse: {e.suspect.quantity.label} in {pair.label(e.suspect.side)}, "
                f"{listed} ({e.distance:.2g} of its size, step {e.suspect.step})"
            )
        elif e.kind == "precision" and e.suspect.test == "meaning" and pair.excuses_leaks:
            leaked.append(e)
        elif e.kind == "precision" and pair.precision == "note":
            notes.append(f"precision: {tell_excess(pair, e)} (step {e.suspect.step})")
        else:
            rest.append(e)
    if leaked:
        most = max(leaked, key=lambda e: e.distance)
        notes.append(
            f"float32 inside the float64 step (a constant in the pair's code) explains "
            f"{most.distance:.2g} of {most.suspect.quantity.label} at step "
            f"{most.suspect.step}; in a difference as small "
            "as that no meaning is seen"
        )
    return rest, notes


def tell_excused(pair: Compared, excused: Sequence[tuple[Suspect, float, float]]) -> list[str]:
    """Tell what a second opinion excused, a line a step."""
    notes = []
    for step in dict.fromkeys(s.step for s, *_ in sorted(excused, key=lambda e: e[0].step)):
        same = [e for e in excused if e[0].step == step]
        suspect, ratio, nearest = max(same, key=lambda e: e[1])
        notes.append(
            f"rounding, step {step}: {suspect.quantity.label} is {ratio:.3g} times its bound "
            f"({suspect.test}), and "
            + (
                f"at a kink: moved by roundings it comes as near as {nearest:.2g} of it"
                if nearest <= 1
                else "ill-conditioned: single roundings of the state move it as far"
            )
        )
    return notes
