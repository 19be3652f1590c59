"""What a run's record holds, saved, logged and drawn when its training ends in whatever way."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from pipeline import storage
from pipeline.figures.files import save_figures
from pipeline.figures.runs import draw_overview, draw_run
from pipeline.figures.style import DPI
from pipeline.jobs.job import Job
from pipeline.record.record import RunRecord
from pipeline.record.trace import NonFiniteLossError
from pipeline.redact import redact
from pipeline.tracking.logger import Run


@contextlib.contextmanager
def account(
    record: RunRecord,
    tracked: Run,
    *,
    job: Job,
    folder: Path,
) -> Iterator[None]:
    """Save and log what the record holds when its block ends, in whatever way it ends."""
    text = yaml.safe_dump(record.config, sort_keys=False)
    with storage.room_for(folder / "config.yaml"):
        storage.write_atomic(folder / "config.yaml", lambda file: file.write(text.encode()))
    tracked.log_file(folder / "config.yaml")
    try:
        yield
        record.about["status"] = "FINISHED"
    except NonFiniteLossError as error:
        record.about |= {"status": "FAILED", "message": str(error)}
        tracked.log_tags({"failed.step": error.step, "failed.lr": error.lr})
        raise
    except BaseException as error:
        killed = isinstance(error, KeyboardInterrupt)
        message = redact(repr(error))
        record.about |= {"status": "KILLED" if killed else "FAILED", "message": message}
        raise
    finally:
        record.about["run"] = tracked.id
        interrupt = _save_whole(record, folder / "record")  # before anything that may fail
        _say_without_gradient(record)
        log(record, tracked, points=job.settings.tracking.max_points)
        if record.about["run"] != tracked.id:  # the store has answered meanwhile
            record.about["run"] = tracked.id
            interrupt = _save_whole(record, folder / "record") or interrupt
        tracked.log_folder(folder / "record", "record")
        if record.about["status"] != "KILLED":  # who stops a run does not wait for pictures
            _draw(record, tracked, job=job, folder=folder / "plots")
        if interrupt is not None:
            raise interrupt


def _save_whole(record: RunRecord, folder: Path) -> KeyboardInterrupt | None:
    """Save a record, again if a signal interrupts that; return what it raised, to be raised later.

    Of several signals only the first one raises.
    """
    with storage.room_for(folder):
        try:
            record.save(folder)
        except KeyboardInterrupt as error:
            record.about |= {"status": "KILLED", "message": repr(error)}
            record.save(folder)
            return error
    return None


def _draw(record: RunRecord, tracked: Run, *, job: Job, folder: Path) -> None:
    """Draw a run's pictures and log them; of the jobs of a sweep one each, and small."""
    alone = tracked.parent is None
    if alone:
        figures = draw_run(record, job.dataset)
    else:
        figures = {"overview": draw_overview(record, job.dataset)}
    formats, dpi = job.settings.tracking.figures, DPI if alone else DPI // 2
    with storage.room_for(folder):
        save_figures(figures, folder, formats=formats, dpi=dpi)
    tracked.log_folder(folder, "plots")


def log(record: RunRecord, tracked: Run, *, points: int) -> None:
    """Log a record's curves and numbers under the names that users rely on."""
    curves = {"train/loss": "loss", "train/lr": "lr", "train/grad_norm": "grad_norm"}
    series = {key: record.arrays[name] for key, name in curves.items() if name in record.arrays}
    tracked.log_series(series, steps=np.arange(1, record.steps + 1), points=points)
    paths = record.named("param")
    if sum(path[0].size for path in paths.values()) <= 8:
        scalars = {}
        for name, path in paths.items():
            for i, column in enumerate(path.reshape(len(path), -1).T):
                scalars[f"param/{name}" if path[0].size == 1 else f"param/{name}.{i}"] = column
        tracked.log_series(scalars, steps=np.arange(record.steps + 1), points=points)
    validated = record.named("val")
    if validated:
        steps = validated.pop("step")
        series = {f"val/{name}": values for name, values in validated.items()}
        tracked.log_series(series, steps=steps, points=points)
    numbers = {f"eval/{name}": value for name, value in record.about["scores"].items()}
    numbers |= {f"time/{name}": value for name, value in record.about["time"].items()}
    tracked.log_metrics(numbers, step=record.steps)


def _say_without_gradient(record: RunRecord) -> None:
    """Say which parameters the loss does not depend on: trained on, with a gradient of 0."""
    names = ", ".join(record.about.get("without_gradient", ()))
    if names:
        print(f"twingrad: warning: no gradient in {record.backend}: {names}", file=sys.stderr)
