"""What happens around a multirun: a parent run is opened before it and closed after it.

Hydra calls `OpenParent` in its own process before the first job. The parent's id travels to the
jobs, wherever they run, in an environment variable. Hydra does not call back when a job raised, so
jobs return their failures, and the command itself calls `finish` in every case.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

PARENT = "TWINGRAD_PARENT"
_opened: dict[str, Any] = {}


class OpenParent(Callback):
    """Hydra callback that opens the parent run; an error is kept, since Hydra only warns."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Create the store and the parent run before any job starts."""
        try:
            _open(config)
        except BaseException as error:
            _opened["error"] = error
            raise


def _open(config: DictConfig) -> None:
    from pipeline import tracking

    overrides = list(OmegaConf.to_container(config.hydra.overrides.task))  # type: ignore[arg-type]
    uri, place = config.tracking.uri, config.tracking
    tracking.prepare(uri)
    title = config.sweep.title or swept(overrides)
    note = "Sweep: `" + "` `".join(overrides) + "`. Its runs are nested below."
    parent = tracking.create(
        experiment=place.experiment,
        artifacts=place.artifacts,
        name=title,
        tags={"kind": "sweep", "overrides": overrides},
        note=note,
    )
    os.environ[PARENT] = parent.id
    _opened.update(parent=parent, folder=Path(config.hydra.sweep.dir), title=title, config=config)


def swept(overrides: list[str]) -> str:
    """Return a short name for a sweep: what has several values, and the experiment."""
    parts = [part.lstrip("+~") for part in overrides]
    many = [part.split("=")[0] for part in parts if "," in part or "(" in part]
    where = [part.split("=", 1)[1] for part in parts if part.startswith("experiment=")]
    return " ".join([*where, "×".join(many)]).strip() or "sweep"


def check_opened() -> None:
    """Raise what kept the parent from being opened; called by the first job."""
    if "error" in _opened:
        raise _opened["error"]


def is_open() -> bool:
    """Whether this process opened a parent run that nobody has closed yet."""
    return "parent" in _opened


def note_failure(parent: str | None, *, name: str, error: Exception) -> None:
    """Leave a FAILED child for a job that failed before it had opened a run of its own."""
    from pipeline import tracking

    if parent is not None and not any(c.info.run_name == name for c in tracking.children(parent)):
        tags = {"kind": "run", "sweep": parent, "error": f"{type(error).__name__}: {error}"}
        tracking.add_failed(parent, name=name, tags=tags)


def finish(*, interrupted: bool) -> int:
    """Close the parent with what its children left, and return the exit code.

    An empty parent is removed. The children's end is read from the store, where jobs of every
    launcher leave it.
    """
    parent = _opened.pop("parent", None)
    os.environ.pop(PARENT, None)
    if parent is None:
        return 0
    from pipeline import tracking

    children = tracking.children(parent.id)
    if not children:
        tracking.close(parent.id, "KILLED" if interrupted else "FAILED")
        tracking.remove(parent.id)
        return 0
    failed = [child for child in children if child.info.status != "FINISHED"]
    status, code = ("KILLED" if interrupted else "FAILED"), 1
    try:
        worst = _report(parent, children, failed)
        if not failed and not interrupted:
            status, code = "FINISHED", worst
    finally:
        tracking.close(parent.id, status)
    return code


def _report(parent: Any, children: list[Any], failed: list[Any]) -> int:
    """Compare the finished children and put tables, pictures and report on the parent."""
    from pipeline import report, terminal, tracking
    from pipeline.config import parse
    from pipeline.stages.compare import compare
    from pipeline.stages.run import load_record

    settings = parse(OmegaConf.to_container(_without_hydra(_opened["config"]), resolve=True))  # type: ignore[arg-type]
    notes = []
    for child in failed:
        reason = child.data.tags.get("error", child.info.status)
        notes.append(f"{child.info.run_name} {child.info.status}: {reason}")
    records = [
        load_record(tracking.record_folder(child.info.run_id, key="run"), key="run")
        for child in children
        if child.data.tags.get("config.digest")  # it got as far as a record
    ]
    if not records:
        terminal.failures(notes)
        return 1
    result = compare(
        records,
        folder=_opened["folder"],
        title=_opened["title"],
        formats=settings.tracking.figures,
        rtol=settings.parity.rtol,
        atol=settings.parity.atol,
        notes=notes,
    )
    parent.log_folder(result.folder / "plots", "plots")
    parent.log_file(result.folder / "report.html")
    parent.log_table(*report.summary(result.records), "runs")
    if result.pairs:
        parent.log_table(*result.table(), "pairs")
    parent.log_metrics({f"parity/{key}": v for key, v in result.largest().items()})
    terminal.comparison(result, notes=notes)
    terminal.where(result.folder, uri=settings.tracking.uri)
    return 1 if any(verdict == "FAIL" for verdict, _ in result.verdicts) else 0


def _without_hydra(config: DictConfig) -> DictConfig:
    copy = config.copy()
    OmegaConf.set_readonly(copy, False)
    OmegaConf.set_struct(copy, False)
    copy.pop("hydra")
    return copy
