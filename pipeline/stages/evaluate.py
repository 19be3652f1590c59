"""The stage ``evaluate``: scores on samples that were never trained on, in shared NumPy code."""

from __future__ import annotations

from pipeline import data, metrics
from pipeline.backends.base import Backend, Model
from pipeline.record.record import RunRecord


def evaluate(
    record: RunRecord, *, backend: Backend, model: Model, dataset: data.Dataset
) -> dict[str, float]:
    """Score `model` on the test samples, put predictions and scores into `record`, return them.

    The targets stay in float64: the prediction's rounding counts, the target's does not. Of data
    without a target, or whose loss is a pair's own, there are predictions and no scores.
    """
    prediction = backend.predict(model, dataset.arrays["x_test"])
    numbers = {}
    if dataset.facts.get("scored", True):
        numbers = metrics.scores(prediction, dataset.arrays["y_test"], classes=dataset.classes)
    record.arrays["prediction"] = prediction
    record.about["scores"] = numbers
    return numbers


def scores(
    backend: Backend, model: Model, dataset: data.Dataset, *, split: str
) -> dict[str, float]:
    """Score `model` in evaluation mode on a split of the data."""
    prediction = backend.predict(model, dataset.arrays[f"x_{split}"])
    return metrics.scores(prediction, dataset.arrays[f"y_{split}"], classes=dataset.classes)
