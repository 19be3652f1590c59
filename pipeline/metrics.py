"""Scores in NumPy, the same code for every backend; sums are taken in float64."""

from __future__ import annotations

import numpy as np


def regression(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Return ``mse``, ``mae`` and ``r2`` of predictions, both of shape ``(n, outputs)``.

    ``r2`` is one minus the residual over the total sum of squares about the target's mean; it is
    NaN when the target is constant.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {prediction.shape} and target {target.shape} differ in shape")
    truth = target.astype(np.float64)
    error = prediction.astype(np.float64) - truth
    total = np.square(truth - truth.mean(axis=0)).sum()
    return {
        "mse": float(np.square(error).mean()),
        "mae": float(np.abs(error).mean()),
        "r2": float(1 - np.square(error).sum() / total) if total > 0 else float("nan"),
    }
