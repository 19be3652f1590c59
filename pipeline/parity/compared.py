"""Two records side by side: what both have, and what makes them no pair."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from pipeline import identity
from pipeline.parity import bounds, distance
from pipeline.parity.evidence import Evidence
from pipeline.parity.quantity import (
    PHASES,
    VALIDATION,
    Quantity,
    parse_key,
    recorded_updates,
)
from pipeline.record.record import RunRecord

Tolerance = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """Everything that the rungs look at.

    Attributes
    ----------
    evidence
        What a probe measured; None if nobody did.
    tolerance
        ``(rtol, atol)`` in place of derived bounds, or None.
    accept
        By name of a rung or quantity, why a difference there is no FAIL.
    precision
        ``fail`` or ``note``: what a side that computes in less than its precision is.
    coarse
        By side, formulas of its framework that are known to be coarse: by the quantity's key, why.
    hint
        How to get evidence, for those who have none.
    """

    a: RunRecord
    b: RunRecord
    evidence: Evidence | None = None
    tolerance: Tolerance | None = None
    accept: Mapping[str, str] = dataclasses.field(default_factory=dict)
    precision: str = "fail"
    coarse: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    hint: str = ""

    @cached_property
    def left(self) -> dict[Quantity, np.ndarray]:
        """What a's record has of each update."""
        return recorded_updates(self.a)

    @cached_property
    def right(self) -> dict[Quantity, np.ndarray]:
        """What b's record has of each update."""
        return recorded_updates(self.b)

    @cached_property
    def steps(self) -> int:
        """How many updates both made."""
        return min(self.a.steps, self.b.steps)

    @cached_property
    def dtype(self) -> str:
        """The precision of the runs."""
        return str(self.a.arrays["loss"].dtype)

    @cached_property
    def excuses_leaks(self) -> bool:
        """Whether float32 inside a float64 step explains a difference as small as that.

        Of models that are not ours, in which no known number differs: their code was not written
        for float64, and a constant in it that is float32 is no fault there.
        """
        about = self.a.about.get("pair")
        if about is None:
            return False
        kinds = {  # whose effect is no small number
            "schedule", "clipping", "average", "class", "padding", "stride", "dilation", "groups",
            "bias", "bidirectional",
        }  # fmt: skip
        return not [setting for _, _, setting, *_ in about["settings"] if setting not in kinds]

    def label(self, side: str) -> str:
        """Return how a side is called in words; with its place where both have one name."""
        names = {"a": self.a.label(), "b": self.b.label()}
        return names[side] if names["a"] != names["b"] else f"{names[side]} ({side})"

    def shared(self, *kinds: str) -> list[Quantity]:
        """Return the quantities of an update that both sides have, in phase order."""
        return [q for kind in kinds for q in self.left if q.kind == kind and q in self.right]

    def of_one_side(self, *kinds: str) -> list[Quantity]:
        """Return the quantities of an update that one side alone has."""
        return sorted(q for q in {*self.left} ^ {*self.right} if q.kind in kinds)

    def _advice(self) -> str:
        """Say how to get evidence, if there is a way."""
        if any(not record.named("param") for record in (self.a, self.b)):
            return "; only runs with record.trace=full can be probed"
        if self.dtype not in ("float32", "float64"):
            return "; bounds are derived for float32 and float64"
        return self.hint

    def unusable(self, quantity: Quantity) -> str:
        """Say why there is no evidence to judge a quantity by; nothing if there is."""
        about = {} if self.evidence is None else self.evidence.about
        for miss in about.get("replay", {}).values():
            after_training = miss["quantity"][0] in ("prediction", "score")
            concerned = quantity.kind in ("prediction", "score") or not after_training
            if miss["kind"] != "state" and concerned:
                return str(miss["text"])
        if self.evidence is None or not self._is_whole(self.evidence, quantity):
            return f"other bits, and no evidence{self._advice()}"
        return self._unexplained

    def _is_whole(self, evidence: Evidence, quantity: Quantity) -> bool:
        """Whether a quantity was measured from both sides' states at every step, and replayed."""
        if evidence.sources(quantity) != ["a", "b"]:
            return False
        rows = self.steps if quantity.kind in PHASES else 1
        if quantity == VALIDATION:
            rows = len(evidence.about["scored"])
        if quantity.kind == "free":
            return all(
                len(evidence.measured(quantity, source).size) == len(evidence.about["free"])
                for source in "ab"
            )
        sizes = [evidence.measured(quantity, source).size for source in "ab"]
        again = [evidence.replay(quantity, side) for side in "ab"]
        replayed = all(
            a is not None and len(a) == len(s) for a, s in zip(again, sizes, strict=True)
        )
        return (replayed or quantity == VALIDATION) and all(len(size) >= rows for size in sizes)

    @cached_property
    def _unexplained(self) -> str:
        """Say which record does not come out of its own states, where nobody looked why."""
        evidence = self.evidence
        for key in () if evidence is None else evidence.arrays:
            if evidence is None or not key.startswith("replay/"):
                continue
            side, quantity = key.split("/")[1], parse_key(key.split("/", 2)[2])
            if side in evidence.about.get("replay", {}) or side not in evidence.sources(quantity):
                continue
            m = evidence.measured(quantity, side)
            own_error = np.minimum(m.own_a, m.own_b)  # a coarse side is not its own excuse
            bound = bounds.replay_bound(
                own_error, m.size, n=evidence.terms(quantity), dtype=self.dtype
            )
            again = np.where(m.diverged[:, None], 0.0, evidence.arrays[key])
            if bounds.is_beyond(again, bound).any():
                label = self.label(side)
                return f"{label} does not come out again as it was recorded ({quantity.key})"
        return ""


def find_broken(pair: Compared) -> str:
    """Say what makes two records incomparable; nothing if they can be compared."""
    a, b = pair.a, pair.b
    models = [record.config["model"]["name"] for record in (a, b)]
    if models[0] != models[1]:
        return f"other models: {models[0]} and {models[1]}"
    if not pair.steps:
        return "a run made no step"
    if a.arrays["loss"].dtype != b.arrays["loss"].dtype:
        return f"other precisions: {a.arrays['loss'].dtype} and {b.arrays['loss'].dtype}"
    arrays = []
    for record, rows in ((a, pair.left), (b, pair.right)):
        short = [quantity for quantity, values in rows.items() if len(values) < record.steps]
        if short:
            return f"fewer rows of {short[0].key} than steps in the record of {record.label()}"
        rest = {key: record.arrays[key] for key in ("prediction",) if key in record.arrays}
        arrays.append({q.key: values[: pair.steps] for q, values in rows.items()} | rest)
    try:
        for kind in ("first", "last"):
            distance.check_alike(a.named(kind), b.named(kind))
        shared = [key for key in arrays[0] if key in arrays[1]]
        distance.check_alike(*({key: side[key] for key in shared} for side in arrays))
    except ValueError as error:
        return str(error)
    if pair.evidence is not None and pair.evidence.about.get("broken"):
        return str(pair.evidence.about["broken"])
    return ""


# Settings of a backend that a pair may differ in: told, and judged all the same.
_MAY_DIFFER = ("device", "threads", "deterministic", "execution", "xla")


def list_other_settings(pair: Compared) -> list[str]:
    """Return the settings that decide numbers and differ, but for those of the machine."""
    keys = identity.differing_keys(pair.a.config, pair.b.config)
    return [key for key in keys if key not in {f"backend.{word}" for word in _MAY_DIFFER}]


def drew_own_starts(pair: Compared) -> bool:
    """Whether the two could not start from the same parameters, because they were not to."""
    inits = {record.config["model"].get("init") for record in (pair.a, pair.b)}
    one, other = pair.a.named("first"), pair.b.named("first")
    return "framework" in inits and not all(are_same_bits(one[n], other[n]) for n in one)


def are_same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are equal in shape and every bit."""
    return a.shape == b.shape and not distance.rows(a[None], b[None]).differs.any()


def are_close(a: np.ndarray, b: np.ndarray, tolerance: Tolerance) -> bool:
    """Whether ``|a − b| <= atol + rtol·|b|`` for every element."""
    rtol, atol = tolerance
    wide = [np.asarray(x).astype(np.float64) for x in (a, b)]
    return bool(np.allclose(wide[0], wide[1], rtol=rtol, atol=atol, equal_nan=True))


def relative(part: float, whole: float) -> float:
    """Return a distance relative to a size; infinite where the size is 0 and the distance not."""
    return float(part / whole) if whole > 0 else float("inf") if part > 0 else 0.0
