"""The two rungs in front of the others where the models are not ours: structure and settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.parity.compared import Compared
from pipeline.parity.judged import Judged, accept_or_fail
from pipeline.parity.verdict import Finding, Rung


def judge_structure(pair: Compared, *, forward: str) -> list[Judged]:
    """Return both rungs; none where the models are ours.

    Parameters
    ----------
    forward
        The verdict on the rung ``forward``, at the weights that the runs start from.
    """
    about = pair.a.about.get("pair")
    if about is None:
        return []
    return [_judge_parameters(pair, about, forward=forward), _judge_settings(pair, about)]


def _judge_parameters(pair: Compared, about: Mapping[str, Any], *, forward: str) -> Judged:
    """Judge whether each trained parameter has one partner that is trained, too, and the map."""
    named = {"torch": "PyTorch", "tensorflow": "TensorFlow"}
    lonely = [
        (side, name, shape) for side, each in about["left_over"].items()
        for name, shape, trained in each if trained
    ]  # fmt: skip
    frozen = about["trained_on_one_side"] if about.get("trains", True) else []
    notes = _list_notes(about)
    held = {side: sum(math.prod(shape) for each, _, shape in lonely if each == side)
            for side in about["left_over"]}  # fmt: skip
    if lonely and len(set(held.values())) == 1:
        listed = ", ".join(f"{name} ({named[side]})" for side, name, _ in lonely[:6])
        why = (
            f"no map is known for {listed}: as many numbers in both, which one side may hold "
            "joined, split or added (mapped only where the pair brings neither loss nor optimizer)"
        )
        rung = Rung(name="structure", verdict="ABSTAIN", why=why)
        return Judged(rung=rung, notes=notes, unmapped=True)
    if lonely:
        by_side = []
        for side in about["left_over"]:
            there = [f"{name} {tuple(shape)}" for each, name, shape in lonely if each == side]
            more = f" and {len(there) - 3} more" if len(there) > 3 else ""
            if there:
                by_side.append(f"{', '.join(there[:3])}{more} in {named[side]}")
        why = f"trained without a partner: {'; '.join(by_side)}"
        return _fail(pair, lonely[0][1], why, notes)
    if frozen:
        name, other, trained_in_torch = frozen[0]
        trained, still = ("PyTorch", "TensorFlow")[:: 1 if trained_in_torch else -1]
        why = f"{name} ({other}) is trained in {trained} and frozen in {still}"
        return _fail(pair, name, why, notes)
    if about["constants"]["buffers"]:
        name, other, apart = about["constants"]["buffers"][0]
        why = f"{name} ({other}) is never trained, and the models were made with other values of it"
        return _fail(pair, name, f"{why} ({apart:.3g} apart)", notes)
    proof = about["proof"]
    gradient = proof["gradient"] if proof["holds"] and about.get("trains", True) else None
    if gradient and not gradient[1] <= 10 * proof["near"]:
        name, apart = gradient
        why = (
            f"with random weights the outputs are the same, and the gradients of {name} {apart:.2g}"
        )
        return _fail(pair, name, f"{why} of the largest gradient apart", notes)
    if proof["holds"]:
        why = "each parameter has one partner, as random weights prove"
        rung = Rung(name="structure", verdict="PASS", by="bits", why=why)
        return Judged(rung=rung, notes=notes)
    why = "with random weights the outputs are not finite on one side alone, or of other shapes"
    if proof["apart"] is not None:
        why = f"with random weights the outputs are {proof['apart']:.2g} of their size apart"
    if forward == "PASS":  # the map is right there: nothing else would agree
        return _fail(pair, "output", f"{why}: the models compute other functions", notes)
    why += ", so the models differ or the map (map.yaml) is wrong"
    return Judged(rung=Rung(name="structure", verdict="ABSTAIN", why=why), notes=notes)


def _fail(pair: Compared, tensor: str, why: str, notes: tuple[str, ...]) -> Judged:
    """Return a FAIL of the structure."""
    finding = Finding(
        kind="meaning", rung="structure", phase="structure", step=None, tensor=tensor, detail=why
    )
    rung = Rung(name="structure", verdict="FAIL", kind="meaning", tensor=tensor, why=why)
    judged = Judged(rung=rung, findings=(finding,), notes=notes)
    return accept_or_fail(pair, judged, {"structure", tensor})


def _list_notes(about: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what is to know about the map besides the verdict."""
    notes = []
    if not about.get("trains", True):
        notes.append(
            "inference alone is judged (verify.train=false): nothing is said of loss, gradients, "
            "updates and what only training mode does"
        )
    for name, other, _ in about["constants"]["frozen"]:
        notes.append(
            f"{name} ({other}) is frozen on both sides, and the models were made with other "
            "values: both start from the same ones here"
        )
    for paths, parts, _ in about.get("regroups", ()):
        names = ", ".join(path.removeprefix("module.") for path in paths)
        how = f"in {parts} parts" if parts > 1 else "as one"
        notes.append(f"PyTorch's {names} is held {how} here, as TensorFlow holds the same numbers")
    for name, one, other in about.get("misfits", ())[:3]:
        notes.append(
            f"{name} returns the shape {tuple(one)} in PyTorch and {tuple(other)} in TensorFlow, "
            "so that no result of it is compared"
        )
    if about["unseen"]:
        notes.append(
            "results of these layers are not compared one by one (an activation inside, or no twin "
            f"that returns as much): {', '.join(about['unseen'])}"
        )
    for group in about["proof"]["interchangeable"]:
        notes.append(
            f"no value tells these apart, so the map may exchange them: {', '.join(group)}"
        )
    if about["proof"]["changed"]:
        changed = ", ".join(about["proof"]["changed"])
        notes.append(f"values, not names, decided what belongs together: {changed}")
    for side, each in about["left_over"].items():
        still = [name for name, _, trained in each if not trained]
        if still:
            notes.append(f"left as they are in {side}, without a partner: {', '.join(still)}")
    return tuple(notes)


def _judge_settings(pair: Compared, about: Mapping[str, Any]) -> Judged:
    """List the settings that differ; they are suspects, and the numbers decide."""
    differing = about["settings"]
    if not differing:
        rung = Rung(name="settings", verdict="PASS", by="bits", why="no known setting differs")
        return Judged(rung=rung)
    notes = tuple(
        f"another {setting}: {_show(a)} in torch ({one}) and {_show(b)} in tensorflow ({other})"
        for one, other, setting, a, b in differing
    )
    why = f"{len(differing)} differ, and the numbers decide"
    return Judged(rung=Rung(name="settings", verdict="PASS", by="bits", why=why), notes=notes)


def _show(value: Any) -> str:
    """Return a setting's value as text, decimals without their last digits."""
    return f"{value:.12g}" if isinstance(value, float) else str(value)
