"""A rung judged by the records alone: a tolerance, bits, rates, what is not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.parity import distance
from pipeline.parity.compared import Compared, are_close, are_same_bits, relative
from pipeline.parity.judged import (
    PHASE_WORDS,
    Judged,
    accept_names,
    accept_or_fail,
    describe_accepted,
    describe_tolerance,
    phase_number,
    with_accepted,
)
from pipeline.parity.places import describe_place, find_ratio
from pipeline.parity.quantity import Quantity
from pipeline.parity.verdict import Finding, Rung


def find_other_rates(quantity: Quantity, sides: tuple[np.ndarray, np.ndarray]) -> np.ndarray | None:
    """Return the rows at which rates differ; None if there are none.

    The rates that were asked for are equal in every bit. Those that an update used may have been
    held in float32, by an optimizer that keeps its own.
    """
    if quantity.kind != "rate":
        return None
    one, other = (np.asarray(side, np.float64) for side in sides)
    eps = 0.0 if quantity.name == "lr" else float(np.finfo(np.float32).eps)
    slack = eps * np.maximum(np.abs(one), np.abs(other))
    rows = np.flatnonzero(~(np.abs(one - other) <= slack))
    return rows if len(rows) else None


def judge_other_rates(
    pair: Compared,
    name: str,
    rate: Quantity,
    sides: tuple[np.ndarray, np.ndarray],
    *,
    first: int,
    row: int,
) -> Judged:
    """Return the FAIL of a rung whose recorded rates differ, or its PASS where that is accepted.

    Parameters
    ----------
    name
        The rung's.
    sides
        The rates of both runs, one for each step.
    first, row
        The step of row 0, and the first row where the rates differ.
    """
    one, other = sides
    place = describe_place(one[row], other[row])
    far = relative(abs(float(one[row]) - float(other[row])), abs(float(one[row])))
    rung = Rung(
        name=name, verdict="FAIL", kind="meaning", tensor=rate.label, step=first + row,
        source="bits", distance=far, bound=0.0, why="the rates differ",
        tensors={rate.label: float("inf")},
    )  # fmt: skip
    finding = Finding(
        kind="meaning", rung=name, phase="update", step=first + row, tensor=rate.label, **place,
        ratio=find_ratio(one[row], other[row]),
        agreed=f"every step before {first + row}" if name == "trajectory" else "",
    )  # fmt: skip
    names = {rate.key, rate.name, rate.label, "rate", "update"}
    return accept_or_fail(pair, Judged(rung=rung, findings=(finding,)), names)


def judge_by_tolerance(
    pair: Compared, name: str, rows: Mapping[Quantity, tuple[np.ndarray, np.ndarray]], *, first: int
) -> Judged:
    """Judge by the tolerance that was given, element by element."""
    assert pair.tolerance is not None
    tensors: dict[str, float] = {}
    failing: list[tuple[int, int, Quantity]] = []
    accepted: set[str] = set()
    largest, farthest = 0.0, None
    same = True
    for order, (quantity, (one, other)) in enumerate(rows.items()):
        bad = [not are_close(x, y, pair.tolerance) for x, y in zip(one, other, strict=True)]
        tensors[quantity.label] = max(2.0 * any(bad), tensors.get(quantity.label, 0.0))
        same &= are_same_bits(one, other)
        matching = accept_names(name, quantity) & set(pair.accept)
        if any(bad) and not matching:
            failing.append((int(np.argmax(bad)), order, quantity))
        accepted |= matching if any(bad) else set()
        gap = distance.rows(one, other)
        row = int(np.argmax(gap.apart))
        if farthest is None or gap.apart[row] > largest:
            largest, farthest = float(gap.apart[row]), (quantity, row, float(gap.size[row]))
    common: dict[str, Any] = {
        "name": name, "tensors": tensors, "source": describe_tolerance(pair)
    }  # fmt: skip
    if not failing:
        quantity, row, size = farthest or (Quantity("loss", "loss"), 0, 1.0)
        by, why = "tolerance", "every element within the tolerance"
        if same:
            by, why = "bits", "the same bits"
        if accepted:
            by, why = "accepted", describe_accepted(pair, accepted)
        rung = Rung(
            verdict="PASS", by=by, tensor=quantity.label,
            step=None if name == "evaluation" else first + row, distance=relative(largest, size),
            why=why, **common,
        )  # fmt: skip
        return Judged(rung=rung, accepted=frozenset(accepted))
    row, _, quantity = min(failing, key=lambda f: (f[0], phase_number(f[2]), f[1]))
    one, other = (side[row] for side in rows[quantity])
    gap = distance.rows(one[None], other[None])
    rung = Rung(
        verdict="FAIL", kind="meaning", tensor=quantity.label,
        step=None if name == "evaluation" else first + row,
        distance=relative(gap.apart[0], gap.size[0]),
        why=f"beyond {describe_tolerance(pair)}", **common,
    )  # fmt: skip
    place = describe_place(one, other, tolerance=pair.tolerance)
    finding = Finding(
        kind="meaning", rung=name, phase=PHASE_WORDS.get(quantity.kind, name), step=rung.step,
        tensor=quantity.label, **place, ratio=find_ratio(one, other),
        agreed=f"every step before {first + row}" if name == "trajectory" else "",
    )  # fmt: skip
    return Judged(rung=rung, findings=(finding,), accepted=frozenset(accepted))


def abstain_or_fail(
    pair: Compared, name: str, unjudged: Sequence[tuple[Quantity, Any, Any, str]], *, first: int
) -> Judged:
    """Say what cannot be judged; NaN or infinity on one side alone needs no bound to be a FAIL."""
    accepted: list[Judged] = []
    rest = []
    for each in unjudged:
        quantity, one, other, _ = each
        lonely = distance.rows(one, other).lonely
        if (
            lonely.any()
            and pair.evidence is None
            and not _is_end(pair, first + int(lonely.argmax()))
        ):
            row = int(np.argmax(lonely))
            why = "NaN or infinity on one side only"
            rung = Rung(
                name=name, verdict="FAIL", kind="meaning", tensor=quantity.label, step=first + row,
                distance=float("inf"), bound=0.0, why=why, tensors={quantity.label: float("inf")},
            )  # fmt: skip
            finding = Finding(
                kind="meaning", rung=name, phase=PHASE_WORDS.get(quantity.kind, name),
                step=first + row, tensor=quantity.label, detail=why,
                **describe_place(one[row], other[row]),
            )  # fmt: skip
            judged = Judged(rung=rung, findings=(finding,))
            judged = accept_or_fail(pair, judged, accept_names(name, quantity))
            if judged.rung.verdict == "FAIL":
                return judged
            accepted.append(judged)
        else:
            rest.append(each)
    if not rest:
        return with_accepted(accepted[0], accepted[1:])
    quantity, one, other, why = rest[0]
    gap = distance.rows(one, other)
    row = int(np.argmax(gap.differs))
    rung = Rung(
        name=name, verdict="ABSTAIN", tensor=quantity.label,
        step=None if name == "evaluation" else first + row, why=why,
        distance=relative(gap.apart[row], gap.size[row]),
        tensors={q.label: float("nan") for q, *_ in rest},
    )  # fmt: skip
    return with_accepted(Judged(rung=rung), accepted)


def _is_end(pair: Compared, step: int) -> bool:
    """Whether a run diverged at a step: what the two made of it is not known without a probe."""
    return any(
        record.steps == step and not np.isfinite(record.arrays["loss"][-1])
        for record in (pair.a, pair.b)
    )
