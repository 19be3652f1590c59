"""Scores in NumPy, the same code for every backend; sums are taken in float64."""

from __future__ import annotations

import numpy as np

REGRESSION = ("mse", "mae", "r2")
CLASSES = ("accuracy", "log_loss")
HIGHER = ("r2", "accuracy")  # better when higher
OBJECTIVES = (  # what a search may minimise or maximise, by its name in MLflow
    *(f"{kind}/{score}" for kind in ("eval", "val") for score in (*REGRESSION, *CLASSES)),
    "train/loss",
    "time/train_s",
    "time/step_us",
)


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


def classification(logits: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Return ``accuracy`` and ``log_loss`` (nats) of logits.

    Parameters
    ----------
    logits
        Shape ``(n, classes)``, or ``(n, 1)`` for the log-odds of class 1 against class 0.
    label
        Class numbers from 0, shape ``(n, 1)``.
    """
    if label.shape != (len(logits), 1):
        raise ValueError(f"labels {label.shape} do not belong to logits {logits.shape}")
    z = logits.astype(np.float64)
    z = np.hstack([np.zeros_like(z), z]) if z.shape[1] == 1 else z
    top = z.max(axis=1, keepdims=True)
    normaliser = top + np.log(np.exp(z - top).sum(axis=1, keepdims=True))
    return {
        "accuracy": float((z.argmax(axis=1) == label[:, 0]).mean()),
        "log_loss": float((normaliser - np.take_along_axis(z, label, axis=1)).mean()),
    }


def scores(prediction: np.ndarray, y: np.ndarray, *, classes: int | None) -> dict[str, float]:
    """Return the scores that fit the targets: class numbers, or values where `classes` is None."""
    return regression(prediction, y) if classes is None else classification(prediction, y)
