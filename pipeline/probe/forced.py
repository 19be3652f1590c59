"""Every step of both sides from the same recorded state, in float32 and in float64."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipeline.backends.base import Arrays, Start, Stepper
from pipeline.parity import distance
from pipeline.parity.evidence import Evidence
from pipeline.parity.quantity import Quantity, outcome_quantity
from pipeline.probe.side import ProbedSide
from pipeline.record.record import RunRecord

NARROW, WIDE = "float32", "float64"
Outcomes = Mapping[tuple[str, str], Arrays]
"""By side and precision, stacks with a row a step."""
_BYTES = 1 << 27  # of the four outcomes of some steps that are held together


def measure_steps(sides: Mapping[str, ProbedSide], evidence: Evidence, *, steps: int) -> int:
    """Measure every update from a's states and from b's; return those before both left the range.

    Each phase is forced: an update gets the recorded gradient of the run whose state it starts
    from. Where a loop hands out no gradients, the whole step is forced instead. Where both states
    are the same bits, one measurement stands for both.
    """
    finite_steps = steps
    makers = {source: _make_steppers(sides) for source in "ab"}
    if any(side.is_compiled for side in sides.values()):  # a graph is compiled once
        makers["b"] = makers["a"]
    for chunk in _chunks(sides["a"], steps):
        starts = {
            source: {
                name: [side.start(k, state=sides[source]) for k in chunk]
                for name, side in sides.items()
            }
            for source in "ab"
        }
        outcomes: dict[str, Outcomes]
        outcomes = {"a": _run_all(sides, makers["a"], starts["a"], range(len(chunk)))}
        pairs = zip(starts["a"]["a"], starts["b"]["b"], strict=True)
        rest = [row for row, (one, other) in enumerate(pairs) if not _is_same_state(one, other)]
        outcomes["b"] = _merge(outcomes["a"], _run_all(sides, makers["b"], starts["b"], rest), rest)
        for source in "ab":
            out_of_range = leave_range(outcomes[source], native=sides[source].dtype)
            if out_of_range is not None and out_of_range.any():
                finite_steps = min(finite_steps, chunk[int(np.argmax(out_of_range))] - 1)
            _measure(
                sides, evidence, source, chunk, starts[source][source], outcomes[source],
                out_of_range,
            )  # fmt: skip
    return finite_steps


_FREE = 4  # places at which two updates in a row are made without anything given


def measure_free(sides: Mapping[str, ProbedSide], evidence: Evidence, *, steps: int) -> None:
    """Measure two updates in a row from one state, each with its own gradient, at a few places."""
    places = sorted({int(k) for k in np.linspace(1, steps - 1, _FREE)}) if steps > 1 else []
    evidence.about["free"] = places
    if not places:
        return
    steppers = _make_steppers(sides)
    for source in "ab":
        ends = {
            (name, dtype): [
                two_updates(sides[name], stepper, k, state=sides[source], dtype=dtype)
                for k in places
            ]
            for (name, dtype), stepper in steppers.items()
        }
        for name, rows in sides[source].record.named("param").items():
            four = {key: np.stack([end[f"param/{name}"] for end in each])
                    for key, each in ends.items()}  # fmt: skip
            begin = np.stack([rows[k - 1] for k in places])
            norms = measure_rows(four, native=sides[source].dtype, begin=begin)
            evidence.put(Quantity("free", name), source, norms)


def two_updates(
    side: ProbedSide, stepper: Stepper, k: int, *, state: ProbedSide, dtype: str
) -> Arrays:
    """Return what updates k and k + 1 leave, from a side's state before k, with nothing given."""
    side.configure(dtype)
    start = side.start(k, state=state)._replace(gradients=None)
    return go_on(side, stepper, start)


def go_on(side: ProbedSide, stepper: Stepper, start: Start) -> Arrays:
    """Return what an update and the next one leave."""
    once = stepper(start)
    parts = side.parts(start.k + 1)
    slots: dict[str, dict[str, np.ndarray]] = {slot: {} for slot in start.slots}
    for slot, arrays in slots.items():
        for name in start.slots[slot]:
            arrays[name] = once[f"slot/{slot}/{name}"]
    return stepper(
        Start(
            k=start.k + 1,
            values={name: once[f"param/{name}"] for name in start.values},
            slots=slots,
            gradients=None,
            parts=parts,
            masks=side.masks(start.k + 1, [len(x) for x, *_ in parts]),
        )
    )


def _make_steppers(sides: Mapping[str, ProbedSide]) -> dict[tuple[str, str], Stepper]:
    """Return each side's stepper in both precisions, by side and precision."""
    return {
        (name, dtype): side.stepper(dtype)
        for name, side in sides.items() for dtype in (NARROW, WIDE)
    }  # fmt: skip


def _chunks(side: ProbedSide, steps: int) -> Iterator[range]:
    """Yield ranges of the steps from 1 on, each of as many as `_BYTES` holds, 256 at most."""
    size = sum(values.size for values in side.first.values())
    rows = max(1, min(256, _BYTES // (48 * size * (2 + len(side.job.update.slots)))))
    for first in range(1, steps + 1, rows):
        yield range(first, min(first + rows, steps + 1))


def _is_same_state(one: Start, other: Start) -> bool:
    """Whether two updates start from the same bits, their given gradients included."""
    groups = [(one.values, other.values), (one.gradients or {}, other.gradients or {})]
    groups += [(one.slots[slot], other.slots[slot]) for slot in one.slots if slot in other.slots]
    return [*one.slots] == [*other.slots] and all(
        mine.keys() == theirs.keys()
        and all(mine[name].tobytes() == theirs[name].tobytes() for name in mine)
        for mine, theirs in groups
    )


def _run_all(
    sides: Mapping[str, ProbedSide],
    steppers: Mapping[tuple[str, str], Stepper],
    starts: Mapping[str, list[Start]],
    rows: Sequence[int],
) -> dict[tuple[str, str], Arrays]:
    """Make some steps of both sides in both precisions; return stacks with a row a step."""
    if not len(rows):
        return {}
    return {
        (name, dtype): _run(sides[name], dtype, stepper, [starts[name][row] for row in rows])
        for (name, dtype), stepper in steppers.items()
    }


def _run(side: ProbedSide, dtype: str, stepper: Stepper, starts: Sequence[Start]) -> Arrays:
    """Return what one update from each start gives in one precision, one row for each start."""
    side.configure(dtype)
    gc.freeze()  # what is kept makes the collector run; it need not look at the whole framework
    try:
        outcomes = [stepper(start) for start in starts]
    finally:
        gc.unfreeze()
    return {
        key: np.stack([outcome[key] for outcome in outcomes])
        for key in outcomes[0]
        if outcome_quantity(key) is not None
    }


def _merge(
    whole: Outcomes,
    part: Outcomes,
    rows: Sequence[int],
) -> Outcomes:
    """Return stacks with some of their rows replaced."""
    if not part:
        return whole
    merged = {}
    for name, arrays in whole.items():
        merged[name] = {key: np.array(values) for key, values in arrays.items()}
        for key, values in part[name].items():
            merged[name][key][list(rows)] = values
    return merged


def _measure(
    sides: Mapping[str, ProbedSide],
    evidence: Evidence,
    source: str,
    chunk: range,
    starts: Sequence[Start],
    outcomes: Outcomes,
    out_of_range: np.ndarray | None,
) -> None:
    """Put into the evidence what the steps of a chunk, made from one source's states, measure."""
    native = sides[source].dtype
    measured: dict[Quantity, dict[str, np.ndarray]] = {}
    for key in outcomes["a", WIDE]:
        quantity = outcome_quantity(key)
        if quantity is None or key not in outcomes["b", WIDE]:
            continue
        if outcomes["a", WIDE][key].dtype != np.float64 or (
            outcomes["b", WIDE][key].dtype != np.float64
        ):
            evidence.about["broken"] = (
                f"float64 is no float64: {quantity.key} is {outcomes['a', WIDE][key].dtype} in one "
                f"and {outcomes['b', WIDE][key].dtype} in the other"
            )
        begin = None
        if quantity.kind == "parameter":
            begin = np.stack([start.values[quantity.name] for start in starts])
        four = {name: rows[key] for name, rows in outcomes.items()}
        measured[quantity] = measure_rows(
            four, native=native, begin=begin,
            out_of_range=out_of_range if quantity.kind == "gradient" else None,
        )  # fmt: skip
        recorded = recorded_rows(sides[source].record, quantity, chunk)
        if recorded is not None:
            again = four[source, native]
            put_replay(evidence, quantity, source, recorded, again)
    widen_gradients(measured)
    for quantity, rows in measured.items():
        evidence.put(quantity, source, rows)


def leave_range(outcomes: Outcomes, *, native: str) -> np.ndarray | None:
    """Return for each step whether both sides' loss, or one gradient of both, is not finite.

    From there on kernels differ rightly: the derivative of a dead unit is ``0·inf``, which is NaN
    where it is multiplied and 0 where it is selected.
    """
    gone: np.ndarray | None = None
    for key in outcomes["a", native].keys() & outcomes["b", native].keys():
        quantity = outcome_quantity(key)
        if quantity is not None and quantity.kind in ("loss", "gradient"):
            sides = (outcomes[side, native][key] for side in "ab")
            bad = [(~np.isfinite(rows.reshape(len(rows), -1))).any(axis=1) for rows in sides]
            both = np.logical_and(bad[0], bad[1])
            gone = both if gone is None else np.logical_or(gone, both)
    return gone


def widen_gradients(measured: Mapping[Quantity, dict[str, np.ndarray]]) -> None:
    """Let no gradient be smaller than the rounding of all gradients of its step, eps32 of them.

    One whose exact value is 0, as its addends cancel, is nothing but rounding, and its own norm no
    measure of that.
    """
    gradients = [rows for quantity, rows in measured.items() if quantity.kind == "gradient"]
    if not gradients:
        return
    whole = distance.norms(np.stack([rows["size"][:, 0] for rows in gradients], axis=1))[:, :1]
    for rows in gradients:
        rows["size"] = np.fmax(rows["size"], float(np.finfo(NARROW).eps) * whole)


def recorded_rows(record: RunRecord, quantity: Quantity, chunk: range) -> np.ndarray | None:
    """Return a run's recorded rows of some steps; None if it has none of that quantity."""
    prefix = {"gradient": "grad", "slot": "slot", "parameter": "param"}
    shift = int(quantity.kind == "parameter")
    name = "loss" if quantity.kind == "loss" else f"{prefix[quantity.kind]}/{quantity.name}"
    rows = record.arrays.get(name)
    if rows is None:
        return None
    part: np.ndarray = rows[chunk.start - 1 + shift : chunk.stop - 1 + shift]
    return part


def measure_rows(
    four: Mapping[tuple[str, str], np.ndarray],
    *,
    native: str,
    begin: np.ndarray | None = None,
    is_step: bool = True,
    out_of_range: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return the norms of one quantity, row by row; see `pipeline.parity.evidence.Measured`.

    Parameters
    ----------
    four
        The quantity of both sides in both precisions, stacks of one shape.
    native
        The precision of the runs.
    begin
        Of a parameter what it was before: then the quantity is the update, and its size
        ``‖Δw‖ + ‖w‖``.
    is_step
        Whether the quantity is of an update, in which both sides may diverge. Elsewhere an element
        that is not finite has to be that on both sides.
    out_of_range
        The rows in which both sides left the range of numbers (`leave_range`): there an element
        that is not finite on either side is not compared.
    """
    bad = [~np.isfinite(four[side, native]) for side in "ab"]
    shared = bad[0] & bad[1]
    if out_of_range is not None:
        shared |= (bad[0] | bad[1]) & out_of_range.reshape(-1, *[1] * (shared.ndim - 1))
    if shared.any():  # those are alike; the others are measured
        four = {key: np.where(shared, 0, values) for key, values in four.items()}
        begin = None if begin is None else np.where(shared, 0, begin)
    wide = {side: four[side, WIDE].astype(np.float64) for side in "ab"}
    narrow = {side: four[side, NARROW].astype(np.float64) for side in "ab"}
    lonely, diverged = _not_finite(four, native=native)
    if not is_step:
        lonely, diverged = lonely | diverged, np.zeros_like(diverged)
    diverged = diverged | shared.reshape(len(shared), -1).all(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        own_error = {side: distance.norms(narrow[side] - wide[side]) for side in "ab"}
        apart = distance.norms(wide["a"] - wide["b"])
        free = apart if native == WIDE else distance.norms(narrow["a"] - narrow["b"])
        updates: dict[str, np.ndarray] = {}
        if begin is None:
            size = _larger(distance.norms(wide["a"]), distance.norms(wide["b"]))
        else:
            before = begin.astype(np.float64)
            update = _larger(distance.norms(wide["a"] - before), distance.norms(wide["b"] - before))
            size = distance.norms(before) + update
            updates = {"update": update}
    quiet = diverged[:, None]
    return updates | {
        "own_a": np.where(quiet, 0.0, own_error["a"]),
        "own_b": np.where(quiet, 0.0, own_error["b"]),
        "apart": np.where(quiet, 0.0, apart),
        "size": np.where(quiet, 0.0, size),
        "free": np.where(quiet, 0.0, free),
        "lonely": lonely,
        "diverged": diverged,
    }


def _larger(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the larger of two norms; of one that is not finite, the other."""
    larger: np.ndarray = np.maximum(*(np.where(np.isfinite(n), n, 0.0) for n in (one, other)))
    return larger


def _not_finite(
    four: Mapping[tuple[str, str], np.ndarray], *, native: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each row whether one side alone is not finite, and whether both diverge.

    Both diverge where each is not finite or within a factor 2 of the range's end, by the float64
    value as well: then one of them may be finite still.
    """
    rows = {side: four[side, native].reshape(len(four[side, native]), -1) for side in "ab"}
    end = float(np.finfo(native).max) / 2
    bad, near = {}, {}
    for side in "ab":
        finite = np.isfinite(rows[side])
        wide = four[side, WIDE].reshape(len(rows[side]), -1)
        bad[side] = (~finite).any(axis=1)
        with np.errstate(invalid="ignore"):
            far = (np.abs(rows[side]) >= end) | (np.abs(wide) >= end)
        near[side] = bad[side] | far.any(axis=1)
    both = near["a"] & near["b"] & (bad["a"] | bad["b"])
    return (bad["a"] | bad["b"]) & ~both, both


def put_replay(
    evidence: Evidence, quantity: Quantity, side: str, recorded: np.ndarray, again: np.ndarray
) -> None:
    """Add how far a record is from its own steps done again; bits that are equal are 0 apart."""
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.asarray(recorded, np.float64) - again.astype(np.float64)
    same = (np.asarray(recorded) == again) | (np.isnan(recorded) & np.isnan(again))
    rows = distance.norms(np.where(same, 0.0, gap))
    key = f"replay/{side}/{quantity.key}"
    before = evidence.arrays.get(key)
    evidence.arrays[key] = rows if before is None else np.concatenate([before, rows])


def measure_forward(sides: Mapping[str, ProbedSide], evidence: Evidence) -> None:
    """Measure the activations of the first batch at a's start, then at b's."""
    for source in "ab":
        values = sides[source].first
        shown = {
            (name, dtype): side.layers(dtype, values)
            for name, side in sides.items() for dtype in (NARROW, WIDE)
        }  # fmt: skip
        native = sides[source].dtype
        for name, array in shown["a", WIDE].items():
            others = [each.get(name) for each in shown.values()]
            if any(other is None or other.shape != array.shape for other in others):
                continue
            quantity = Quantity("activation", name)
            four = {key: each[name][None] for key, each in shown.items()}
            evidence.put(quantity, source, measure_rows(four, native=native, is_step=False))
            recorded = sides[source].record.arrays.get(f"layer/{name}")
            if recorded is not None and recorded.shape == array.shape:
                put_replay(evidence, quantity, source, recorded[None], four[source, native])
