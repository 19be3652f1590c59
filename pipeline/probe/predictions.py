"""Predictions of both sides at equal weights, on the test set and on the validation set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline import metrics
from pipeline.parity.evidence import Evidence
from pipeline.parity.quantity import TEST, VALIDATION, Quantity
from pipeline.probe.forced import NARROW, WIDE, measure_rows, put_replay
from pipeline.probe.side import ProbedSide


def measure_predictions(sides: Mapping[str, ProbedSide], evidence: Evidence) -> None:
    """Measure the test set at each side's scored weights, and its validation curve again."""
    if all("prediction" in side.record.arrays for side in sides.values()):
        ends = [side.scored() for side in sides.values()]
        for (source, side), outputs in zip(
            sides.items(), _predict_all(sides, ends, split="test"), strict=True
        ):
            native = side.dtype
            evidence.put(TEST, source, measure_rows(outputs, native=native, is_step=False))
            put_replay(evidence, TEST, source, side.record.arrays["prediction"][None],
                       outputs[source, native])  # fmt: skip
    steps = _scored_steps(sides)
    if not len(steps):
        return
    evidence.about["scored"] = [int(step) for step in steps]
    for source, side in sides.items():
        parameters = side.record.named("param")
        curve = [{name: rows[step] for name, rows in parameters.items()} for step in steps]
        for step, outputs in zip(steps, _predict_all(sides, curve, split="val"), strict=True):
            evidence.put(
                VALIDATION, source, measure_rows(outputs, native=side.dtype, is_step=False)
            )
            _replay_scores(side, evidence, source, int(step), outputs)


def _scored_steps(sides: Mapping[str, ProbedSide]) -> np.ndarray:
    """Return the steps after which both sides scored their validation set."""
    one, other = (
        np.asarray(side.record.arrays.get("val/step", ()), np.int64) for side in sides.values()
    )
    return np.intersect1d(one, other)


def _predict_all(
    sides: Mapping[str, ProbedSide], weights: Sequence[Mapping[str, np.ndarray]], *, split: str
) -> list[dict[tuple[str, str], np.ndarray]]:
    """Return both sides' outputs in both precisions, for each of some weights.

    A precision at a time: to set a framework up for another one costs it the kernels it has made.
    """
    columns = {
        (name, dtype): [side.predict(dtype, values, split=split)[None] for values in weights]
        for name, side in sides.items()
        for dtype in (NARROW, WIDE)
    }
    return [{key: column[row] for key, column in columns.items()} for row in range(len(weights))]


def _replay_scores(
    side: ProbedSide,
    evidence: Evidence,
    source: str,
    step: int,
    outputs: Mapping[tuple[str, str], np.ndarray],
) -> None:
    """Hold the recorded scores of one epoch against those of its weights."""
    dataset, arrays = side.job.dataset, side.record.arrays
    row = int(np.flatnonzero(arrays["val/step"] == step)[0])
    again = {
        dtype: metrics.scores(
            outputs[source, dtype][0], dataset.arrays["y_val"], classes=dataset.classes
        )
        for dtype in (NARROW, WIDE)
    }
    for name in again[side.dtype]:
        if f"val/{name}" not in arrays:
            continue
        quantity = Quantity("score", name)
        four = {(s, d): np.array([[again[d][name]]]) for s in "ab" for d in (NARROW, WIDE)}
        evidence.put(quantity, source, measure_rows(four, native=side.dtype))
        recorded = np.asarray(arrays[f"val/{name}"][row : row + 1], np.float64)[:, None]
        put_replay(evidence, quantity, source, recorded, four[source, side.dtype])
