"""The verdict on a pair, as data; `pipeline.parity.tell` has its words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.parity.evidence import METHOD_NAME, Suspect
from pipeline.parity.growth import Growth

RUNGS = (
    "data", "init", "forward", "loss", "gradients", "update", "trajectory", "evaluation",
)  # fmt: skip
FOREIGN_RUNGS = ("structure", "settings")
"""Before the others where the two models are not ours."""
INFERENCE_RUNGS = ("data", "init", "forward", "evaluation")
"""Those that are left of the others where inference alone is judged."""
WORST = {"PASS": 0, "ABSTAIN": 1, "FAIL": 2, "ERROR": 3}
KINDS = ("data", "start", "state", "meaning", "precision", "undecided")
"""Kinds of a FAIL: other samples or batches; another start; something besides the update changes
the state between steps; the two mean different things; one side computes in less than its
precision; float64 is missing on one side, so that the two cannot be told apart. At one place the
first of these is the cause."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rung:
    """One rung's verdict.

    Attributes
    ----------
    verdict
        PASS, FAIL, ABSTAIN or ERROR.
    kind
        Of a FAIL one of `KINDS`.
    by
        What decided a PASS: ``bits``, ``rounding``, ``tolerance`` or ``accepted``.
    test
        Which inequality the numbers are of: ``meaning``, ``precision``, ``replay``; empty where
        bits or a tolerance decided.
    tensor, step
        Where the distance is largest over its bound; of a FAIL the first place.
    distance, bound
        Of that test, relative to the size of the quantity; None where nothing was measured.
    apart
        The largest distance in the run's own precision from equal states, over all tensors and
        steps of the rung, relative to the size of the quantity; None where nothing was measured.
    apart_at
        Where that is, in words.
    source
        Where the bound came from, in words.
    why
        The verdict in words.
    tensors
        The largest distance over its bound of each tensor, for the heat map.
    """

    name: str
    verdict: str
    kind: str = ""
    by: str = ""
    test: str = ""
    tensor: str = ""
    step: int | None = None
    distance: float | None = None
    bound: float | None = None
    apart: float | None = None
    apart_at: str = ""
    source: str = ""
    why: str = ""
    tensors: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """The first place of one kind of FAIL: a number on each side, and how far apart they are.

    `ulp` is None across signs and where a value is not finite. `ratio` is the one factor between
    the two sides' tensors, None where there is none. `detail` says more in words.
    """

    kind: str
    rung: str
    phase: str
    step: int | None
    tensor: str
    index: tuple[int, ...] | None = None
    a: float | None = None
    b: float | None = None
    absolute: float | None = None
    relative: float | None = None
    ulp: float | None = None
    ratio: float | None = None
    detail: str = ""
    agreed: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accepted:
    """A difference that was known and is no FAIL: what was accepted, why, and where it is."""

    name: str
    reason: str
    rungs: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ladder:
    """The verdict on two records.

    Attributes
    ----------
    finding, findings
        The first FAIL, and the first of each kind.
    accepted
        Differences that `parity.accept` names and that are there.
    distances
        By step from the start on, relative to the model's norm: ``apart`` (the two runs),
        ``forced`` (each step from equal states), ``own`` (the larger of both sides' own errors);
        those that were measured.
    ratios
        By tensor, at each step from 1 on the largest distance from equal states over its bound,
        of the loss, gradients, optimizer state and parameters; only in memory, for a picture.
    errors
        Distance of ``a`` and ``b`` from the reference at each step, in ulps of the model's norm.
    notes
        What is to know besides, the most important first.
    suspects
        What is beyond its bound and has no second opinion yet, the first of each rung.
    """

    a: str
    b: str
    rungs: tuple[Rung, ...]
    findings: tuple[Finding, ...] = ()
    accepted: tuple[Accepted, ...] = ()
    growth: Growth | None = None
    distances: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    ratios: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    errors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    reference: str = ""
    notes: tuple[str, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The worst rung's, with FAIL and ERROR over ABSTAIN."""
        return max((rung.verdict for rung in self.rungs), key=WORST.__getitem__)

    @property
    def finding(self) -> Finding | None:
        """The first FAIL; of one rung a difference of meaning before one of precision."""
        order = {name: i for i, name in enumerate((*FOREIGN_RUNGS, *RUNGS))}
        return min(
            self.findings, key=lambda f: (order[f.rung], f.step or 0, KINDS.index(f.kind)),
            default=None,
        )  # fmt: skip

    @property
    def kind(self) -> str:
        """The kind of the FAIL, one of `KINDS`; empty otherwise."""
        return self.finding.kind if self.finding is not None else ""

    def rung(self, name: str) -> Rung:
        """Return the rung of a name."""
        return next(rung for rung in self.rungs if rung.name == name)

    def sentence(self) -> str:
        """Return the finding, or what decided, in a few sentences."""
        from pipeline.parity.tell import tell_verdict

        return tell_verdict(self)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it; what is not finite becomes text."""
        finding = self.finding
        about = {
            "format": 2,
            "method": METHOD_NAME,
            "verdict": self.verdict,
            "kind": self.kind,
            "sentence": self.sentence(),
            "a": self.a,
            "b": self.b,
            "rungs": [dataclasses.asdict(rung) for rung in self.rungs],
            "finding": None if finding is None else dataclasses.asdict(finding),
            "findings": [dataclasses.asdict(each) for each in self.findings],
            "accepted": [dataclasses.asdict(each) for each in self.accepted],
            "growth": None if self.growth is None else dataclasses.asdict(self.growth),
            "distances": {name: values.tolist() for name, values in self.distances.items()},
            "errors": {name: values.tolist() for name, values in self.errors.items()},
            "reference": self.reference,
            "notes": list(self.notes),
            "facts": dict(self.facts),
        }
        plain: dict[str, Any] = _plain(about)
        return plain


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: numbers that are not finite and all keys become text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float | np.floating):
        number = float(value)
        return number if np.isfinite(number) else str(number)
    return value.item() if isinstance(value, np.generic) else value
