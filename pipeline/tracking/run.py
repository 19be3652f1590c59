"""A run in MLflow, opened and closed by one context manager.

So it ends in every case: FINISHED, FAILED with its reason, or KILLED. A store that is slow or away
stops nothing: what is logged (`pipeline.tracking.logger`) waits on disk, and whatever starts next
against that store, or the stage ``sync``, delivers the rest. A run is looked for by its mark before
it is created again.
"""

from __future__ import annotations

import atexit
import contextlib
import getpass
import os
import socket
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
from filelock import Timeout
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_COMMIT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)

from pipeline.config.types import ConfigError
from pipeline.redact import redact
from pipeline.tracking import spool
from pipeline.tracking.courier import COURIER
from pipeline.tracking.deliver import Journal, Pace
from pipeline.tracking.logger import Run, as_text
from pipeline.tracking.spool import Spool, now_ms
from pipeline.tracking.sqlite import sqlite_file
from pipeline.tracking.store import TrackingError, ask_patiently, resolve_uri

NOTE_TAG = "twingrad.note"  # of a sweep's parent: the user's own description
LINKED = "linked."  # then a job's number and a run's id: a tag of a parent that counts it too


@contextlib.contextmanager
def open_run(
    *,
    experiment: str,
    artifacts: str,
    name: str,
    tags: Mapping[str, Any],
    parent: str | None,
    note: str | None = None,
    folder: Path | None = None,
    pace: Pace | None = None,
) -> Iterator[Run]:
    """Open a run and close it in every case, as FINISHED, FAILED or KILLED.

    Parameters
    ----------
    folder
        Where the run's own files go; what the store has not got yet waits in ``spool`` there.
    """
    run = create_run(
        experiment=experiment,
        artifacts=artifacts,
        name=name,
        tags=tags,
        parent=parent,
        note=note,
        folder=folder,
        pace=pace,
    )
    try:
        yield run
    except KeyboardInterrupt:
        run.close("KILLED")
        raise
    except BaseException as error:
        with contextlib.suppress(OSError):  # no room even for that
            run.log_tags({"error": f"{type(error).__name__}: {error}"[:5000]})
        with contextlib.suppress(OSError, TrackingError):
            run.close("FAILED")
        raise
    run.close("FINISHED")


def create_run(
    *,
    experiment: str,
    artifacts: str,
    name: str,
    tags: Mapping[str, Any],
    parent: str | None = None,
    note: str | None = None,
    folder: Path | None = None,
    pace: Pace | None = None,
) -> Run:
    """Create a run that its maker closes with `close`.

    A store that does not answer creates it later, from what is on disk.

    Raises
    ------
    TrackingError, ConfigError
        If the store refuses it, or another run that is alive has the folder.
    """
    extra = describe_source() | ({} if parent is None else {MLFLOW_PARENT_RUN_ID: parent})
    if note is not None:
        extra[MLFLOW_RUN_NOTE] = redact(note)
    commit = str(tags.get("git.commit", "none"))
    extra |= {} if commit == "none" else {MLFLOW_GIT_COMMIT: commit}
    mark = uuid.uuid4().hex
    try:
        place = Spool(spool.HOME / mark if folder is None else folder / "spool")
    except Timeout:
        key = "hydra.run.dir" if parent is None else "hydra.sweep.dir"
        raise ConfigError(key, str(folder), "another run is being written there") from None
    given = {key: as_text(value) for key, value in tags.items()}
    uri = mlflow.get_tracking_uri()
    about = {
        "uri": redact(resolve_uri(uri)),
        "experiment": experiment,
        "artifacts": str(Path(artifacts).absolute()),
        "name": redact(name),
        "tags": extra | given,
        "mark": mark,
        "time": now_ms(),
        "folder": str(place.folder),
        "host": socket.gethostname(),
    }
    if uri.startswith("sqlite:"):
        about["store"] = os.path.relpath(sqlite_file(uri).absolute(), place.folder)
    journal = Journal(place, mark=mark, pace=pace or Pace())
    _hand_over(journal, about, strict=parent is None and folder is None)
    return Run(parent=parent, journal=journal)


def _hand_over(journal: Journal, about: Mapping[str, Any], *, strict: bool) -> None:
    """Give the courier the message that creates a run; of a run that is refused nothing stays.

    Parameters
    ----------
    strict
        Whether the store has to answer now, because nothing has begun yet that it could stop.
    """
    place = journal.spool
    try:
        place.point()  # who is killed before the store knows of this run is found by that
        place.append({"create": about})
        COURIER.add(journal)
        if COURIER.settle(journal, patience=journal.pace.wait if strict else 0.0):
            place.unpoint()
    except BaseException:
        COURIER.forget(journal)
        place.remove()
        raise
    if place.run is None and (journal.error or strict):
        COURIER.forget(journal)
        place.remove()
        if isinstance(journal.cause, ConfigError):
            raise journal.cause
        raise TrackingError(journal.error or "the tracking store does not answer")


def describe_source() -> dict[str, str]:
    """Return what MLflow's columns User and Source show of a run that this process makes."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such user on this machine, as in a container
        user = "unknown"
    program = Path(sys.argv[0] or "notebook")
    name = "python -m pipeline" if program.name == "__main__.py" else program.name
    return {MLFLOW_USER: user, MLFLOW_SOURCE_NAME: name, MLFLOW_SOURCE_TYPE: "LOCAL"}


def add_failed_run(parent: str, *, name: str, tags: Mapping[str, Any]) -> None:
    """Add a child that never ran, so that a sweep's books are complete."""
    client = MlflowClient()
    experiment = ask_patiently(lambda: client.get_run(parent)).info.experiment_id
    about = ask_patiently(lambda: client.get_experiment(experiment))
    run = create_run(
        experiment=about.name,
        artifacts="",  # the experiment is there
        name=name,
        tags=tags,
        parent=parent,
    )
    run.close("FAILED")


def close_run(run_id: str, status: str) -> None:
    """End a run that `create_run` made."""
    journal = COURIER.journal_of(run_id)
    Run(run_id, journal=journal).close(status)


def delete_run(run_id: str) -> None:
    """Delete a run that holds nothing."""
    ask_patiently(lambda: MlflowClient().delete_run(run_id))


def reopen_run(run: str) -> Run | None:
    """Return a finished run to add to, or None where the id is a folder's.

    Raises
    ------
    TrackingError
        If the store does not answer.
    """
    try:
        return Run(ask_patiently(lambda: MlflowClient().get_run(run)).info.run_id)
    except MlflowException:
        return None


def link_run(parent: str, run: str, *, job: int, name: str) -> None:
    """Count a finished run among a sweep's children, as what that job would have done."""
    ask_patiently(lambda: MlflowClient().set_tag(parent, f"{LINKED}{job}.{run}", name))


@atexit.register
def _leave() -> None:
    """Close what this process opened and nobody closed: its maker gave up."""
    for journal in COURIER.journals():
        if not journal.ended:
            with contextlib.suppress(OSError, TrackingError):
                Run(parent="none", journal=journal).close("FAILED")
