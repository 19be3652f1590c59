"""The stage ``train``: one model, one backend, every step kept."""

from __future__ import annotations

import gc
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline import data, metrics
from pipeline.backends.base import Backend, Slots, State
from pipeline.data.batches import AnyBatches, Seen
from pipeline.pairs.pair import Side
from pipeline.record.checkpoint import Checkpoint
from pipeline.record.record import RunRecord
from pipeline.record.trace import Trace
from pipeline.stages.evaluate import scores

Score = tuple[str, float]  # of the validation set: its name and value
Report = Callable[[int, float, Score | None], None]


class Keep(Protocol):
    """What keeps checkpoints: says when one is due, and writes it."""

    def due(self) -> bool:
        """Whether it is time for one."""

    def save(self, *, epoch: int, counted: Mapping[str, Any], **arrays: Any) -> None:
        """Write one; see `pipeline.record.checkpoint.save`."""


def train(
    record: RunRecord,
    *,
    backend: Backend,
    model: Any,
    twin: Side,
    batches: AnyBatches,
    dataset: data.Dataset,
    epochs: int,
    rates: np.ndarray,
    full: bool,
    progress: Report,
    log_every: int,
    evaluate_every: int | None,
    patience: int | None,
    monitor: str | None,
    keep: Keep | None = None,
    resume: Checkpoint | None = None,
    folder: Path | None = None,
    **arguments: Any,
) -> None:
    """Train `model` and put what happened into `record`, also when training ends early.

    Parameters
    ----------
    record
        Filled in place, so that what was kept survives an exception.
    batches
        The training samples in their order.
    rates
        Learning rate of each update.
    progress
        Called every `log_every` epochs, and after the last, with the number of updates made, the
        last loss, and the last score of the validation set, None as long as there is none.
    evaluate_every, patience, monitor
        Epochs between two scores of the validation set, how many of them without a better
        `monitor` end training, and which score that is (None: mse, or log_loss for classes).
    keep
        Called after an epoch with what a checkpoint needs, if it says that one is due.
    resume
        Where an interrupted training goes on.
    folder
        Where the record will be; what is too much for memory goes there while training runs.
    arguments
        What `Backend.train` takes besides: loop, loss, optimizer, execution.

    Raises
    ------
    NonFiniteLossError
        If the loss becomes NaN or infinite; that step is the last one in the record.
    """
    first = backend.read(model, twin)
    trace = Trace(rates=rates, full=full, folder=folder)
    seen = Seen(fixed=batches.fixed)
    validation = Validation(monitor or ("mse" if dataset.classes is None else "log_loss"))
    checksums: dict[str, list[int]] = {}
    begin: tuple[int, State] | None = None
    if resume is not None:
        counted, rows = resume.about["counted"], dict(resume.rows)
        validation.restore(counted, best=_in_order(resume.named("best"), first))
        checksums = counted["checks"]
        seen.restore({key: rows.pop(key) for key in [*rows] if key.startswith("order/")})
        trace.restore(rows)
        first = _in_order(resume.named("first"), first)
        slots = {slot: resume.named(f"slot/{slot}") for slot in arguments["update"].slots}
        begin = (resume.epoch, (resume.named("param"), slots))

    def after(epoch: int, slots: Slots) -> bool:
        """Follow the training after an epoch; whether to stop."""
        if not full:
            checksums.setdefault("step", []).append(trace.updates)
            for name, value in backend.read(model, twin).items():
                checksum = zlib.crc32(np.ascontiguousarray(value).data)
                checksums.setdefault(name, []).append(checksum)
        stop = False
        if evaluate_every is not None and epoch % evaluate_every == 0:
            numbers = scores(backend, model, dataset, split="val")
            validation.add(numbers, step=trace.updates, weights=lambda: backend.read(model, twin))
            stop = patience is not None and validation.waited >= patience
        if epoch % log_every == 0 or epoch == epochs or stop:
            progress(trace.updates, trace.last_loss(), validation.latest())
        if keep is not None and not stop and epoch < epochs and keep.due():
            keep.save(
                epoch=epoch,
                counted={**validation.counted(), "checks": checksums},
                state=_prefix("param", backend.read(model, twin))
                | _prefix("first", first)
                | _prefix("best", validation.best)
                | {f"slot/{s}/{n}": v for s, arrays in slots().items() for n, v in arrays.items()},
                rows=trace.take() | seen.take(),
            )
        return stop

    gc.freeze()  # what is kept makes the collector run; it need not look at the whole framework
    try:
        backend.train(
            model, twin, batches=batches, epochs=epochs, trace=trace, seen=seen, after=after,
            resume=begin, **arguments,
        )  # fmt: skip
        trace.flush()
    finally:
        gc.unfreeze()
        record.arrays |= trace.collect(first)
        record.arrays |= seen.arrays(record.steps)
        record.arrays |= _prefix("first", first) | _prefix("best", validation.best)
        record.arrays |= _prefix("val", validation.curves) | _prefix("check", checksums)
        record.about |= _summarize(trace, validation, seconds=record.arrays["seconds"])
        record.arrays |= _prefix("last", backend.read(model, twin))  # may fail


def _summarize(trace: Trace, validation: Validation, *, seconds: np.ndarray) -> dict[str, Any]:
    """Return what a record says of its training: times, lacking gradients, and the best scores."""
    about: dict[str, Any] = {"time": timing(seconds)}
    if trace.without_gradient:
        about["without_gradient"] = list(trace.without_gradient)
        about["lacking_since"] = dict(trace.lacking_since)
    if validation.about_best:
        about["best"] = validation.about_best
    return about


class Validation:
    """Scores of the validation set while training goes on, and the weights of the best one.

    Parameters
    ----------
    monitor
        The score that decides.
    """

    def __init__(self, monitor: str) -> None:
        self.curves: dict[str, list[float]] = {}
        self.best: dict[str, np.ndarray] = {}
        self.about_best: dict[str, Any] = {}
        self.waited = 0
        self._monitor = monitor

    def add(
        self,
        numbers: Mapping[str, float],
        *,
        step: int,
        weights: Callable[[], dict[str, np.ndarray]],
    ) -> None:
        """Add the scores after a step; `waited` counts those since the best one."""
        for name, value in {"step": step, **numbers}.items():
            self.curves.setdefault(name, []).append(value)
        sign = -1 if self._monitor in metrics.HIGHER else 1
        *before, now = (sign * score for score in self.curves[self._monitor])
        if not self.best or now < np.nanmin([np.inf, *before]):
            self.best, self.waited = weights(), 0
            self.about_best = {"step": step, "score": self._monitor} | dict(numbers)
        else:
            self.waited += 1

    def latest(self) -> Score | None:
        """Return the last value of the score that decides, None before the first one."""
        values = self.curves.get(self._monitor)
        return (self._monitor, values[-1]) if values else None

    def counted(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it besides the best weights."""
        return {"curves": self.curves, "waited": self.waited, "best": self.about_best or None}

    def restore(self, counted: Mapping[str, Any], *, best: dict[str, np.ndarray]) -> None:
        """Go on where a checkpoint was written."""
        self.curves, self.waited = counted["curves"], counted["waited"]
        self.about_best, self.best = counted["best"] or {}, best


def _in_order(values: Mapping[str, np.ndarray], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return those of the values that have one of the names, in the order of the names."""
    return {name: values[name] for name in names if name in values}


def _prefix(kind: str, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return values as arrays named ``<kind>/<name>``."""
    return {f"{kind}/{name}": np.asarray(value) for name, value in values.items()}


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
