"""What is to know about a pair besides its rungs: another machine, divergence, coarse sides."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.parity.bounds import COARSE, NARROW
from pipeline.parity.compared import Compared
from pipeline.parity.quantity import PHASES
from pipeline.record.record import RunRecord


def list_notes(pair: Compared) -> list[str]:
    """Return the notes at the top of a ladder, the most important first."""
    notes = list_machine_differences(pair) + _tell_lost_gradients(pair)
    if pair.evidence is None:
        return notes + _tell_not_finite(pair)
    notes += _tell_narrow(pair) + _tell_leaks(pair)
    return notes + _tell_coarse(pair) + _tell_diverged(pair)


def _tell_not_finite(pair: Compared) -> list[str]:
    """Tell from the records alone where a loss or gradient is not finite on both sides."""
    notes = []
    for name, word in (("loss", "the loss"), ("grad_norm", "a gradient")):
        rows = [record.arrays.get(name, np.zeros(0))[: pair.steps] for record in (pair.a, pair.b)]
        if len(rows[0]) != len(rows[1]):
            continue
        bad = ~np.isfinite(rows[0]) & ~np.isfinite(rows[1])
        if bad.any():
            notes.append(f"not finite on both sides: {word} at step {int(np.argmax(bad)) + 1}")
    return notes


def list_machine_differences(pair: Compared) -> list[str]:
    """Return in what device, machine, versions, threads or shared flags two runs differ.

    What one framework alone has (oneDNN, XLA) is no difference: it is told beside times.
    """
    notes = []
    one, other = (_environment(record) for record in (pair.a, pair.b))
    for key in [key for key in one if key in other and one[key] != other[key]]:
        word = {"device": "another device", "cpu": "another machine"}.get(key, f"another {key}")
        notes.append(f"{word}: {one[key]} and {other[key]}; times are not comparable")
    settings = [record.config.get("backend", {}) for record in (pair.a, pair.b)]
    for key in ("threads", "deterministic", "execution"):
        values = [each.get(key) for each in settings]
        if None not in values and values[0] != values[1]:
            shown = " and ".join(map(_shown, values))
            notes.append(f"backend.{key} is {shown}; times are not comparable")
    return notes


def _environment(record: RunRecord) -> dict[str, str]:
    """Return what a record says of the machine, and the device that was really taken."""
    return {**record.about.get("environment", {}), "device": str(record.about.get("device", ""))}


def tell_speed(pair: Compared) -> str:
    """Say which run's step is faster, and by how much; nothing where times are not comparable."""
    times = [record.about.get("time", {}).get("step_us") for record in (pair.a, pair.b)]
    if None in times or not all(times) or list_machine_differences(pair):
        return ""
    slow, fast = ("b", "a") if times[1] >= times[0] else ("a", "b")
    flags = []
    for side, record in (("a", pair.a), ("b", pair.b)):
        versions = record.about.get("versions", {})
        named = [f"{key} {versions[key]}" for key in ("onednn", "xla_flags", "mkl")
                 if versions.get(key)]  # fmt: skip
        xla = record.config.get("backend", {}).get("xla")
        named += ["xla"] if xla else []
        if named:
            flags.append(f"{pair.label(side)} has {', '.join(named)}")
    beside = f"; {'; '.join(flags)}" if flags else ""
    longer, shorter = max(times), min(times)
    many = f"{pair.steps} step{'s' * (pair.steps != 1)}"
    return (
        f"A step takes {shorter:,.0f} µs in {pair.label(fast)} and {longer:,.0f} µs in "
        f"{pair.label(slow)}, {longer / shorter:.2g} times as long (medians of {many}{beside})"
    )


def _shown(value: Any) -> str:
    """Return a setting as text, booleans as YAML writes them."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _tell_lost_gradients(pair: Compared) -> list[str]:
    """Tell which parameters lost their gradient after the first step."""
    return [
        f"{name} has no gradient in {pair.label(side)} from step {step} on, at some steps at least"
        for side, record in (("a", pair.a), ("b", pair.b))
        for name, step in record.about.get("lacking_since", {}).items()
        if step > 1
    ]


def _tell_narrow(pair: Compared) -> list[str]:
    """Say of a side that has no float64 what stands for it, and what a verdict then is worth."""
    assert pair.evidence is not None
    return [
        f"{pair.label(side)} does not run in float64 ({why}): the other side's float64 stands for "
        "both, so that a FAIL cannot tell meaning from precision, and what is smaller than "
        "float32's own error is not seen"
        for side, why in pair.evidence.about.get("narrow", {}).items()
    ]


def _tell_leaks(pair: Compared) -> list[str]:
    """Return a note for each run whose float64 step used narrower floating types."""
    assert pair.evidence is not None
    narrow = {"float16", "half", "bfloat16", "float32", "float8_e4m3fn", "float8_e5m2"}
    notes = []
    for side, types in pair.evidence.about.get("types", {}).items():
        leaked = sorted(narrow & set(types))
        if leaked:
            notes.append(
                f"a leak: operations of {pair.label(side)}'s float64 step see {', '.join(leaked)}"
            )
    return notes


def _tell_coarse(pair: Compared) -> list[str]:
    """Tell where both sides lose digits: their errors are alike, and far from one rounding."""
    assert pair.evidence is not None
    worst: tuple[float, str] | None = None
    for quantity in pair.shared("loss", "gradient", "slot"):
        for source in pair.evidence.sources(quantity):
            m = pair.evidence.measured(quantity, source)
            there = (m.size[:, 0] > 0) & ~m.diverged
            if not there.any():
                continue
            own_error = np.minimum(m.own_a[there, 0], m.own_b[there, 0]) / m.size[there, 0]
            typical = float(np.median(own_error))
            if typical > COARSE * float(NARROW.eps) and (worst is None or typical > worst[0]):
                worst = typical, quantity.label
    if worst is None:
        return []
    return [
        f"both sides lose digits: the own error of {worst[1]} is {worst[0]:.2g} of its size in "
        "each (both compute coarsely, or addends cancel)"
    ]


def _tell_diverged(pair: Compared) -> list[str]:
    """Return a note on the first step at which both runs diverge from equal states, if any."""
    assert pair.evidence is not None
    first: int | None = None
    for quantity in pair.shared(*PHASES):
        for source in pair.evidence.sources(quantity):
            rows = pair.evidence.measured(quantity, source).diverged
            if rows.any():
                step = int(np.argmax(rows)) + 1
                first = step if first is None else min(first, step)
    if first is None:
        return []
    return [f"divergence: from equal states both sides leave the range of numbers at step {first}"]
