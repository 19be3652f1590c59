"""The stage ``train``: one model, one backend, every step kept."""

from __future__ import annotations

import gc
import zlib
from collections.abc import Callable, Mapping
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

Report = Callable[[int, float], None]


class Keep(Protocol):
    """What keeps checkpoints: says when one is due, and writes it."""

    def due(self) -> bool:
        """Whether it is time for one."""

    def save(self, *, epoch: int, counted: Mapping[str, Any], **what: Any) -> None:
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
    **how: Any,
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
        Called every `log_every` epochs with the number of updates made and the last loss.
    evaluate_every, patience, monitor
        Epochs between two scores of the validation set, how many of them without a better
        `monitor` end training, and which score that is (None: mse, or log_loss for classes).
    keep
        Called after an epoch with what a checkpoint needs, if it says that one is due.
    resume
        Where an interrupted training goes on.
    folder
        Where the record will be; what is too much for memory goes there while training runs.
    how
        What `Backend.train` takes besides: loop, loss, optimizer, execution.

    Raises
    ------
    NonFiniteLossError
        If the loss becomes NaN or infinite; that step is the last one in the record.
    """
    first = backend.read(model, twin)
    trace = Trace(rates=rates, full=full, folder=folder)
    decisive = monitor or ("mse" if dataset.classes is None else "log_loss")
    curves: dict[str, list[float]] = {}
    best: dict[str, np.ndarray] = {}
    checks: dict[str, list[int]] = {}
    seen = Seen(fixed=batches.fixed)
    waited = 0
    begin: tuple[int, State] | None = None
    if resume is not None:
        counted = resume.about["counted"]
        curves, checks, waited = counted["curves"], counted["checks"], counted["waited"]
        start, kept = resume.named("first"), resume.named("best")
        best = {name: kept[name] for name in first if kept}
        first = {name: start[name] for name in first}
        if counted["best"]:
            record.about["best"] = counted["best"]
        rows = dict(resume.rows)
        seen.restore({key: rows.pop(key) for key in [*rows] if key.startswith("order/")})
        trace.restore(rows)
        slots = {slot: resume.named(f"slot/{slot}") for slot in how["update"].slots}
        begin = (resume.epoch, (resume.named("param"), slots))

    def after(epoch: int, slots: Slots) -> bool:
        if epoch % log_every == 0:
            progress(trace.updates, trace.last_loss())
        if not full:
            checksums()
        stop = evaluate_every is not None and epoch % evaluate_every == 0 and scored()
        if keep is not None and not stop and epoch < epochs and keep.due():
            checkpoint(epoch, slots)
        return stop

    def checkpoint(epoch: int, slots: Slots) -> None:
        assert keep is not None
        keep.save(
            epoch=epoch,
            counted={"curves": curves, "checks": checks, "waited": waited,
                     "best": record.about.get("best")},
            state={f"param/{name}": v for name, v in backend.read(model, twin).items()}
            | {f"slot/{s}/{n}": v for s, own in slots().items() for n, v in own.items()}
            | {f"first/{name}": v for name, v in first.items()}
            | {f"best/{name}": v for name, v in best.items()},
            rows=trace.take() | seen.take(),
        )  # fmt: skip

    def checksums() -> None:
        checks.setdefault("step", []).append(trace.updates)
        for name, value in backend.read(model, twin).items():
            checks.setdefault(name, []).append(zlib.crc32(np.ascontiguousarray(value).data))

    def scored() -> bool:
        """Score the validation set; whether it is time to stop."""
        nonlocal best, waited
        found = scores(backend, model, dataset, split="val")
        for name, value in {"step": trace.updates, **found}.items():
            curves.setdefault(name, []).append(value)
        sign = -1 if decisive in metrics.HIGHER else 1
        *before, now = (sign * score for score in curves[decisive])
        if not best or now < np.nanmin([np.inf, *before]):  # a NaN is better than nothing alone
            best, waited = backend.read(model, twin), 0
            record.about["best"] = {"step": trace.updates, "score": decisive} | found
        else:
            waited += 1
        return patience is not None and waited >= patience

    gc.freeze()  # what is kept makes the collector run; it need not look at the whole framework
    try:
        backend.train(
            model, twin, batches=batches, epochs=epochs, trace=trace, seen=seen, after=after,
            resume=begin, **how,
        )  # fmt: skip
        trace.flush()
    finally:
        gc.unfreeze()
        record.arrays |= trace.collect(first)
        record.arrays |= seen.arrays(record.steps)
        last = backend.read(model, twin)  # may fail, after what was kept is in the record
        if trace.without_gradient:
            record.about["without_gradient"] = list(trace.without_gradient)
            record.about["lacking_since"] = dict(trace.lacking_since)
        kinds: dict[str, Mapping[str, Any]]
        kinds = {"first": first, "last": last, "best": best, "val": curves, "check": checks}
        for kind, values in kinds.items():
            record.arrays |= {f"{kind}/{name}": np.asarray(v) for name, v in values.items()}
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
