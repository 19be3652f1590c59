"""Faults of one side of a pair, and what the ladder shall say of each.

How a side is made wrong is in `wrongs`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pairs
import pytest
from wrongs import WrongSide

HIDDEN = ("layer1.w", "layer1.b", "layer2.w", "layer2.b", "out.w", "out.b")
BIASES = ("layer1.b", "layer2.b", "out.b")
ALL = "any"  # every tensor is wrong, and which is the farthest is chance

DIGITS = ("data=digits", "data.test=0.75", "train=minibatch", "train.batch=64",
          "train.evaluate_every=null", "loss=cross_entropy")  # fmt: skip
MLP = (*DIGITS, "model=mlp", "model.widths=[12,12]", "optimizer=adam")
NORM = (*MLP, "model.norm=batch")
CNN = (*DIGITS, "data.layout=image", "model=cnn", "model.channels=[3]", "optimizer=gd")
RNN = (*DIGITS, "data.layout=rows", "model=rnn", "model.width=6", "optimizer=gd")
ATTENTION = (*DIGITS, "data.layout=rows", "model=attention", "model.width=8", "model.heads=2",
             "model.hidden=8", "optimizer=gd")  # fmt: skip
VALUES = ("data=diabetes", "data.test=0.36", "train=minibatch", "train.batch=64",
          "train.evaluate_every=null", "model=mlp", "model.widths=[12,12]", "optimizer=adam")  # fmt: skip
PER_EPOCH = 5  # updates of an epoch of any of these


class Run(NamedTuple):
    """A rate, a precision, and how many steps."""

    rate: float
    dtype: str
    steps: int

    def overrides(self) -> tuple[str, ...]:
        return (f"optimizer.lr={self.rate}", f"backend.dtype={self.dtype}",
                f"train.epochs={self.steps // PER_EPOCH}")  # fmt: skip


SHORT_32, MIDDLE_64, LONG_32 = (
    Run(1e-3, "float32", 5), Run(1e-3, "float64", 60), Run(1e-3, "float32", 1500),
)  # fmt: skip
SHORT_64, MIDDLE_32, LONG_64 = (
    Run(1e-5, "float64", 5), Run(1e-5, "float32", 60), Run(1e-5, "float64", 1500),
)  # fmt: skip
RUNS = (SHORT_32, MIDDLE_64, LONG_32, SHORT_64, MIDDLE_32, LONG_64)
"""So few that each pair of a rate, a precision and a number of steps is among them."""


class Fault(NamedTuple):
    """What is made wrong, and what the ladder shall say.

    `tensors` are several where all of them are wrong; which is the farthest is then chance.
    """

    overrides: tuple[str, ...]
    mutate: Callable[[WrongSide], Any]
    rung: str
    tensors: tuple[str, ...] | str
    step: int | None = 1
    kind: str = "meaning"
    side: str = "torch"
    runs: tuple[Run, ...] = (SHORT_32,)
    first: Callable | None = None
    ratio: float | None = None
    says: str = ""
    verdict: str = "FAIL"
    both: bool = False


def cases(faults: dict[str, Fault]) -> list:
    """Return pytest's parameters, one a fault and run.

    Of every third fault the first run is a sample, where it is short; every ninth sample is in
    `make test`, and all of `make test-long` that is called "sample" in what CI runs of that.
    """
    found = []
    for number, (name, fault) in enumerate(faults.items()):
        for run in fault.runs:
            sample = run is fault.runs[0] and run.steps <= 10 and number % 3 == 0
            case = f"{name}-{run.rate:g}-{run.dtype}-{run.steps}{'-sample' if sample else ''}"
            marks = [] if sample and number % 27 == 0 else [pytest.mark.long]
            found.append(pytest.param(fault, run, id=case, marks=marks))
    return found


@functools.cache
def _right(name: str, overrides: tuple[str, ...], first: Callable | None) -> Any:
    return pairs.recorded(f"backend={name}", *overrides, first=first)


def judged(fault: Fault, run: Run, patch: Any) -> Any:
    """Train both sides, one of them wrong, and judge the two."""
    overrides = (*fault.overrides, *run.overrides())
    other = {"torch": "tensorflow", "tensorflow": "torch"}[fault.side]
    fast = ("backend.execution=compiled",) if other == "tensorflow" and run.steps > 100 else ()
    if not fault.both:
        a = _right(other, (*overrides, *fast), fault.first)
    changes = fault.mutate(WrongSide(fault.side, patch)) or {}
    if fault.both:
        a = pairs.recorded(f"backend={other}", *overrides, first=fault.first)
    after = changes.pop("after", None)
    b = pairs.recorded(f"backend={fault.side}", *overrides, **({"first": fault.first} | changes))
    if after is not None:
        after(b)
    found = pairs.ladder(a, b, twins={"b": changes["twin"]} if "twin" in changes else None)
    pairs.show(found)
    return found


def misplaced(fault: Fault, found: Any) -> list[str]:
    """Return in what the ladder said something else than it should."""
    if fault.verdict != found.verdict:
        return [f"verdict {found.verdict} for {fault.verdict}: {found.sentence()}"]
    text = " ".join([found.sentence(), *(rung.why for rung in found.rungs), *found.notes])
    wrong = [f"does not say {fault.says!r}: {text}"] if fault.says not in text else []
    if fault.verdict != "FAIL":
        return wrong
    finding = found.finding
    pairs_of = {"kind": (finding.kind, fault.kind), "rung": (finding.rung, fault.rung)}
    if fault.step is not None:
        pairs_of["step"] = finding.step, fault.step
    wrong += [
        f"{key} {said} for {should}" for key, (said, should) in pairs_of.items() if said != should
    ]
    if fault.tensors != ALL and finding.tensor not in fault.tensors:
        wrong.append(f"tensor {finding.tensor} for {fault.tensors}")
    if fault.ratio is not None and (
        finding.ratio is None or abs(finding.ratio / fault.ratio - 1) > 1e-3
    ):
        wrong.append(f"ratio {finding.ratio} for {fault.ratio}")
    before = list(itertools.takewhile(lambda rung: rung.name != fault.rung, found.rungs))
    wrong += [f"{rung.name} is {rung.verdict}" for rung in before if rung.verdict != "PASS"]
    return wrong


def check(fault: Fault, run: Run, patch: Any) -> None:
    assert misplaced(fault, judged(fault, run, patch)) == []


def moved_biases(values):
    """Starts whose biases are not 0, for both sides."""
    rng = np.random.Generator(np.random.PCG64(7))
    return {
        name: rng.normal(0, 0.3, value.shape) if name.endswith(".b") else value
        for name, value in values.items()
    }
