"""The ladder: two records compared rung by rung, and the first rung that fails is the finding.

Nothing is trained here. What a bound needs beyond the two records is the *evidence* that the stage
``probe`` makes (see `Evidence`); without it bits decide, or a given tolerance, or a rung abstains.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline import config
from pipeline.parity import distance
from pipeline.parity.growth import Growth, growth
from pipeline.record import RunRecord

RUNGS = (
    "data", "init", "forward", "loss", "gradients", "update", "trajectory", "evaluation",
)  # fmt: skip
MULTIPLE = 8.0
"""How many times its floor a distance may be. Right twins sit at 1.0 to 1.6 times, a wrong epsilon
at 1,300 times (measured on a 64-32-10 perceptron); 8 leaves room for floors of few permutations."""
LEAST = 1.0
"""No floor is below so many eps·‖tensor‖: one rounding more or less is no finding."""
SAME = 1e-8
"""Relative distance in float64, from equal states, above which operations differ in meaning. Right
twins are below 1e-12 there; a difference of meaning keeps its size."""
TWINS = 1e-12
"""Relative distance of right twins in float64, above which no rounding of one step reaches; for
runs in float64, which have no wider precision to be proved in."""
OFTEN = 0.2
"""A branch flip is rare. What is beyond its bound in more than this part of the steps (or samples)
is no flip, though float64 agrees: one side computes in less than its precision."""
WORST = {"PASS": 0, "ABSTAIN": 1, "FAIL": 2, "ERROR": 3}
_FLOOR = "noise floor"
_PHASES = ("loss", "grad", "lr", "slot", "param")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rung:
    """One rung's verdict.

    Attributes
    ----------
    verdict
        PASS, FAIL, ABSTAIN or ERROR.
    by
        What decided: ``bits``, ``rounding``, ``tolerance``; empty where nothing did.
    tensor, step
        Where the distance is largest over its bound.
    distance, bound
        Normwise and relative to the tensor there; None where nothing was measured.
    source
        Where the bound came from, in words.
    why
        The verdict in words.
    tensors
        The largest distance over bound of each tensor, for the heat map.
    """

    name: str
    verdict: str
    by: str = ""
    tensor: str = ""
    step: int | None = None
    distance: float | None = None
    bound: float | None = None
    source: str = ""
    why: str = ""
    tensors: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """The first failing rung's place: one number on each side, and how far apart they are."""

    rung: str
    phase: str
    step: int | None
    tensor: str
    index: tuple[int, ...] | None
    a: float | None
    b: float | None
    absolute: float | None
    relative: float | None
    ulp: float | None
    agreed: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ladder:
    """The verdict on two records.

    Attributes
    ----------
    distances
        By step from the start on, relative to the model's norm: ``apart`` (the two runs), ``floor``
        (the larger of the two backends' own), ``forced`` (each step from equal states), ``bound``;
        those that were measured.
    errors
        Distance of ``a`` and ``b`` from the reference at each step, in ulps of the model's norm.
    notes
        What is to know besides: branch flips, values that are not finite on both sides, …
    flips
        Steps at which a bound was left by rounding alone.
    """

    a: str
    b: str
    rungs: tuple[Rung, ...]
    finding: Finding | None
    growth: Growth | None
    distances: Mapping[str, np.ndarray]
    errors: Mapping[str, np.ndarray]
    reference: str
    notes: tuple[str, ...]
    flips: tuple[int, ...]
    facts: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """The worst rung's, with FAIL and ERROR over ABSTAIN."""
        return max((rung.verdict for rung in self.rungs), key=WORST.__getitem__)

    def sentence(self) -> str:
        """Return the finding, or what decided, in two sentences."""
        if self.finding is not None:
            return _told(self.finding, self)
        if self.verdict == "PASS":
            by = {rung.by for rung in self.rungs}
            if by == {"bits"}:
                return "The runs are the same in every bit that was compared."
            if "tolerance" in by:
                return f"The runs agree within the tolerance {self.facts['given']}."
            last = next(rung for rung in self.rungs if rung.name == "trajectory")
            far = "" if last.distance is None else f" They are at most {last.distance:.2g} apart"
            return (
                "The runs differ by rounding alone: no step does anything else."
                f"{far}{', relative to a tensor, in any one step.' if far else ''}"
            )
        first = next(rung for rung in self.rungs if rung.verdict != "PASS")
        return f"{first.name} cannot be judged: {first.why}."

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it; what is not finite becomes text."""
        about = {
            "format": 1,
            "verdict": self.verdict,
            "sentence": self.sentence(),
            "a": self.a,
            "b": self.b,
            "rungs": [dataclasses.asdict(rung) for rung in self.rungs],
            "finding": None if self.finding is None else dataclasses.asdict(self.finding),
            "growth": None if self.growth is None else dataclasses.asdict(self.growth),
            "distances": {name: values.tolist() for name, values in self.distances.items()},
            "errors": {name: values.tolist() for name, values in self.errors.items()},
            "reference": self.reference,
            "notes": list(self.notes),
            "flips": list(self.flips),
            "facts": dict(self.facts),
        }
        plain: dict[str, Any] = _plain(about)
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float | np.floating):
        number = float(value)
        return number if np.isfinite(number) else str(number)
    return value.item() if isinstance(value, np.generic) else value


class Evidence:
    """What the stage ``probe`` measured about a pair; a record of its own kind.

    Arrays, with ``<key>`` one of ``loss``, ``grad/<name>``, ``slot/<slot>/<name>``,
    ``param/<name>`` and rows for the updates 1, 2, …:

    - ``floor/<side>/<key>``: largest distance of a side to itself with the samples of each batch in
      other orders, as a norm.
    - ``forced/<key>``: what b does when each of its steps starts from a's recorded state.
    - ``exact/<key>``: distance of the two sides in float64, each step from a's recorded state.
    - ``rounding/<side>/<what>``: |float32 − float64| at equal weights, as a norm; of each
      ``layer/<name>``, of ``loss`` step by step, and of the ``prediction``.
    - ``exact/layer/<name>``, ``exact/prediction``: distance in float64 at equal weights.
    - ``prediction``: b's, at a's last weights.
    - ``error/<side>``: distance to the reference, row 0 the start.
    """

    def __init__(self, record: RunRecord) -> None:
        self.about, self.arrays = record.about, record.arrays

    def get(self, name: str) -> np.ndarray | None:
        """Return one array, or None if it was not measured."""
        return self.arrays.get(name)

    def floor(self, what: str, join: np.ufunc = np.maximum) -> np.ndarray | None:
        """Return the larger of both sides' noise floors; None unless both were measured.

        In float64 it is no less than their rounding in one step: batches of one or two samples have
        hardly another order.
        """
        found = self._joined(f"floor/a/{what}", f"floor/b/{what}", join)
        step = None if what == "loss" else self.rounding(what)
        if found is None or step is None:
            return found
        n = min(len(found), len(step))
        return np.maximum(found[:n], step[:n])

    def rounding(self, what: str) -> np.ndarray | None:
        """Return the smaller of both sides' own |float32 − float64|; None without both.

        The smaller, so that a side that computes in less than its precision is not its own excuse.
        """
        return self._joined(f"rounding/a/{what}", f"rounding/b/{what}", np.minimum)

    def _joined(self, one: str, other: str, join: np.ufunc) -> np.ndarray | None:
        a, b = self.get(one), self.get(other)
        if a is None or b is None:
            return None
        n = min(len(a), len(b))  # steps that both made
        joined: np.ndarray = join(a[:n], b[:n])
        return joined


def steps_of(record: RunRecord) -> dict[str, np.ndarray]:
    """Return what a record has of each update, rows 1, 2, …, in the order in which it happens."""
    found = {"loss": record.arrays["loss"]} if "loss" in record.arrays else {}
    found |= {f"grad/{name}": rows for name, rows in record.named("grad").items()}
    found |= {"lr": record.arrays["lr"]} if "lr" in record.arrays else {}
    found |= {f"slot/{name}": rows for name, rows in record.named("slot").items()}
    return found | {f"param/{name}": rows[1:] for name, rows in record.named("param").items()}


def judge(
    a: RunRecord,
    b: RunRecord,
    *,
    evidence: Evidence | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    hint: str = "",
) -> Ladder:
    """Compare two records rung by rung.

    Parameters
    ----------
    evidence
        What `probe` measured about this pair.
    rtol, atol
        A tolerance in NumPy's meaning, ``|a − b| <= atol + rtol·|b|`` for every element, that
        replaces the derived bounds; one that is None counts as 0.
    hint
        How to get evidence, for those who have none.
    """
    return _Judge(a, b, evidence, rtol, atol, hint).ladder()


class _Judge:
    """The two records and what is known about them, while they are judged."""

    def __init__(
        self,
        a: RunRecord,
        b: RunRecord,
        evidence: Evidence | None,
        rtol: float | None,
        atol: float | None,
        hint: str,
    ) -> None:
        self.a, self.b, self.evidence, self.hint = a, b, evidence, hint
        self.given = None if rtol is None and atol is None else (rtol or 0.0, atol or 0.0)
        self.notes: list[str] = []
        self.flips: list[tuple[int, str, float, float]] = []
        self.drifts: list[tuple[int, str, float]] = []
        self.wrong: set[int] = set()
        self.findings: dict[str, Finding] = {}
        self.measured: dict[str, distance.Rows] = {}
        self.left, self.right = steps_of(a), steps_of(b)
        loss = self.left.get("loss", np.empty(0))
        self.steps = min(len(loss), len(self.right.get("loss", ())))
        self.eps = float(np.finfo(loss.dtype).eps) if len(loss) else 0.0

    def ladder(self) -> Ladder:
        broken = self.broken()
        if broken:
            rest = [Rung(name=name, verdict="ABSTAIN", why="not reached") for name in RUNGS[1:]]
            rungs = [Rung(name="data", verdict="ERROR", why=broken), *rest]
            return self.whole(rungs, None, {})
        ways = (
            self.data, self.init, self.forward, self.loss,
            self.gradients, self.update, self.trajectory, self.evaluation,
        )  # fmt: skip
        if self.own_starts():
            why = "each framework drew its own start; over seeds, parity.margin compares scores"
            rest = [Rung(name=name, verdict="ABSTAIN", why=why) for name in RUNGS[1:]]
            return self.whole([self.data(), *rest], None, {})
        rungs = [way() for way in ways]
        first = next((rung for rung in rungs if rung.verdict == "FAIL"), None)
        finding = None
        if first is not None:
            finding = self.findings[first.name]
            agreed = [rung.name for rung in rungs[: rungs.index(first)] if rung.verdict == "PASS"]
            before = ", ".join([*agreed, finding.agreed] if finding.agreed else agreed)
            finding = dataclasses.replace(finding, agreed=before or "nothing")
        rungs, finding = self.unlike(rungs, finding)
        self.told("PASS" if first is None else "FAIL")
        return self.whole(rungs, finding, self.distances())

    def broken(self) -> str:
        """Say what makes the two incomparable; nothing if they can be compared."""
        one, other = self.a.config, self.b.config
        if one["model"]["name"] != other["model"]["name"]:
            return f"other models: {one['model']['name']} and {other['model']['name']}"
        if not self.steps:
            return "a run made no step"
        if self.left["loss"].dtype != self.right["loss"].dtype:
            kinds = f"{self.left['loss'].dtype} and {self.right['loss'].dtype}"
            return f"other precisions: {kinds}"
        held = []
        for side, own in ((self.a, self.left), (self.b, self.right)):
            short = [key for key, rows in own.items() if len(rows) < len(own["loss"])]
            if short:
                return f"fewer rows of {short[0]} than steps in the record of {side.label()}"
            rest = {key: side.arrays[key] for key in ("prediction",) if key in side.arrays}
            held.append({key: rows[: self.steps] for key, rows in own.items()} | rest)
        try:
            for kind in ("first", "last"):
                distance.check_alike(self.a.named(kind), self.b.named(kind))
            shared = [key for key in held[0] if key in held[1]]
            distance.check_alike(*({key: side[key] for key in shared} for side in held))
        except ValueError as error:
            return str(error)
        return ""

    def own_starts(self) -> bool:
        """Whether the two could not start from the same parameters, because they were not to."""
        inits = {side.config["model"].get("init") for side in (self.a, self.b)}
        one, other = self.a.named("first"), self.b.named("first")
        return "framework" in inits and not all(_same_bits(one[n], other[n]) for n in one)

    def unlike(
        self, rungs: list[Rung], finding: Finding | None
    ) -> tuple[list[Rung], Finding | None]:
        """Turn verdicts into abstentions where the two are no pair, and say why.

        Of runs that made more or fewer steps by one config, what differs until then fails still.
        """
        flat = [config.flatten(r.config) for r in (self.a, self.b)]
        both = {key for own in flat for key in own if config.decides(key)}
        keys = [k for k in sorted(both) if flat[0].get(k) != flat[1].get(k)]
        # What a run keeps of itself changes none of its numbers.
        keys = [key for key in keys if key != "backend.name" and not key.startswith("record.")]
        reasons = [f"the configs differ in {', '.join(keys)}"] if keys else []
        lengths = [len(side["loss"]) for side in (self.left, self.right)]
        if lengths[0] != lengths[1]:
            reasons.append(f"{lengths[0]} and {lengths[1]} steps")
        if not reasons:
            return rungs, finding
        self.notes += [f"no pair: {reason}" for reason in reasons]
        if keys and finding is not None:
            self.notes.append(f"they differ in {_place(finding)}, as other settings may")
            finding = None
        turned = ("PASS", "FAIL") if keys else ("PASS",)
        why = "; ".join(reasons)
        return [
            dataclasses.replace(rung, verdict="ABSTAIN", by="", why=why)
            if rung.verdict in turned
            else rung
            for rung in rungs
        ], finding

    def whole(
        self, rungs: Sequence[Rung], finding: Finding | None, distances: Mapping[str, np.ndarray]
    ) -> Ladder:
        evidence = self.evidence
        errors = {}
        for side in ("a", "b"):
            found = None if evidence is None else evidence.get(f"error/{side}")
            if found is not None:
                errors[side] = found
        apart = distances.get("apart", np.empty(0))
        about = self.about()
        return Ladder(
            a=self.a.label(),
            b=self.b.label(),
            rungs=tuple(rungs),
            finding=finding,
            growth=growth(apart[1:], self.events()) if len(apart) > 1 else None,
            distances=distances,
            errors=errors,
            reference=str(about.get("reference", "")),
            notes=tuple(dict.fromkeys(self.notes)),
            flips=tuple(sorted({k for k, *_ in self.flips} | {k for k, *_ in self.drifts[:1]})),
            facts={key: about[key] for key in ("gradcheck", "prove", "probe") if key in about}
            | {"multiple": MULTIPLE, "least_eps": LEAST, "same": SAME}
            | ({"given": self.tolerance()} if self.given is not None else {}),
        )

    # The rungs

    def data(self) -> Rung:
        if self.a.about["data"]["digest"] != self.b.about["data"]["digest"]:
            self.found("data", phase="samples", tensor="data")
            return Rung(name="data", verdict="FAIL", tensor="data", why="other samples or splits")
        for name, what in (
            ("samples", "other samples"),
            ("sequence", "the same, in another order"),
        ):
            one, other = (r.arrays.get(f"order/{name}") for r in (self.a, self.b))
            if one is None or other is None:
                return Rung(name="data", verdict="ABSTAIN", why="the order was not recorded")
            n = min(len(one), len(other))
            differ = one[:n] != other[:n]
            if not n or (len(one) != len(other) and not differ.any()):
                why = f"the order of {len(one)} and {len(other)} batches was recorded"
                return Rung(name="data", verdict="ABSTAIN", why=why)
            if differ.any():
                batch = int(np.argmax(differ))
                step = self.step_of(batch, len(one))
                self.found("data", phase=what, tensor="order", step=step)
                why = f"the batch of step {step} holds {what}"
                return Rung(name="data", verdict="FAIL", tensor="order", step=step, why=why)
        return Rung(name="data", verdict="PASS", by="bits", why="same samples, splits and order")

    def step_of(self, batch: int, batches: int) -> int:
        """Return the update that a batch, counted from 0 over all epochs, belongs to."""
        group = int(self.a.config["optimizer"]["accumulate"])
        updates = int(self.a.about.get("updates_per_epoch", 0)) or self.steps
        # An epoch's last update may have fewer.
        count = max(1, batches * updates // len(self.left["loss"]))
        return batch // count * updates + batch % count // group + 1

    def init(self) -> Rung:
        one, other = self.a.named("first"), self.b.named("first")
        if not one:
            return Rung(name="init", verdict="ABSTAIN", why="no parameters were recorded")
        far = {}
        for name in one:
            found = distance.rows(one[name][None], other[name][None])
            if found.nonfinite[0]:
                self.notes.append(f"{name}: not finite on both sides at the same place, step 0")
            if found.differs[0]:
                far[name] = float(found.ulp[0])
        if not far:
            return Rung(name="init", verdict="PASS", by="bits", why="every parameter, every bit")
        tensor = max(far, key=lambda name: far[name])
        common: dict[str, Any] = {"name": "init", "tensor": tensor, "step": 0, "tensors": far}
        measured = distance.rows(one[tensor][None], other[tensor][None])
        common |= {"distance": _ratio(measured.apart[0], measured.size[0])}
        if self.given is not None:
            ok = all(_close(one[n], other[n], self.given) for n in far)
            by, source = "tolerance", self.tolerance()
            common["tensors"] = {
                n: 0.0 if _close(one[n], other[n], self.given) else 2.0 for n in far
            }
        else:
            ok, by = far[tensor] <= 1, "rounding"
            source = "1 ulp: one conversion of a decimal number"
        if not ok:
            self.found(
                "init", phase="start", tensor=tensor, step=0, pair=(one[tensor], other[tensor])
            )
        words = f"{len(far)} of {len(one)} parameters differ, at most {far[tensor]:.6g} ulp"
        verdict, by = ("PASS", by) if ok else ("FAIL", "")
        return Rung(verdict=verdict, by=by, source=source, why=words, **common)

    def forward(self) -> Rung:
        one, other = self.a.named("layer"), self.b.named("layer")
        names = [name for name in one if name in other]
        if not names:
            return Rung(name="forward", verdict="ABSTAIN", why="no activations were recorded")
        lonely = sorted(set(one) ^ set(other))
        if lonely:
            self.notes.append(f"activations of one side only: {', '.join(lonely)}")
        evidence = self.evidence
        parts = []
        for name in names:
            kinds = [f"{side[name].dtype}{side[name].shape}" for side in (one, other)]
            if kinds[0] != kinds[1]:
                self.found("forward", phase="forward", tensor=name, step=1)
                why = f"{name} is {kinds[0]} and {kinds[1]}"
                return Rung(name="forward", verdict="FAIL", tensor=name, step=1, why=why)
            rounding = exact = None
            if evidence is not None:
                rounding = evidence.rounding(f"layer/{name}")
                exact = evidence.get(f"exact/layer/{name}")
            parts.append(self.part(name, one[name][None], other[name][None], rounding, exact))
        return self.rung(
            "forward", parts, source="|float32 − float64| of each backend at equal weights"
        )

    def loss(self) -> Rung:
        parts = [self.step_part("loss", 0)]
        return self.rung("loss", parts, source="|float32 − float64| of each backend")

    def gradients(self) -> Rung:
        parts = [self.step_part(key, 0) for key in self.keys("grad")]
        if not parts:
            why = "no gradients were recorded of both (record.trace=full; train.loop=fit has none)"
            return Rung(name="gradients", verdict="ABSTAIN", why=why)
        return self.both(self.rung("gradients", parts, source=_FLOOR), "grad")

    def update(self) -> Rung:
        parts = [self.step_part(key, 0) for key in self.keys("lr", "slot", "param")]
        if len(parts) < 2:
            return self.by_checksums("update")
        return self.both(self.rung("update", parts, source=_FLOOR), "lr", "slot", "param")

    def trajectory(self) -> Rung:
        keys = self.keys(*_PHASES)
        if not self.keys("param"):
            return self.by_checksums("trajectory")
        if self.steps == 1:
            why = "there is no step after the first"
            return self.both(Rung(name="trajectory", verdict="PASS", by="bits", why=why), *_PHASES)
        parts = [self.step_part(key, None) for key in keys]
        source = f"{_FLOOR}, each step from equal states"
        return self.both(self.rung("trajectory", parts, source=source), *_PHASES)

    def evaluation(self) -> Rung:
        one, other = (record.arrays.get("prediction") for record in (self.a, self.b))
        if one is None or other is None:
            return Rung(name="evaluation", verdict="ABSTAIN", why="a run was not evaluated")
        evidence, rounding, exact, forced = self.evidence, None, None, None
        if evidence is not None:
            rounding = evidence.rounding("prediction")
            exact, forced = evidence.get("exact/prediction"), evidence.get("prediction")
        compared = other if forced is None else forced
        part = self.part("prediction", one[None], compared[None], rounding, exact)
        rung = self.rung(
            "evaluation", [part], source="|float32 − float64| of each backend at equal weights"
        )
        scores = [record.about.get("scores", {}) for record in (self.a, self.b)]
        shown = ", ".join(f"{k} {scores[0][k]:.6g} and {v:.6g}" for k, v in scores[1].items()
                          if k in scores[0])  # fmt: skip
        if _same_bits(one, other):
            return dataclasses.replace(rung, why=f"{rung.why}; {shown}")
        where = "" if forced is None else "at equal weights "
        return dataclasses.replace(rung, why=f"{where}{rung.why}; the runs themselves: {shown}")

    # What a rung is made of

    def keys(self, *phases: str) -> list[str]:
        """Return the recorded quantities of some phases that both sides have, in order."""
        both = [key for key in self.left if key in self.right]
        return [key for phase in phases for key in both if key.split("/")[0] == phase]

    def both(self, rung: Rung, *phases: str) -> Rung:
        """Abstain instead of passing where something was recorded of one side only."""
        lonely = sorted(k for k in {*self.left} ^ {*self.right} if k.split("/")[0] in phases)
        if rung.verdict != "PASS" or not lonely:
            return rung
        why = f"recorded of one side only: {_few(lonely)}"
        return dataclasses.replace(rung, verdict="ABSTAIN", by="", why=why)

    def step_part(self, key: str, step: int | None) -> _Part:
        """Judge one quantity: at one step, or (None) at every step after the first."""
        rows = slice(1, self.steps) if step is None else slice(step, step + 1)
        one, other = self.left[key][rows], self.right[key][rows]
        evidence = self.evidence
        rounding = exact = forced = floor = None
        if evidence is not None:
            rounding = evidence.rounding(key) if key == "loss" else None
            floor = evidence.floor(key)
            if rounding is not None and step is None:
                # One number is exact by luck at some step or other.
                least = evidence.floor(key, np.minimum)
                rounding = rounding if least is None else np.maximum(rounding, least)
            exact, forced = evidence.get(f"exact/{key}"), evidence.get(f"forced/{key}")
            cut = [None if e is None else e[rows] for e in (rounding, floor, exact, forced)]
            rounding, floor, exact, forced = cut
        if key == "lr":  # computed on the host: bits or nothing
            rounding, floor = None, None
        bound = rounding if key == "loss" else floor
        return self.part(key, one, other, bound, exact, forced=forced, first=rows.start + 1)

    def part(
        self,
        name: str,
        one: np.ndarray,
        other: np.ndarray,
        floor: np.ndarray | None,
        exact: np.ndarray | None,
        *,
        forced: np.ndarray | None = None,
        first: int = 1,
    ) -> _Part:
        """Measure one tensor over some steps, and judge each of them."""
        free = distance.rows(one, other)
        if free.nonfinite.any():
            step = int(np.argmax(free.nonfinite)) + first
            self.notes.append(f"{name}: not finite on both sides at the same place, step {step}")
        common: dict[str, Any] = {"name": name, "pair": (one, other), "first": first}
        if self.given is not None:
            return self.within(free, **common)
        if free.lonely.any():
            row = int(np.argmax(free.lonely))
            return _Part(verdict="FAIL", row=row, over=np.inf, distance=np.inf, bound=0.0,
                         why="NaN or infinity on one side only", **common)  # fmt: skip
        if not free.differs.any() and (forced is None or _same_bits(one, forced)):
            return _Part(verdict="PASS", by="bits", over=0.0, **common)
        if name == "lr":
            row = int(np.argmax(free.differs))
            return _Part(verdict="FAIL", row=row, over=np.inf, why="the rates differ",
                         distance=_ratio(free.apart[row], free.size[row]), bound=0.0,
                         **common)  # fmt: skip
        why = str(self.about().get("stale", ""))
        if floor is None or len(floor) < len(one) or not np.isfinite(floor).all():
            why = f"other bits, and no evidence{self.hint}"
        if floor is None or why:
            row = int(np.argmax(free.differs))
            return _Part(verdict="ABSTAIN", row=row, over=np.nan, why=why,
                         distance=_ratio(free.apart[row], free.size[row]), **common)  # fmt: skip
        return self.judged(free, floor, exact, forced, **common)

    def judged(
        self,
        free: distance.Rows,
        floor: np.ndarray,
        exact: np.ndarray | None,
        forced: np.ndarray | None,
        *,
        name: str,
        pair: tuple[np.ndarray, np.ndarray],
        first: int,
    ) -> _Part:
        """Judge by evidence: beyond the bound and of another meaning is a FAIL."""
        scale = self.scale(name, free, first)
        bound = MULTIPLE * np.maximum(
            np.asarray(floor, float).reshape(-1), LEAST * self.eps * scale
        )
        apart, lonely = free.apart, free.lonely
        if forced is not None:
            pair = (pair[0], forced)
            again = distance.rows(*pair)
            apart, lonely = again.apart, again.lonely
        over = apart / np.maximum(bound, np.finfo(float).tiny)
        beyond, narrow = over > 1, False
        wide, same = (apart, TWINS) if exact is None else (np.asarray(exact, float), SAME)
        relative = wide.reshape(-1) / np.maximum(scale, np.finfo(float).tiny)
        if exact is not None:
            meant = (relative > same) & (beyond | (relative > self.eps))
        elif self.eps < TWINS and (forced is not None or name not in self.left):
            meant = (relative > same) & beyond
        else:
            meant = beyond
        if beyond.any() and not meant.any():
            often = self.often(name, pair, bound)
            narrow = often > OFTEN
            meant = beyond if narrow else meant
        meant = meant | lonely
        row = int(np.argmax(meant)) if meant.any() else int(np.argmax(over))  # the first, or worst
        part = _Part(
            name=name, verdict="FAIL" if meant.any() else "PASS", by="rounding", row=row,
            over=float(over[row]), distance=_ratio(apart[row], scale[row]),
            bound=_ratio(bound[row], scale[row]), pair=pair, first=first,
        )  # fmt: skip
        if meant.any() and forced is None and exact is None and first + row > 1:
            why = f"{over[row]:.3g} times its bound; parity.forced=true tells faults from chaos"
            return dataclasses.replace(part, verdict="ABSTAIN", by="", why=why)
        if narrow:
            why = f"{over[row]:.3g} times its bound, and {often:.0%} of what was looked at is"
            if exact is not None:
                why += f": in {self.eps:.2g} precision alone, and in float64 nothing"
            return dataclasses.replace(part, why=why)
        if meant.any() and forced is not None and first > 1:
            self.wrong |= set((np.flatnonzero(meant) + first).tolist())
        if meant.any():
            stays = "" if exact is None else f", and {relative[row]:.2g} apart in float64"
            return dataclasses.replace(part, why=f"{over[row]:.3g} times its bound{stays}")
        if beyond.any() and exact is None:
            why = f"{part.over:.3g} times its bound, at few steps and by less than {TWINS:g}"
            part = dataclasses.replace(part, why=why)
        elif beyond.any():
            self.flips.append((row + first, name, part.over, float(relative[row])))
            part = dataclasses.replace(part, why=f"branch flip: {part.over:.3g} times its bound, "
                                       f"{relative[row]:.2g} apart in float64")  # fmt: skip
        drift = free.apart / np.maximum(bound, np.finfo(float).tiny)
        if forced is not None and (drift > 1).any():
            k = int(np.argmax(drift > 1)) + first
            self.drifts.append((k, name, float(drift.max())))
        return part

    def often(self, name: str, pair: tuple[np.ndarray, np.ndarray], bound: np.ndarray) -> float:
        """Return how often a tensor is beyond its bound: of its steps, or of a batch's samples.

        A branch flips for a sample here and a step there; lost precision is lost everywhere.
        """
        evidence = self.evidence
        if name in self.left and evidence is not None:
            forced = evidence.get(f"forced/{name}")
            floor = evidence.rounding(name) if name == "loss" else evidence.floor(name)
            if forced is None or floor is None:
                return 0.0
            n = self.steps
            apart = distance.rows(self.left[name][:n], forced[:n])
            least = np.maximum(floor[:n], LEAST * self.eps * self.scale(name, apart, 1))
            return float(np.mean(apart.apart > MULTIPLE * least))
        one, other = (np.atleast_2d(side[0]).reshape(len(side[0]), -1) for side in pair)
        gap = np.linalg.norm(one.astype(np.float64) - other.astype(np.float64), axis=1)
        return float(np.mean(gap > bound[0] / np.sqrt(len(one))))

    def told(self, verdict: str) -> None:
        """Turn what left a bound without being wrong into notes."""
        located = {flip["step"]: flip for flip in self.about().get("flips", ())}
        if self.wrong:
            self.notes.append(
                f"a wrong operation, no drift: started from {self.a.label()}'s state, "
                f"{self.b.label()} does something else at {len(self.wrong)} of {self.steps - 1} "
                f"later steps, first at {min(self.wrong)}"
            )
        for k in dict.fromkeys(k for k, *_ in sorted(self.flips)):
            same = [flip for flip in self.flips if flip[0] == k]
            _, name, times, wide = max(same, key=lambda flip: flip[2])
            self.notes.append(
                f"branch flip at step {k}: {_bare(name)} is {times:.3g} times its bound there, yet "
                f"in float64 the same step agrees to {wide:.2g}; {_straddled(located.get(k))}"
            )
        self.drifts.sort()
        if self.drifts and verdict == "PASS":
            k, name, _ = self.drifts[0]
            times = max(times for *_, times in self.drifts)
            self.notes.append(
                f"drift: {_bare(name)} leaves its bound at step {k} (at most {times:.3g} times), "
                "and no step does when it starts from the other side's state: what was there "
                f"before grew; {_straddled(located.get(k))}"
            )

    def about(self) -> Mapping[str, Any]:
        """Return what a probe said of itself."""
        return {} if self.evidence is None else self.evidence.about

    def scale(self, name: str, free: distance.Rows, first: int) -> np.ndarray:
        """Return what a tensor's distances are relative to at each step.

        Its own norm; that of all tensors of its kind together where its gradient is nothing but
        rounding there, so that its exact value is zero.
        """
        kind, _, rest = name.partition("/")
        if kind not in ("grad", "slot", "param"):
            return free.size
        rows = slice(first - 1, first - 1 + len(free.size))
        whole = self.size(kind)[rows]
        grad = f"grad/{rest.split('/', 1)[-1] if kind == 'slot' else rest}"
        if grad in self.left:
            all_grads = self.size("grad")[rows]
            nothing = self.measure(grad).size[rows] <= 64 * self.eps * all_grads
            least = np.where(nothing, whole, 0.0)
        else:
            least = np.zeros(len(whole))
        floor = self.eps * whole if kind == "grad" else 0.0
        return np.maximum(np.maximum(free.size, least), floor)

    def within(
        self, free: distance.Rows, *, name: str, pair: tuple[np.ndarray, np.ndarray], first: int
    ) -> _Part:
        """Judge by the tolerance that was given."""
        bad = [not _close(x, y, self.given) for x, y in zip(*pair, strict=True)]
        row = int(np.argmax(bad)) if any(bad) else int(np.argmax(free.apart))
        by = "bits" if not free.differs.any() else "tolerance"
        return _Part(
            name=name, verdict="FAIL" if any(bad) else "PASS", by=by, row=row,
            over=float(any(bad)) * 2, distance=_ratio(free.apart[row], free.size[row]), pair=pair,
            first=first, why=f"beyond {self.tolerance()}" if any(bad) else "",
        )  # fmt: skip

    def rung(self, name: str, parts: Sequence[_Part], *, source: str) -> Rung:
        """Put the parts of a rung together; the first step's worst tensor stands for it."""
        worst = max(parts, key=lambda part: WORST[part.verdict]).verdict
        same = [part for part in parts if part.verdict == worst]
        if worst == "FAIL" and name == "trajectory":
            first = min(part.first + part.row for part in same)
            same = [part for part in same if part.first + part.row == first]
            order = min(_PHASES.index(part.kind) for part in same)
            same = [part for part in same if part.kind == _PHASES[order]]
        if worst == "FAIL" and name == "update" and any(part.name == "lr" for part in same):
            same = [part for part in same if part.name == "lr"]
        # Of layers the first in order, of tensors the one farthest over its bound.
        one = same[0] if name == "forward" and worst == "FAIL" else max(same, key=_Part.rank)
        by = "" if worst != "PASS" else max((p.by for p in parts), key=_STRENGTH.__getitem__)
        step: int | None = None if name == "evaluation" else one.first + one.row
        if worst == "FAIL":
            before = [
                part.name for part in parts[: list(parts).index(one)] if part.verdict == "PASS"
            ]
            agreed = _few(before) if name == "forward" else ""
            if name == "trajectory":
                agreed = f"every step before {step}"
            pair = (one.pair[0][one.row], one.pair[1][one.row])
            self.found(name, phase=_PHASE.get(one.kind, name), tensor=_bare(one.name), step=step,
                       pair=pair, agreed=agreed)  # fmt: skip
        if self.given is not None:
            source = self.tolerance()
        if by == "bits":
            source, why = "bits", "the same bits"
        else:
            why = one.why or f"{one.over:.2g} of the bound"
        tensors: dict[str, float] = {}
        for part in parts:  # a tensor's gradient and the tensor itself have one name
            tensors[_bare(part.name)] = max(float(part.over), tensors.get(_bare(part.name), 0.0))
        return Rung(
            name=name, verdict=worst, by=by, tensor=_bare(one.name), step=step,
            distance=one.distance, bound=one.bound, source=source, why=why,
            tensors=tensors,
        )  # fmt: skip

    def by_checksums(self, name: str) -> Rung:
        """Judge a trajectory whose parameters were not kept by their checksums."""
        one, other = self.checks(self.a, self.b), self.checks(self.b, self.a)
        if not one or set(one) != set(other) or len(one["step"]) != len(other["step"]):
            return Rung(
                name=name, verdict="ABSTAIN", why="neither parameters nor checksums were kept"
            )
        if name == "update":
            return Rung(
                name=name, verdict="ABSTAIN", why="the first update was not kept (record.trace)"
            )
        bad = {n: one[n] != other[n] for n in one}
        if not any(differ.any() for differ in bad.values()):
            why = f"the same checksums at {len(one['step'])} steps"
            return Rung(name=name, verdict="PASS", by="bits", source="CRC-32", why=why)
        steps = {n: int(one["step"][np.argmax(d)]) for n, d in bad.items() if d.any()}
        tensor = min(steps, key=lambda n: steps[n])
        why = f"other checksums from step {steps[tensor]} on; record.trace=full can measure"
        return Rung(name=name, verdict="ABSTAIN", tensor=tensor, step=steps[tensor], why=why)

    def checks(self, record: RunRecord, other: RunRecord) -> dict[str, np.ndarray]:
        """Return a run's checksums; of one that kept its parameters, those at the other's steps."""
        kept, steps = record.named("param"), other.named("check").get("step")
        if not kept or steps is None or steps.max(initial=0) > self.steps:
            return record.named("check")
        sums = {
            name: np.array([zlib.crc32(np.ascontiguousarray(rows[k]).data) for k in steps])
            for name, rows in kept.items()
        }
        return {"step": steps} | sums

    # What else is told

    def found(
        self,
        rung: str,
        *,
        phase: str,
        tensor: str,
        step: int | None = None,
        pair: tuple[np.ndarray, np.ndarray] | None = None,
        agreed: str = "",
    ) -> None:
        self.findings[rung] = _finding(rung, phase, tensor, step, pair, agreed, self.given)

    def tolerance(self) -> str:
        rtol, atol = self.given or (0.0, 0.0)
        return f"given, |a − b| <= {atol:g} + {rtol:g}·|b| for every element"

    def measure(self, key: str) -> distance.Rows:
        if key not in self.measured:
            n = self.steps
            self.measured[key] = distance.rows(self.left[key][:n], self.right[key][:n])
        return self.measured[key]

    def size(self, kind: str) -> np.ndarray:
        """Return the norm of all tensors of a kind together at each step."""
        squares = [self.measure(key).size ** 2 for key in self.keys(kind)]
        return np.sqrt(np.sum(squares, axis=0)) if squares else np.zeros(self.steps)

    def distances(self) -> dict[str, np.ndarray]:
        """Return the curves over the steps, relative to the norm of all parameters."""
        keys = self.keys("param")
        if not keys:
            return {}
        one, other = self.a.named("first"), self.b.named("first")
        ends = [distance.rows(one[name][None], other[name][None]) for name in one]
        size = np.sqrt(sum(end.size[0] ** 2 for end in ends))
        first = np.array([_ratio(np.sqrt(sum(end.apart[0] ** 2 for end in ends)), size)])
        start = np.array([0.0])
        whole = np.maximum(self.size("param"), np.finfo(float).tiny)
        apart = np.sqrt(np.sum([self.measure(k).apart ** 2 for k in keys], axis=0)) / whole
        found = {"apart": np.concatenate([first, apart])}
        evidence = self.evidence
        if evidence is None:
            return found
        floors = [evidence.floor(key) for key in keys]
        if all(floor is not None for floor in floors):
            n = self.steps
            floor = np.sqrt(np.sum([np.square(f[:n]) for f in floors if f is not None], axis=0))
            found["floor"] = np.concatenate([start, floor / whole])
            found["bound"] = MULTIPLE * np.maximum(found["floor"], LEAST * self.eps)
        forced = {key: evidence.get(f"forced/{key}") for key in keys}
        if all(array is not None for array in forced.values()):
            n = self.steps
            squares = [
                distance.rows(self.left[k][:n], f[:n]).apart ** 2
                for k, f in forced.items()
                if f is not None
            ]
            found["forced"] = np.concatenate([start, np.sqrt(np.sum(squares, axis=0)) / whole])
        return found

    def events(self) -> dict[int, list[str]]:
        """Return what is known to have happened at a step."""
        found: dict[int, list[str]] = {}
        lr, norm = self.left.get("lr"), self.a.arrays.get("grad_norm")
        clip = self.a.config["optimizer"].get("clip_norm")
        epoch = self.a.about.get("updates_per_epoch")
        for k in range(2, self.steps + 1):
            what = []
            if lr is not None and lr[k - 1] != lr[k - 2]:
                what.append(f"the rate goes from {lr[k - 2]:.3g} to {lr[k - 1]:.3g}")
            if clip is not None and norm is not None and norm[k - 1] > clip:
                what.append("the gradient is clipped")
            if epoch and epoch > 1 and (k - 1) % epoch == 0:
                what.append("an epoch begins")
            if what:
                found[k] = what
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
    """The verdict on one tensor of a rung."""

    name: str
    verdict: str
    over: float
    by: str = ""
    row: int = 0
    distance: float | None = None
    bound: float | None = None
    pair: Any = None
    first: int = 1
    why: str = ""

    @property
    def kind(self) -> str:
        """What is in front of the tensor's name."""
        return self.name.split("/", 1)[0]

    def rank(self) -> float:
        return -1.0 if np.isnan(self.over) else self.over


_PHASE = {"loss": "loss", "grad": "gradients"} | dict.fromkeys(("lr", "slot", "param"), "update")
_STRENGTH = {"": 0, "bits": 1, "rounding": 2, "tolerance": 3}


def _finding(
    rung: str,
    phase: str,
    tensor: str,
    step: int | None,
    pair: tuple[np.ndarray, np.ndarray] | None,
    agreed: str,
    given: tuple[float, float] | None,
) -> Finding:
    where: dict[str, Any] = dict.fromkeys(("index", "a", "b", "absolute", "relative", "ulp"))
    if pair is not None:
        a, b = (np.asarray(side) for side in pair)
        gap = np.abs(a.astype(np.float64) - b.astype(np.float64))
        gap = np.where(np.isnan(gap), np.where(np.isnan(a) & np.isnan(b), 0, np.inf), gap)
        farthest = gap
        if given is not None:  # the farthest beyond the tolerance
            with np.errstate(invalid="ignore"):
                farthest = gap - given[0] * np.abs(b.astype(np.float64))
            farthest = np.where(np.isnan(farthest), gap, farthest)
        index = np.unravel_index(int(np.argmax(farthest)), gap.shape)
        one, other = a[index], b[index]
        scale = max(abs(float(one)), abs(float(other)))
        where = {
            "index": tuple(int(i) for i in index),
            "a": float(one),
            "b": float(other),
            "absolute": float(gap[index]),
            "relative": float(gap[index]) / scale if scale else 0.0,
            "ulp": float(distance.ulps(np.atleast_1d(one), np.atleast_1d(other))[0]),
        }
    return Finding(rung=rung, phase=phase, tensor=tensor, step=step, agreed=agreed, **where)


def _place(finding: Finding) -> str:
    place = "" if finding.step is None else f" at step {finding.step}"
    inside = f"[{', '.join(map(str, finding.index))}]" if finding.index else ""
    return f"{finding.rung}{place}: {finding.tensor}{inside}"


def _told(finding: Finding, ladder: Ladder) -> str:
    what = "beyond the tolerance" if ladder.facts.get("given") else "of meaning"
    first = f"The first difference {what} is in {_place(finding)}"
    if finding.phase not in (finding.rung, finding.tensor):
        first += f" ({finding.phase})"
    if finding.a is not None:
        first += (
            f" is {finding.a:.9g} in {ladder.a} and {finding.b:.9g} in {ladder.b}"
            f" ({finding.absolute:.3g} apart, {finding.relative:.3g} relative, "
            f"{finding.ulp:.6g} ulp)"
        )
    return f"{first}. Until then these agreed: {finding.agreed}."


def _straddled(flip: Mapping[str, Any] | None) -> str:
    """Say which value stood on which side of a threshold, if a probe found it."""
    if flip is None or "layer" not in flip:
        return "no value of an activation changed its sign there, so what flipped is not located"
    where = ", ".join(map(str, flip["index"]))
    sides = f"{flip['a']:.3g} in one and {flip['b']:.3g} in the other"
    weights = "" if flip.get("equal", True) else ", each at its own weights"
    return f"{flip['layer']}[{where}] is {sides}, around 0{weights}"


def _bare(key: str) -> str:
    kind, _, name = key.partition("/")
    if kind in ("grad", "param") and name:
        return name
    return key if kind != "slot" else f"{name.split('/', 1)[1]} (slot {name.split('/', 1)[0]})"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:2])} … {names[-1]}"


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("inf") if part > 0 else 0.0


def _close(a: np.ndarray, b: np.ndarray, given: tuple[float, float] | None) -> bool:
    rtol, atol = given or (0.0, 0.0)
    wide = [np.asarray(x).astype(np.float64) for x in (a, b)]
    return bool(np.allclose(wide[0], wide[1], rtol=rtol, atol=atol, equal_nan=True))


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and not distance.rows(a[None], b[None]).differs.any()
