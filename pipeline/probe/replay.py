"""Why a record does not come out of its own states again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from pipeline.backends.base import Arrays
from pipeline.parity import bounds, distance
from pipeline.parity.evidence import Evidence
from pipeline.parity.quantity import PHASES, Quantity, parse_key
from pipeline.probe.forced import recorded_rows
from pipeline.probe.side import ProbedSide
from pipeline.record.record import RunRecord

Rerun = Callable[[str], RunRecord]
"""Given a side's name, trains it freely once more, as its run did, validation and all."""


def explain_replays(sides: Mapping[str, ProbedSide], evidence: Evidence, rerun: Rerun) -> None:
    """Say of each side whose record does not come out again why, as ``about["replay"]``.

    ``draws``: a step made twice gives two results, by an operation that draws from a generator.
    ``state``: a free run gives the record, so something besides the update changes the state
    between two steps. ``stale``: neither does; other code, another machine, or a changed record.
    """
    for name, side in sides.items():
        first = find_first_miss(side, evidence, name)
        if first is None:
            continue
        evidence.about["replay"] |= {name: _explain(side, evidence, name, first, rerun)}


def find_first_miss(side: ProbedSide, evidence: Evidence, name: str) -> dict[str, Any] | None:
    """Return the first quantity of a side's record that its own states do not give again.

    Returns
    -------
    dict or None
        ``quantity``, ``step``, ``ratio``, ``distance`` and ``bound`` (relative to the size).
    """
    misses = []
    for key, apart in evidence.arrays.items():
        if not key.startswith(f"replay/{name}/"):
            continue
        quantity = parse_key(key.removeprefix(f"replay/{name}/"))
        m = evidence.measured(quantity, name)
        own_error = np.minimum(m.own_a, m.own_b)  # a coarse side is not its own excuse
        bound = bounds.replay_bound(own_error, m.size, n=evidence.terms(quantity), dtype=side.dtype)
        beyond = bounds.is_beyond(np.where(m.diverged[:, None], 0.0, apart), bound)
        if not beyond.any():
            continue
        row = int(np.argmax(beyond))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = float(np.nan_to_num(apart[row] / bound[row], nan=np.inf).max())
        size = float(m.size[row, 0]) or 1.0
        misses.append({
            "quantity": list(quantity), "step": _step(evidence, quantity, row), "ratio": ratio,
            "distance": float(apart[row, 0]) / size, "bound": float(bound[row, 0]) / size,
        })  # fmt: skip
    return min(misses, key=_order, default=None)


def _step(evidence: Evidence, quantity: Quantity, row: int) -> int:
    """Return the step of a row: of scores from the list of scored steps, else ``row + 1``."""
    if quantity.kind == "score" or quantity.name == "validation":
        return int(evidence.about["scored"][row])
    return row + 1


def _order(miss: Mapping[str, Any]) -> tuple[int, int]:
    """Return the sorting key of a miss: activations, then by step and phase, then the scores."""
    kind = miss["quantity"][0]
    if kind == "activation":
        return 0, 0
    if kind in ("prediction", "score"):
        return 1 << 60, 0
    return int(miss["step"]), PHASES.index(kind)


def _explain(
    side: ProbedSide, evidence: Evidence, name: str, miss: dict[str, Any], rerun: Rerun
) -> dict[str, Any]:
    """Return a miss with its kind, ``draws``, ``state`` or else ``stale``, and its text."""
    quantity, step = Quantity(*miss["quantity"]), miss["step"]
    label = side.record.label()
    where = f"{quantity.key} at step {step}" if quantity.kind in PHASES else quantity.key
    if quantity.kind in PHASES:
        draws = find_draws(side, step)
        if draws is not None:
            return miss | {"kind": "draws", "text": _tell_draws(side, draws)}
        again = rerun(name)
        if _gives_record(side, evidence, again, name, quantity, step):
            text = f"something besides the update changes the state of {label} before step {step}"
            return miss | {"kind": "state", "text": text}
    elif quantity.kind in ("prediction", "score"):
        text = _tell_other_weights(side, quantity, rerun(name))
        if text:
            return miss | {"kind": "state", "text": f"{label}: {text}"}
    text = (
        f"{label} does not come out again as it was recorded ({where}): other code, another "
        "machine, a changed record, or a draw that is no operation of its framework"
    )
    return miss | {"kind": "stale", "text": text}


def _tell_other_weights(side: ProbedSide, quantity: Quantity, again: RunRecord) -> str:
    """Say that a run was scored with other weights than it says, if that is so."""
    if quantity.kind == "score":
        key = f"val/{quantity.name}"
        same = np.array_equal(side.record.arrays[key], again.arrays.get(key, ()), equal_nan=True)
        return f"{key} is not that of the weights after its steps" if same else ""
    train = side.job.settings.train
    for kind in ("last", "best"):
        values = side.record.named(kind)
        if kind == train.weights or not values:
            continue
        outputs = side.predict(side.dtype, values, split="test")
        if np.array_equal(outputs, side.record.arrays["prediction"], equal_nan=True):
            return f"its predictions are those of its {kind} weights, not of its {train.weights}"
    return ""


def note_draws(sides: Mapping[str, ProbedSide], evidence: Evidence) -> bool:
    """Note in ``about["replay"]`` which side does not repeat itself; whether there is one.

    Asked before anything is measured: the own error of a side that draws is the draw itself, and
    would excuse everything.
    """
    for name, side in sides.items():
        draws = find_draws(side, 1, side.record.steps) or _draws_shown(side)
        if draws is not None:
            miss = {"quantity": ["loss", "loss"], "step": 1, "ratio": np.inf, "kind": "draws"}
            evidence.about["replay"] |= {name: miss | {"text": _tell_draws(side, draws)}}
    return bool(evidence.about["replay"])


def _tell_draws(side: ProbedSide, draws: str) -> str:
    """Say that a run draws by itself, and by which operations."""
    label = side.record.label()
    return f"{label} does not repeat itself: made twice it gives two results; it draws by {draws}"


def find_draws(side: ProbedSide, *steps: int) -> str | None:
    """Name the operations by which one of some steps draws; None if each repeats itself.

    Made twice by one program, which goes on with its generators as the loop does.
    """
    stepper = side.stepper(side.dtype, eager=True)
    for step in steps:
        draws = _draws_of(side, partial(stepper, side.start(step)))
        if draws is not None:
            return draws
    return None


def _draws_shown(side: ProbedSide) -> str | None:
    """Name the operations by which activations or predictions draw, where no step shows it."""
    draws = _draws_of(side, lambda: side.layers(side.dtype, side.first))
    if draws is None and "prediction" in side.record.arrays:
        values = side.scored()
        draws = _draws_of(
            side, lambda: {"prediction": side.predict(side.dtype, values, split="test")}
        )
    return draws


def _draws_of(side: ProbedSide, call: Callable[[], Arrays]) -> str | None:
    """Return the operations by which a call draws, None where two calls agree to 30 roundings."""
    results: list[Arrays] = []
    draws = side.backend.observe(lambda: results.append(call())).draws
    if not draws:
        return None
    one, other = results[0], call()
    bound = 30 * float(np.finfo(side.dtype).eps)
    for key, values in one.items():
        gap = distance.norms((values.astype(np.float64) - other[key])[None])[0, 0]
        size = distance.norms(values[None])[0, 0]
        if not key.startswith("scalar/") and not gap <= bound * size:
            return ", ".join(sorted(draws))
    return None


def _gives_record(
    side: ProbedSide, evidence: Evidence, again: RunRecord, name: str, quantity: Quantity, step: int
) -> bool:
    """Whether a free run gives the recorded rows of a quantity up to a step."""
    rows = [recorded_rows(record, quantity, range(1, step + 1)) for record in (side.record, again)]
    if rows[0] is None or rows[1] is None or len(rows[0]) != len(rows[1]):
        return False
    m = evidence.measured(quantity, name)
    own_error = np.minimum(m.own_a, m.own_b)
    bound = bounds.replay_bound(own_error, m.size, n=evidence.terms(quantity), dtype=side.dtype)[
        :step
    ]
    one, other = (np.asarray(each, np.float64) for each in rows)
    with np.errstate(invalid="ignore"):
        gap = np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0.0, one - other)
    return not bounds.is_beyond(distance.norms(gap)[-1:], bound[-1:]).any()
