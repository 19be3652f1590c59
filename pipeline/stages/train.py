"""The stage ``train``: one model, one backend, every step kept."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pipeline import data, schedules
from pipeline.backends.base import Backend
from pipeline.models import Twin
from pipeline.record import RunRecord, Trace

Report = Callable[[int, float], None]


def train(
    record: RunRecord,
    *,
    backend: Backend,
    model: Any,
    twin: Twin,
    dataset: data.Dataset,
    dtype: str,
    rates: np.ndarray,
    full: bool,
    progress: Report,
    log_every: int,
    **how: Any,
) -> None:
    """Train `model` and put what happened into `record`, also when training ends early.

    Parameters
    ----------
    record
        Filled in place, so that what was kept survives an exception.
    rates
        Learning rate of each update.
    progress
        Called every `log_every` updates with the number made and the last loss.
    how
        What `Backend.train` takes besides: loop, loss, optimizer, execution.

    Raises
    ------
    NonFiniteLossError
        If the loss becomes NaN or infinite; that step is the last one in the record.
    """
    first = backend.read(model, twin)
    trace = Trace(list(first), rates=rates, full=full)

    def report(step: int) -> None:
        progress(step, trace.last_loss())

    gc.freeze()  # what is kept makes the collector run; it need not look at the whole framework
    try:
        backend.train(
            model,
            twin,
            x=dataset.arrays["x_train"].astype(dtype),
            y=dataset.arrays["y_train"].astype(dtype),
            trace=trace,
            report=report,
            log_every=log_every,
            **how,
        )
        trace.flush()
    finally:
        gc.unfreeze()
        last = backend.read(model, twin)
        record.arrays |= trace.collect(first)
        record.arrays |= {f"first/{name}": value for name, value in first.items()}
        record.arrays |= {f"last/{name}": value for name, value in last.items()}
        record.about["time"] = timing(record.arrays["seconds"])


def timing(seconds: np.ndarray) -> dict[str, float]:
    """Return what a run's steps took: all of them, the first, and the median of the others."""
    if not len(seconds):
        return {}
    rest = seconds[1:] if len(seconds) > 1 else seconds
    return {
        "train_s": float(seconds.sum()),
        "first_step_s": float(seconds[0]),
        "step_us": float(np.median(rest) * 1e6),
    }


def learning_rates(name: str, *, lr: float, steps: int, settings: Mapping[str, Any]) -> np.ndarray:
    """Return the learning rates of updates 1 to `steps`, shape ``(steps,)``, float64."""
    rate = getattr(schedules, name)
    return np.array([rate(step, lr=lr, steps=steps, **settings) for step in range(1, steps + 1)])
