"""A second opinion on a suspect: whether single roundings of the state explain it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from pipeline import backends, seeds, watching
from pipeline.backends.base import Start, Stepper
from pipeline.pairs.registry import find_pair
from pipeline.parity import bounds, distance
from pipeline.parity.evidence import DRAWS, Evidence, Suspect
from pipeline.parity.quantity import TEST, VALIDATION, Quantity, outcome_quantity
from pipeline.probe.forced import NARROW, WIDE, go_on
from pipeline.probe.side import ProbedSide

_MOST_ROUNDINGS = 64.0  # of float32, that a sum may be off; TF32 is off by 4096 of them
ROUNDING = {NARROW: 2.0**-23, WIDE: 2.0**-52}
"""The distance from 1 to the next number: a number is moved to a neighbour, or stays."""


class Makers(NamedTuple):
    """What makes single steps again, by side and precision, and by side with moved roundings."""

    exact: Mapping[tuple[str, str], _Redo]
    moving: Mapping[str, _Redo]


def open_makers(sides: Mapping[str, ProbedSide]) -> Makers:
    """Return what makes steps again; each makes its model, or its graph, once."""
    return Makers(
        {(name, dtype): _Redo(side, dtype)
         for name, side in sides.items() for dtype in (NARROW, WIDE)},
        {name: _Redo(side, WIDE, eager=True) for name, side in sides.items()},
    )  # fmt: skip


def give_opinions(
    sides: Mapping[str, ProbedSide], evidence: Evidence, suspects: Sequence[Suspect], makers: Makers
) -> None:
    """Add a second opinion on each suspect, and the values themselves.

    Where a function jumps (relu, max pool, clipping) or cancels, one measured error can be too
    small by luck. The state is moved by single roundings, relative to each element, and so is every
    intermediate result that the model shows (equal numbers alike, so that a tie stays one), and the
    float64 step is made again, `DRAWS` times: of `meaning` by roundings of float64, of `precision`
    by those of float32. It excuses a suspect in two ways.

    - *A kink*: some draw of each side agrees with the other side as it is (of `precision`, some
      draw of the coarse side with its own float32 step; there also of as many draws by ``√n``
      roundings, which is what a sum of n terms is off) within the bound. Moving as far is not
      enough: an unrelated fault would hide behind any kink. Nor is one side: a fault may act on an
      exact number, and be off in every draw.
    - *Ill-conditioned*: with ``U``, the lower quartile of how far the draws move the quantity, of
      the side that they move less, the bound holds with U in place of a smaller own error. No
      arithmetic of that precision avoids U: one rounding of each number makes it. Beside a kink U
      is small, for every other draw stays on its side of it.

    A step that is within its bound when it is made alone is not excused: it depends on the steps
    before it by more than its state.
    """
    for suspect in suspects:
        _keep_vectors(sides, evidence, suspect, makers.exact)
        opinion = {"suspect": suspect.to_list(), "excused": False, "nearest": None, "alone": True}
        if _is_beyond_alone(sides, evidence, suspect):
            nearest, unavoidable = _draw(sides, evidence, suspect, makers.moving)
            widened = _bound(sides, evidence, suspect, unavoidable=unavoidable)
            apart = _distance(sides, evidence, suspect)
            is_avoidable = bool(bounds.is_beyond(apart[None], widened[None])[0])
            opinion |= {"excused": nearest <= 1 or not is_avoidable, "nearest": nearest,
                        "unavoidable": float(unavoidable[0])}  # fmt: skip
        else:
            opinion["alone"] = False
        evidence.about["opinions"] = [*evidence.about["opinions"], opinion]


class _Redo:
    """Makes any quantity of one side in one precision again, from a state that is given.

    With `eager` each operation is made by itself, so that intermediate results can be moved.
    """

    def __init__(self, side: ProbedSide, dtype: str, *, eager: bool = False) -> None:
        self.side = side.wide if dtype == WIDE else side
        self.dtype, self._eager = dtype, eager
        self._stepper: Stepper | None = None

    def moved(
        self, quantity: Quantity, start: Start, rng: np.random.Generator, unit: float
    ) -> np.ndarray:
        """Return the quantity with the start and every shown result moved by single roundings."""

        def move(name: str, x: Any) -> Any:
            return self.side.backend.scale(x, partial(draw_factors, rng=rng, unit=unit))

        start = move_by_roundings(start, rng, unit=unit)
        if self.side.job.settings.train.loop == "fit":  # its step is a graph
            return self.once(quantity, start)
        with watching.moved(move):
            return self.once(quantity, start)

    def once(self, quantity: Quantity, start: Start) -> np.ndarray:
        """Return the quantity from a start, as the side makes it in its precision."""
        if quantity.kind == "activation":
            return self._activation(quantity, start)
        if quantity.kind == "prediction":
            split = {TEST: "test", VALIDATION: "val"}[quantity]
            return self.side.predict(self.dtype, start.values, split=split)
        if self._stepper is None:
            self._stepper = self.side.stepper(self.dtype, eager=self._eager)
        self.side.configure(self.dtype)
        if quantity.kind == "free":
            return np.asarray(go_on(self.side, self._stepper, start)[f"param/{quantity.name}"])
        outcome = self._stepper(start)
        prefix = {"gradient": "grad", "slot": "slot", "parameter": "param"}
        key = "loss" if quantity.kind == "loss" else f"{prefix[quantity.kind]}/{quantity.name}"
        return np.asarray(outcome[key])

    def _activation(self, quantity: Quantity, start: Start) -> np.ndarray:
        """Return an activation of the first batch at a start, in training mode."""
        model = self.side.filled(self.dtype, start.values)
        masks = self.side.masks(1, [len(start.parts[0][0])])
        x = start.parts[0][0]
        shown = self.side.backend.layers(model, x, masks[0] if masks else [])
        return np.asarray(shown[quantity.name])


def start_of(sides: Mapping[str, ProbedSide], suspect: Suspect, name: str) -> Start:
    """Return what a side starts from for a suspect: the recorded state of the suspect's source."""
    source, quantity = sides[suspect.source], suspect.quantity
    if quantity.kind == "prediction":
        values = dict(source.scored())
        if quantity == VALIDATION:
            values = {n: rows[suspect.step] for n, rows in source.record.named("param").items()}
        return Start(0, values, {}, None, [], None)
    start = sides[name].start(suspect.step, state=source)
    if quantity.kind == "free":
        start = start._replace(gradients=None)
    return start._replace(values=source.first) if quantity.kind == "activation" else start


def _keep_vectors(
    sides: Mapping[str, ProbedSide],
    evidence: Evidence,
    suspect: Suspect,
    redo: Mapping[tuple[str, str], _Redo],
) -> None:
    """Keep a suspect's values of both sides in both precisions, and what a parameter was before."""
    quantity = suspect.quantity
    end = f"{suspect.source}/{suspect.step}/{quantity.key}"
    for (name, dtype), each in redo.items():
        value = each.once(quantity, start_of(sides, suspect, name))
        evidence.arrays[f"vector/{name}{dtype[-2:]}/{end}"] = np.array(value)
    if quantity.kind in ("parameter", "free"):
        start = start_of(sides, suspect, suspect.source)
        before = np.asarray(start.values[quantity.name], np.float64)
        evidence.arrays[f"vector/start/{end}"] = before


def _distance(sides: Mapping[str, ProbedSide], evidence: Evidence, suspect: Suspect) -> np.ndarray:
    """Return the suspect's distance in both norms, of its step made again alone."""
    end = f"{suspect.source}/{suspect.step}/{suspect.quantity.key}"
    side = suspect.side
    names = ("a64", "b64") if suspect.test == "meaning" else (f"{side}32", f"{side}64")
    one, other = (evidence.arrays[f"vector/{n}/{end}"].astype(np.float64) for n in names)
    with np.errstate(invalid="ignore", over="ignore"):
        return distance.norms((one - other)[None])[0]


def _is_beyond_alone(sides: Mapping[str, ProbedSide], evidence: Evidence, suspect: Suspect) -> bool:
    """Whether a suspect is beyond its bound as well when its step alone is made again."""
    bound = _bound(sides, evidence, suspect)
    return bool(bounds.is_beyond(_distance(sides, evidence, suspect)[None], bound[None])[0])


def _draw(
    sides: Mapping[str, ProbedSide],
    evidence: Evidence,
    suspect: Suspect,
    drawing: Mapping[str, _Redo],
) -> tuple[float, np.ndarray]:
    """Move the state by single roundings and make the step again.

    Returns
    -------
    nearest
        How many times the bound the nearest draw is from what it should agree with, of the side
        that comes less near.
    unavoidable
        The lower quartile of how far the draws move the quantity, of the side that they move less.
    """
    quantity = suspect.quantity
    end = f"{suspect.source}/{suspect.step}/{quantity.key}"
    vectors = {n: evidence.arrays[f"vector/{n}/{end}"] for n in ("a32", "b32", "a64", "b64")}
    bound = np.maximum(_bound(sides, evidence, suspect), np.finfo(float).tiny)
    goals = {"a": vectors["b64"], "b": vectors["a64"]}
    unit = ROUNDING[WIDE]
    if suspect.test == "precision":
        goals = {side: vectors[f"{side}32"] for side in "ab"}
        unit = ROUNDING[NARROW]
    nearest = dict.fromkeys("ab", np.inf)
    moves: dict[str, list[np.ndarray]] = {"a": [], "b": []}

    def draw(side: str, unit: float) -> np.ndarray:
        """Make the quantity once more with moved roundings, and note how near it comes."""
        value = drawing[side].moved(quantity, starts[side], rng, unit).astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            gap = distance.norms((value - goals[side])[None])[0]
        times = np.where(gap == 0, 0.0, gap / bound)
        nearest[side] = min(nearest[side], float(np.nan_to_num(times, nan=np.inf).max()))
        return value

    rng = seeds.stream(sides["a"].job.settings.seed, f"opinion.{suspect.to_list()}")
    starts = {name: start_of(sides, suspect, name) for name in goals}
    for _ in range(DRAWS):
        for side in goals:
            with np.errstate(invalid="ignore", over="ignore"):
                moved = distance.norms((draw(side, unit) - vectors[f"{side}64"])[None])[0]
            moves[side].append(np.nan_to_num(moved, nan=0.0, posinf=0.0))
    quartiles = [np.quantile(each, 0.25, axis=0, method="lower") for each in moves.values()]
    if suspect.test == "meaning":
        return max(nearest.values()), np.minimum(*quartiles)
    roundings = min(_MOST_ROUNDINGS, float(np.sqrt(evidence.about["terms"]["sample"])))
    for _ in range(DRAWS):
        if nearest[suspect.side] <= 1:
            break
        draw(suspect.side, unit * roundings)
    return nearest[suspect.side], np.minimum(*quartiles)


def draw_factors(values: np.ndarray, *, rng: np.random.Generator, unit: float) -> np.ndarray:
    """Return a factor for each value, 1 or a neighbour of it; equal values have equal factors.

    So numbers that tie go on to tie: which of them is the largest is a matter of meaning then, and
    no rounding of theirs.
    """
    _, places = np.unique(values, return_inverse=True)
    drawn = 1 + unit * rng.integers(-1, 2, size=int(places.max(initial=0)) + 1)
    return np.asarray(drawn[places].reshape(values.shape))


def move_by_roundings(start: Start, rng: np.random.Generator, *, unit: float) -> Start:
    """Return a start whose state is moved by at most one rounding of each number; 0 stays.

    The samples stay: they are no results, and a fault may act on an exact one of them.
    """

    def moved(array: np.ndarray) -> np.ndarray:
        wide = np.asarray(array, np.float64)
        shifted: np.ndarray = wide * draw_factors(wide, rng=rng, unit=unit)
        return shifted

    gradients = start.gradients
    return start._replace(
        values={name: moved(array) for name, array in start.values.items()},
        slots={
            slot: {name: moved(array) for name, array in arrays.items()}
            for slot, arrays in start.slots.items()
        },
        gradients=None if gradients is None else {n: moved(g) for n, g in gradients.items()},
    )


def _bound(
    sides: Mapping[str, ProbedSide],
    evidence: Evidence,
    suspect: Suspect,
    *,
    unavoidable: np.ndarray | None = None,
) -> np.ndarray:
    """Return the suspect's bound in both norms, as it was judged by.

    An error that is unavoidable there stands for smaller own errors.
    """
    m = evidence.measured(suspect.quantity, suspect.source)
    n = evidence.terms(suspect.quantity)
    row = evidence.row(suspect.quantity, suspect.step)
    if suspect.test == "meaning":
        bound = bounds.meaning_bound(m.own_a, m.own_b, m.size, n=n)[row]
    else:
        other = m.own_b if suspect.side == "a" else m.own_a
        bound = bounds.precision_bound(other, m.size, n=n)[row]
    if unavoidable is None:
        return np.asarray(bound)
    floor = bounds.roundings(n) * np.minimum(unavoidable, m.size[row])
    widened: np.ndarray = np.maximum(bound, floor)
    return widened


def observe_types(
    sides: Mapping[str, ProbedSide], evidence: Evidence, suspects: Sequence[Suspect]
) -> None:
    """Note which floating types the operations of a float64 step see, where meaning is suspect.

    Where those of code that is not ours see float32, it is also measured how far that moves what
    the step makes (`measure_leaks`).
    """
    steps = [s for s in suspects if s.test == "meaning"]
    if not steps or evidence.about["types"]:
        return
    inside = next((s for s in steps if s.quantity.kind not in ("activation", "prediction")), None)
    source, k = (inside.source, inside.step) if inside is not None else ("a", 1)
    types: dict[str, list[str]] = {}
    for name, side in sides.items():
        stepper = side.stepper(WIDE, eager=True)
        wide = widen(side.start(k, state=sides[source]))
        stepper(wide)  # what is made once, such as an optimizer's state, is made now
        seen = side.backend.observe(partial(stepper, wide))
        types[name] = sorted(seen.types)
        if NARROW in seen.types and find_pair(side.job.settings.model.name).is_foreign:
            measure_leaks(side, evidence, stepper, source=source, state=sides[source], step=k)
    evidence.about["types"] = types


_SHAKES = 3  # draws by which leaks are moved


def measure_leaks(
    side: ProbedSide,
    evidence: Evidence,
    stepper: Stepper,
    *,
    source: str,
    state: ProbedSide,
    step: int,
) -> None:
    """Measure how far a side's float64 moves if its float32 numbers are moved by a rounding.

    Of each quantity at a few steps, some draws, in both norms and relative to its size; of a
    parameter relative to the update. The largest of all, of both sides, is ``leak/<key>``.
    """
    rng = seeds.stream(side.job.settings.seed, "leaks")
    edit = backends.load_capability(side.wide.job.settings.backend.name, "edit")
    values = {name: np.asarray(rows, WIDE) for name, rows in state.first.items()}

    def predict() -> dict[Quantity, np.ndarray]:
        scored = {name: np.asarray(rows, WIDE) for name, rows in state.scored().items()}
        return {TEST: side.predict(WIDE, scored, split="test")}

    def show() -> dict[Quantity, np.ndarray]:
        shown = side.layers(WIDE, values).items()
        return {Quantity("activation", name): rows for name, rows in shown}

    def update(start: Start) -> dict[Quantity, np.ndarray]:
        outcome = stepper(start).items()
        return {q: rows for key, rows in outcome if (q := outcome_quantity(key)) is not None}

    def go_free(start: Start) -> dict[Quantity, np.ndarray]:
        ends = go_on(side, stepper, start)
        return {Quantity("free", name): ends[f"param/{name}"] for name in start.values}

    steps = sorted({1, step, side.record.steps})
    starts = [widen(side.start(k, state=state)) for k in steps]
    makers: list[tuple[int, Callable[[], dict[Quantity, np.ndarray]]]] = [(1, show), (1, predict)]
    makers += [(k, partial(update, start)) for k, start in zip(steps, starts, strict=True)]
    for k in evidence.about.get("free", ()):
        start = widen(side.start(k, state=state))._replace(gradients=None)
        makers.append((k, partial(go_free, start)))
    for k, make in makers:
        side.configure(WIDE)
        exact = make()
        for _ in range(_SHAKES):
            with edit.move_leaks(rng):
                moved = make()
            for quantity, rows in exact.items():
                put_leak(evidence, quantity, source, k, moved[quantity] - rows)


def put_leak(
    evidence: Evidence, quantity: Quantity, source: str, step: int, move: np.ndarray
) -> None:
    """Keep how far leaks move a quantity, if it is the farthest so far."""
    if source not in evidence.sources(quantity):
        return
    row = evidence.row(quantity, step)
    sizes = evidence.arrays.get(f"update/{source}/{quantity.key}")
    size = evidence.measured(quantity, source).size if sizes is None else sizes
    norms = distance.norms(np.asarray(move, np.float64)[None])[0]
    far = np.divide(norms, size[row], out=np.zeros_like(norms), where=size[row] > 0)
    key = f"leak/{quantity.key}"
    evidence.arrays[key] = np.fmax(far, evidence.arrays.get(key, far))


def widen(start: Start) -> Start:
    """Return a start whose arrays are float64, so that what is float32 in its step is a leak."""

    def wide(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.asarray(array, WIDE) for name, array in arrays.items()}

    return start._replace(
        parts=[(x.astype(WIDE), y.astype(WIDE), share) for x, y, share in start.parts],
        masks=None if start.masks is None
        else [[mask.astype(WIDE) for mask in drawn] for drawn in start.masks],
        values=wide(start.values),
        slots={slot: wide(arrays) for slot, arrays in start.slots.items()},
        gradients=None if start.gradients is None else wide(start.gradients),
    )  # fmt: skip
