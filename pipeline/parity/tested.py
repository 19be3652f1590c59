"""The tests of one quantity: each distance over its steps, its bound, and what is beyond it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.parity import bounds
from pipeline.parity.compared import Compared, relative
from pipeline.parity.evidence import Evidence, Suspect
from pipeline.parity.quantity import PHASES, TEST, Quantity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tested:
    """One test of one quantity over all steps that were measured; arrays have a row a step.

    Attributes
    ----------
    test, side, source, quantity
        As in `Suspect`; ``replay`` and ``finite`` (one side alone is not finite) are tests too.
    steps
        The update of each row.
    distance, bound, size
        Shape ``(rows, 2)``, as in `pipeline.parity.bounds`.
    beyond
        Whether a row is beyond its bound, before any second opinion.
    """

    test: str
    side: str
    source: str
    quantity: Quantity
    steps: np.ndarray
    distance: np.ndarray
    bound: np.ndarray
    size: np.ndarray
    beyond: np.ndarray

    def ratios(self) -> np.ndarray:
        """Return how many times its bound each distance is, the larger of both norms."""
        with np.errstate(divide="ignore", invalid="ignore"):
            times = np.where(self.distance == 0, 0.0, self.distance / self.bound)
            times = np.where(np.isfinite(self.bound), times, np.inf)
        worst: np.ndarray = np.nan_to_num(times, nan=np.inf).max(axis=1)
        return worst

    def suspect(self, row: int) -> Suspect:
        """Return what is beyond at a row, by name."""
        step = int(self.steps[row])
        return Suspect(self.test, self.side, self.source, self.quantity, step)


def run_tests(pair: Compared, quantity: Quantity, *, steps: np.ndarray) -> list[Tested]:
    """Test one quantity by the evidence, from each side's states.

    Of runs in float64 precision has no test of its own: there is nothing wider to measure it by.
    Coarse arithmetic shows in the test of meaning, and in the types that operations see.
    """
    evidence = pair.evidence
    assert evidence is not None
    tests: list[Tested] = []
    for source in evidence.sources(quantity):
        tests += _of_source(evidence, quantity, source, steps, narrow=pair.dtype == "float32")
    for side in "ab":
        replayed = _replayed(pair, evidence, quantity, side, steps)
        tests += [] if replayed is None else [replayed]
    return tests


def _of_source(
    evidence: Evidence, quantity: Quantity, source: str, steps: np.ndarray, *, narrow: bool
) -> Iterator[Tested]:
    """Yield the tests of a quantity from one source's states: meaning, precision and finite.

    The test of precision is only for runs in float32 (`narrow`), that of finite only where a row is
    finite on one side alone.
    """
    m = evidence.measured(quantity, source)
    n = evidence.terms(quantity)
    usable = ~m.diverged[:, None]
    common = {"source": source, "quantity": quantity, "steps": steps, "size": m.size}
    bound = bounds.meaning_bound(m.own_a, m.own_b, m.size, n=n)
    yield _tested("meaning", "", m.apart, bound, usable, **common)
    if narrow:
        for side, own_error, other in (("a", m.own_a, m.own_b), ("b", m.own_b, m.own_a)):
            bound = bounds.precision_bound(other, m.size, n=n)
            if quantity.kind == "free":  # noise that a rule amplifies is no coarse arithmetic
                bound = np.maximum(bounds.FREE * float(bounds.NARROW.eps) * m.size, bound)
            yield _tested("precision", side, np.minimum(own_error, m.size), bound, usable, **common)
    if m.lonely.any():
        far = np.where(m.lonely[:, None], np.inf, 0.0) * np.ones(2)
        yield _tested("finite", "", far, np.zeros_like(far), usable | True, **common)


def _replayed(
    pair: Compared, evidence: Evidence, quantity: Quantity, side: str, steps: np.ndarray
) -> Tested | None:
    """Return the test of a run's record against its own step done again; None if not measured."""
    apart = evidence.replay(quantity, side)
    if apart is None or side not in evidence.sources(quantity):
        return None
    m = evidence.measured(quantity, side)
    own_error = np.minimum(m.own_a, m.own_b)  # a coarse side is not its own excuse
    bound = bounds.replay_bound(own_error, m.size, n=evidence.terms(quantity), dtype=pair.dtype)
    return _tested(
        "replay", side, apart, bound, ~m.diverged[:, None], source=side, quantity=quantity,
        steps=steps, size=m.size,
    )  # fmt: skip


def _tested(
    test: str, side: str, apart: np.ndarray, bound: np.ndarray, usable: np.ndarray, **common
) -> Tested:
    """Return a test; rows outside `usable` have distance 0."""
    apart = np.where(usable, apart, 0.0)
    return Tested(
        test=test,
        side=side,
        distance=apart,
        bound=bound,
        beyond=bounds.is_beyond(apart, bound),
        **common,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Excess:
    """One row of a test that is beyond its bound and that no second opinion excused.

    Attributes
    ----------
    kind
        Of the FAIL that it is: ``meaning``, ``precision``, ``undecided`` or ``state``.
    suspect
        Where it is.
    ratio
        How many times its bound it is.
    distance, bound
        Relative to the size, in the norm that is farther beyond.
    open
        Whether nobody has given a second opinion.
    """

    kind: str
    suspect: Suspect
    ratio: float
    distance: float
    bound: float
    open: bool = False

    def place(self) -> tuple[int, int]:
        """Return the step and, inside it, the phase: a cause stands before its effects."""
        kind = self.suspect.quantity.kind
        phase = PHASES.index(kind) if kind in PHASES else 0
        return self.suspect.step, phase


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sifted:
    """The rows of some tests, told apart: what is in excess, and what a second opinion excused."""

    excess: Sequence[Excess]
    excused: Sequence[tuple[Suspect, float, float]]


def sift(pair: Compared, tests: Sequence[Tested]) -> Sifted:
    """Tell apart what is beyond its bound: excused by a second opinion, or in excess.

    A replay that fails is no excess by itself: why it fails is in the evidence (`replay`).
    """
    evidence = pair.evidence
    assert evidence is not None
    excess: list[Excess] = []
    excused: list[tuple[Suspect, float, float]] = []
    for tested in tests:
        if tested.test == "replay":
            continue
        ratios = tested.ratios()
        coarse = False
        for row in np.flatnonzero(tested.beyond):
            suspect = tested.suspect(int(row))
            opinion = evidence.opinion(suspect)
            if opinion is not None and opinion["excused"]:
                excused.append((suspect, float(ratios[row]), float(opinion["nearest"])))
                continue
            exceeding = make_excess(pair, tested, int(row), float(ratios[row]), opinion=opinion)
            if exceeding.kind != "precision":
                excess.append(exceeding)
                break  # the first one is the place; what follows in this test is no news
            excess += [] if coarse else [exceeding]  # precision may be a note: what follows may not
            coarse = True
    return Sifted(excess=excess, excused=excused)


def make_excess(
    pair: Compared,
    tested: Tested,
    row: int,
    ratio: float,
    *,
    opinion: Mapping[str, Any] | None,
) -> Excess:
    """Return one row of a test as what it is in excess of."""
    with np.errstate(divide="ignore", invalid="ignore"):
        norm = int(np.argmax(np.nan_to_num(tested.distance[row] / tested.bound[row], nan=np.inf)))
    size = float(tested.size[row, norm])
    far = relative(float(tested.distance[row, norm]), size)
    kind = "precision" if tested.test == "precision" else "meaning"
    suspect = tested.suspect(row)
    if tested.test == "meaning" and (
        explained_by_leaks(pair, suspect)
        if pair.excuses_leaks
        else explained_by_types(pair, suspect, far)
    ):
        kind = "precision"
    if pair.evidence is not None and pair.evidence.about.get("narrow"):
        kind = "undecided"
    if opinion is not None and not opinion["alone"]:
        kind = "state"
    return Excess(
        kind=kind, suspect=tested.suspect(row), ratio=ratio, distance=far,
        bound=relative(float(tested.bound[row, norm]), size),
        open=opinion is None and tested.test != "finite",
    )  # fmt: skip


_EPS = {"float32": 2.0**-23, "float16": 2.0**-10, "half": 2.0**-10, "bfloat16": 2.0**-7,
        "float8_e4m3fn": 2.0**-3, "float8_e5m2": 2.0**-2}  # fmt: skip


def explained_by_types(pair: Compared, suspect: Suspect, far: float) -> bool:
    """Whether a difference in float64 is as small as the narrower types explain that one side saw.

    A float64 step in which operations of one side see a narrower type than those of the other is
    coarse by that type: its difference is at most C·eps of that type. Of a parameter that is
    relative to the larger update alone, ``‖Δw‖``: a wrong small update is small beside its weights.
    """
    assert pair.evidence is not None
    types = pair.evidence.about.get("types", {})
    coarsest = [max([0.0, *(_EPS.get(t, 0.0) for t in types.get(side, ()))]) for side in "ab"]
    if coarsest[0] == coarsest[1]:
        return False
    if suspect.quantity.kind in ("parameter", "free"):
        updates = pair.evidence.arrays.get(f"update/{suspect.source}/{suspect.quantity.key}")
        if updates is None:
            return False
        row = pair.evidence.row(suspect.quantity, suspect.step)
        apart = pair.evidence.measured(suspect.quantity, suspect.source).apart[row, 0]
        far = relative(float(apart), float(updates[row, 0]))
    return far <= bounds.units(1) * max(coarsest)


LEAK = 30
"""A difference is a leak's if float32 numbers, moved by a rounding, move it by a 30th at least."""


def explained_by_leaks(pair: Compared, suspect: Suspect) -> bool:
    """Whether float32 inside a float64 step of code that is not ours explains a difference in it.

    It does if ``D ≤ 30·M·S`` in both norms, with M how far the quantity moves, relative to S, where
    the float32 numbers of the step move by one rounding (``leak/<key>`` of the evidence), and if D
    is no more than float32 can make of it, ``D ≤ C·eps32·S``. Of a parameter S is ``‖Δw‖``.
    """
    evidence, quantity = pair.evidence, suspect.quantity
    assert evidence is not None
    if not sees_float32_alone(pair):
        return False
    is_output = quantity.kind in ("prediction", "score")
    moved = evidence.arrays.get(f"leak/{(TEST if is_output else quantity).key}")
    if moved is None:
        return False
    row = evidence.row(quantity, suspect.step)
    m = evidence.measured(quantity, suspect.source)
    size = m.size[row]
    if quantity.kind in ("parameter", "free"):
        size = evidence.arrays[f"update/{suspect.source}/{quantity.key}"][row]
    bound = np.minimum(LEAK * moved, bounds.units(1) * float(bounds.NARROW.eps)) * size
    return not bounds.is_beyond(m.apart[row][None], bound[None]).any()


def sees_float32_alone(pair: Compared) -> bool:
    """Whether float32 is the one narrower type that operations of a float64 step see."""
    types = {} if pair.evidence is None else pair.evidence.about.get("types", {})
    narrow = {kind for each in types.values() for kind in each if kind in _EPS}
    return narrow == {"float32"}


def largest_apart(
    evidence: Evidence, quantities: Sequence[Quantity], rows: slice
) -> tuple[float, Quantity, int] | None:
    """Return the largest distance in the run's precision from equal states, relative to the size.

    With the quantity and the row, counted from the start of `rows`; None if nothing was measured.
    """
    worst = None
    for quantity in quantities:
        for source in evidence.sources(quantity):
            m = evidence.measured(quantity, source)
            free, size = m.free[rows, 0], m.size[rows, 0]
            keep = ~m.diverged[rows] & (size >= float(bounds.NARROW.tiny))  # no digits below it
            far = np.divide(free, size, out=np.where(free > 0, np.inf, 0.0), where=size > 0)
            far = np.where(keep, far, 0.0)
            if len(far) and (worst is None or far.max() > worst[0]):
                worst = float(far.max()), quantity, int(np.argmax(far))
    return worst
