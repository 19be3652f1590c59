"""All that is measured of a pair where nothing is suspect yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from pipeline.config.types import ConfigError
from pipeline.pairs.pair import Side
from pipeline.pairs.registry import find_pair
from pipeline.parity.evidence import METHOD, Evidence
from pipeline.probe.forced import WIDE, measure_forward, measure_free, measure_steps
from pipeline.probe.predictions import measure_predictions
from pipeline.probe.reference import check_gradients, compare_precisions, measure_reference
from pipeline.probe.replay import note_draws
from pipeline.probe.side import ProbedSide
from pipeline.record.record import RunRecord


def open_sides(
    a: RunRecord,
    b: RunRecord,
    *,
    twins: Mapping[str, Side] | None = None,
    scratch: Path | None = None,
) -> dict[str, ProbedSide]:
    """Return both sides of a pair, ready to make steps.

    Raises
    ------
    ConfigError
        If a record holds too little, or in a precision that has no wider one here.
    """
    for record in (a, b):
        if not record.named("param"):
            shown = record.about.get("trace", {}).get("kept", "?")
            why = "a probe needs every step: run with record.trace=full"
            raise ConfigError("record.trace", shown, why)
        if str(record.arrays["loss"].dtype) not in ("float32", "float64"):
            why = "bounds are derived for float32 and float64"
            raise ConfigError("backend.dtype", record.config["backend"]["dtype"], why)
    configured: dict[str, tuple[ProbedSide, str]] = {}
    return {
        name: ProbedSide(
            record, twin=(twins or {}).get(name), scratch=scratch, configured=configured
        )
        for name, record in (("a", a), ("b", b))
    }


def measure_pair(
    sides: Mapping[str, ProbedSide],
    *,
    prove: bool = False,
    gradcheck: bool = False,
    say: Callable[[str], object] = lambda text: None,
) -> Evidence:
    """Measure what the bounds of a pair need.

    Parameters
    ----------
    prove
        Whether both are also trained freely in float64, to compare the two distances.
    gradcheck
        Whether gradients are held against central differences.
    say
        Called with what is done next.
    """
    begun = perf_counter()
    evidence = Evidence(
        RunRecord(
            about={
                "method": METHOD,
                "asked": {"prove": prove, "gradcheck": gradcheck},
                "terms": count_terms(sides),
                "opinions": [],
                "replay": {},
                "types": {},
            }
        )
    )
    if note_draws(sides, evidence):
        return evidence
    lend_float64(sides, evidence)
    if "broken" in evidence.about:
        return evidence
    steps = min(side.record.steps for side in sides.values())
    say("each step from equal states, in both precisions")
    finite_steps = measure_steps(sides, evidence, steps=steps)
    measure_free(sides, evidence, steps=finite_steps)
    measure_forward(sides, evidence)
    measure_predictions(sides, evidence)
    say("the reference in higher precision")
    evidence.about["reference"], errors = measure_reference(sides)
    evidence.arrays.update(errors)
    evidence.about["probe"] = {"seconds": perf_counter() - begun}
    if prove:
        say("both in float64, freely")
        evidence.about["prove"] = compare_precisions(sides)
    if gradcheck:
        say("gradients against central differences")
        evidence.about["gradcheck"] = {k: check_gradients(side) for k, side in sides.items()}
    return evidence


def lend_float64(sides: Mapping[str, ProbedSide], evidence: Evidence) -> None:
    """Let the other side's float64 stand for that of a side whose code runs in float32 alone.

    Only code that is not ours may be so. Why is noted by side in ``about["narrow"]``; where neither
    side runs in float64, nothing can be measured.
    """
    narrow = {
        name: why for name, side in sides.items()
        if find_pair(side.job.settings.model.name).is_foreign
        and (why := find_narrow(side)) is not None
    }  # fmt: skip
    if len(narrow) == len(sides):
        why = "; ".join(f"{sides[name].record.label()}: {why}" for name, why in narrow.items())
        evidence.about["broken"] = f"neither side runs in float64 ({why})"
    elif narrow:
        evidence.about["narrow"] = narrow
        (name,) = narrow
        sides[name].wide = sides["b" if name == "a" else "a"]


def find_narrow(side: ProbedSide) -> str | None:
    """Return why a side's step cannot be made in float64; None if it can."""
    if side.dtype == WIDE:
        return None
    try:
        outcome = side.stepper(WIDE)(side.start(1))
    except Exception as error:  # whatever code that is not ours raises
        text = str(error).strip() or type(error).__name__
        return text.splitlines()[0][:300]
    names = (key for key, array in outcome.items() if array.dtype != np.float64)
    name = next(names, None)
    return None if name is None else f"{name} is {outcome[name].dtype}"


def count_terms(sides: Mapping[str, ProbedSide]) -> dict[str, int]:
    """Return n, the terms of the longest sum: of a step (loss to update), and of one sample.

    A step sums over the rows of a batch times their positions (pixels, times); a sample over the
    inputs of the widest layer. Gradients of earlier layers also sum over the widest layer.
    """
    side = sides["a"]
    fan = max((int(np.prod(v.shape[:-1])) for v in side.first.values() if v.ndim > 1), default=1)
    shapes = [rows.shape for rows in side.record.named("layer").values()]
    positions = max((int(np.prod(shape[1:-1])) for shape in shapes if len(shape) > 2), default=1)
    rows = sum(len(x) for x, *_ in side.parts(1))
    about: dict[str, Any] = {"step": max(rows * positions, fan), "sample": fan}
    return about
