"""The stage ``evaluate``: scores on samples that were never trained on, in shared NumPy code."""

from __future__ import annotations

from pipeline import data, metrics
from pipeline.backends.base import Backend, Model
from pipeline.record import RunRecord


def evaluate(
    record: RunRecord, *, backend: Backend, model: Model, dataset: data.Dataset, dtype: str
) -> dict[str, float]:
    """Score `model` on the test samples, put predictions and scores into `record`, return them.

    The targets stay in float64: the prediction's rounding counts, the target's does not.
    """
    prediction = backend.predict(model, dataset.arrays["x_test"].astype(dtype))
    scores = metrics.regression(prediction, dataset.arrays["y_test"])
    record.arrays["prediction"] = prediction
    record.about["scores"] = scores
    return scores
