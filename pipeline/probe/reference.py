"""What is told beside a verdict: a reference in higher precision, gradients checked, a proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from pipeline import seeds
from pipeline.backends.base import Arrays
from pipeline.pairs.registry import find_pair
from pipeline.parity import distance
from pipeline.probe.side import ProbedSide
from pipeline.record.record import RunRecord

_SHARE = 0.2  # of the runs' time that a reference in extended precision may take
_BLOCK = 1 << 16  # numbers in extended precision that are looked at together


def has_numpy(side: ProbedSide) -> bool:
    """Whether the gradients of a run's model were derived by hand as well."""
    settings = side.job.settings
    return "numpy" in find_pair(settings.model.name).backends and settings.train.loop == "manual"


def measure_reference(sides: Mapping[str, ProbedSide]) -> tuple[str, Arrays]:
    """Train in higher precision, and return how far each side is from that at each step.

    In ulps of the norm of all parameters, ``‖θ − θ*‖ / (eps·‖θ*‖)``. By NumPy where that takes
    at most a fifth of the time that the runs took, else by the side that was faster, in float64.
    """
    a = min(sides.values(), key=lambda side: _seconds(side.record))
    longest = sum(_seconds(side.record) for side in sides.values()) * _SHARE
    if has_numpy(a) and _extended_seconds(a) <= longest:
        name = "NumPy, longdouble"
        reference = a.of_numpy("longdouble").train(dtype="longdouble")
    elif a.dtype == "float32":
        name = f"{a.job.settings.backend.name}, float64"
        reference = a.train(dtype="float64")
    else:
        return "", {}
    exact = reference.named("param")
    whole = np.sqrt(np.sum([_squares(rows) for rows in exact.values()], axis=0))
    eps = float(np.finfo(a.dtype).eps)
    unit = eps * np.where(whole > 0, whole, whole.max() or 1.0)  # a start may be all zeros
    arrays: Arrays = {}
    for side, each in sides.items():
        gaps = [_squares(exact[key], rows) for key, rows in each.record.named("param").items()]
        n = min(len(unit), each.record.steps + 1)
        arrays[f"error/{side}"] = np.sqrt(np.sum([gap[:n] for gap in gaps], axis=0)) / unit[:n]
    return name, arrays


def _seconds(record: RunRecord) -> float:
    """Return how many seconds a run trained, 0 where it is not recorded."""
    return float(record.about.get("time", {}).get("train_s", 0.0))


_EXTENDED = 12e-9  # seconds for one parameter and row, forwards and back; measured


def _extended_seconds(side: ProbedSide) -> float:
    """Return about how long NumPy takes for the run in extended precision."""
    size = sum(values.size for values in side.first.values())
    rows = sum(len(x) for x, *_ in side.parts(1))
    return side.record.steps * (2e-4 + _EXTENDED * size * rows)


def _squares(exact: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Return the squared norm of each row, or of its distance from another's.

    A piece at a time: a long run in extended precision is too large to be held twice.
    """
    n = len(exact) if rows is None else min(len(exact), len(rows))
    squares = np.empty(n)
    tall = max(1, _BLOCK // max(1, exact[0].size))
    for top in range(0, n, tall):
        part = slice(top, min(top + tall, n))
        with np.errstate(over="ignore", invalid="ignore"):
            gap = exact[part] if rows is None else rows[part].astype(exact.dtype) - exact[part]
        flat = gap.reshape(len(gap), -1)
        with np.errstate(over="ignore", invalid="ignore"):  # what diverges leaves the range
            squares[part] = np.einsum("ij,ij->i", flat, flat)
    return squares


def compare_precisions(sides: Mapping[str, ProbedSide]) -> dict[str, Any]:
    """Train both freely in float64, and compare their distance with that of the runs."""
    native = [side.record for side in sides.values()]
    wide = [side.train(dtype="float64") for side in sides.values()]
    distances = {
        "native": _largest_distance(native),
        "float64": _largest_distance(wide),
    }
    shrunk = distances["float64"]
    return distances | {"ratio": distances["native"] / shrunk if shrunk else None}


def _largest_distance(records: Sequence[RunRecord]) -> float:
    """Return the largest relative distance of two runs' parameters over the steps.

    Where all parameters of both are zero, as a start may be, there is none.
    """
    one, other = (record.named("param") for record in records)
    n = min(len(rows) for side in (one, other) for rows in side.values())
    rows = [distance.rows(one[k][:n], other[k][:n]) for k in one]
    apart = np.sqrt(np.sum([r.apart**2 for r in rows], axis=0))
    size = np.sqrt(np.sum([r.size**2 for r in rows], axis=0))
    return float(np.divide(apart, size, out=np.zeros_like(apart), where=size > 0).max())


def check_gradients(side: ProbedSide) -> dict[str, Any]:
    """Hold the first gradient, in float64, against central differences.

    Along one random unit direction of each tensor, with a step of 1e-6 times its norm (or 1):
    rounding leaves about eps·|loss| / 1e-6 of error, 1e-10 relative to the loss.
    """
    rng = seeds.stream(side.job.settings.seed, "gradcheck")
    start = {k: v.astype(np.float64) for k, v in side.first.items()}
    one = partial(side.train, dtype="float64", steps=1)
    here = one(values=start).arrays
    gradients = [key for key in here if key.startswith("grad/")]
    if not gradients:
        return {"why": "this loop hands out no gradients"}
    whole = float(here["grad_norm"][0])
    errors = {}
    for key in gradients:
        name = key[len("grad/") :]
        direction = rng.normal(size=start[name].shape)
        direction /= np.linalg.norm(direction)
        h = 1e-6 * max(1.0, float(np.linalg.norm(start[name])))
        up, down = (
            one(values=start | {name: start[name] + sign * h * direction}).arrays["loss"][0]
            for sign in (1, -1)
        )
        slope = float(np.sum(here[key][0] * direction))
        errors[name] = abs(float(up - down) / (2 * h) - slope) / (whole or 1.0)
    result: dict[str, Any] = {"central differences": errors, "largest": max(errors.values())}
    if has_numpy(side):
        theirs = side.of_numpy("float64").train(values=start, dtype="float64", steps=1).arrays
        result["hand-derived"] = {
            key[len("grad/") :]: float(np.linalg.norm(theirs[key][0] - here[key][0]))
            / (whole or 1.0)
            for key in gradients
        }
    return result
