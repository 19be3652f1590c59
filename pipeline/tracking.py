"""Records to MLflow and back; the only importer of mlflow.

A run is opened and closed by one context manager, so that it ends in every case: FINISHED, FAILED
with its reason, or KILLED. Metrics go out in batches.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import mlflow.artifacts
import mlflow.data
import numpy as np
import requests
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from pipeline.config import ConfigError

logging.getLogger("mlflow").setLevel(logging.ERROR)
logging.getLogger("alembic").setLevel(logging.ERROR)

_PARAM_LIMIT, _BATCH_METRICS, _BATCH_OTHERS = 6000, 1000, 100


def redact(uri: str) -> str:
    """Return a URI without the user and password it may carry."""
    return re.sub(r"://[^/@]*@", "://***@", uri)


def prepare(uri: str) -> None:
    """Make sure the store can be written before anything is: create it, migrate it, once.

    A SQLite store is initialised under a file lock, because processes that open a fresh one at the
    same time leave it broken, and switched to write-ahead logging, so that readers do not stop
    writers.

    Raises
    ------
    ConfigError
        If the store cannot be reached, opened or written.
    """
    if uri.startswith(("http://", "https://")):
        try:
            requests.get(f"{uri.rstrip('/')}/health", timeout=5).raise_for_status()
        except requests.RequestException as error:
            reason = type(error).__name__
            raise ConfigError("tracking.uri", redact(uri), f"does not answer ({reason})") from None
        mlflow.set_tracking_uri(uri)
    elif uri.startswith("sqlite:"):
        _prepare_sqlite(uri)
    else:
        mlflow.set_tracking_uri(uri)
    try:
        MlflowClient().search_experiments(max_results=1)
    except Exception as error:  # whatever a store raises, it is of no use
        reason = redact(str(error).splitlines()[0])
        raise ConfigError("tracking.uri", redact(uri), f"cannot be used ({reason})") from None


def find(uri: str) -> None:
    """Use a store that is there, to read from it; one that is not is not made.

    Raises
    ------
    ConfigError
        If there is no such store, or it cannot be used.
    """
    if uri.startswith("sqlite:") and not Path(make_url(uri).database or "").is_file():
        raise ConfigError("tracking.uri", uri, "no such store; a first run makes it")
    prepare(uri)


def _prepare_sqlite(uri: str) -> None:
    path = Path(make_url(uri).database or "")
    made: list[Path] = []
    try:
        if not path.name:
            raise OSError("it names no file")
        for folder in reversed([p for p in path.parents if not p.exists()]):
            folder.mkdir(exist_ok=True)
            made.append(folder)
        lock = path.with_name(f".{path.name}.lock")
        fresh = not path.exists()
        with FileLock(lock):
            engine = create_engine(uri)
            with engine.connect() as connection:
                connection.execute(text("PRAGMA journal_mode=WAL"))
                connection.execute(text("BEGIN IMMEDIATE"))
                connection.rollback()
            engine.dispose()
            mlflow.set_tracking_uri(uri)
            MlflowClient().search_experiments(max_results=1)
    except (OSError, SQLAlchemyError, MlflowException) as error:
        with contextlib.suppress(OSError, UnboundLocalError):
            lock.unlink(missing_ok=True)
            if fresh:
                path.unlink(missing_ok=True)
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise ConfigError("tracking.uri", uri, f"cannot be written ({reason})") from None


def _experiment(name: str, artifacts: str) -> str:
    """Return the id of an experiment, made if it is not there."""
    client = MlflowClient()
    found = client.get_experiment_by_name(name)
    if found is None:
        remote = mlflow.get_tracking_uri().startswith("http")
        root = None if remote else Path(artifacts).absolute().as_uri()
        with contextlib.suppress(MlflowException):  # somebody else made it in the meantime
            return str(client.create_experiment(name, artifact_location=root))
        found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise ConfigError("tracking.experiment", name, "is deleted in this store; choose another")
    return str(found.experiment_id)


class Run:
    """An open MLflow run; not to be confused with a record, which is the run's own account."""

    def __init__(self, run_id: str, *, parent: str | None = None) -> None:
        self.id = run_id
        self.parent = parent
        self._client = MlflowClient()

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log flattened settings; a value that is too long is cut."""
        params = [Param(key, _text(value)[:_PARAM_LIMIT]) for key, value in values.items()]
        for i in range(0, len(params), _BATCH_OTHERS):
            self._client.log_batch(self.id, params=params[i : i + _BATCH_OTHERS])

    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags."""
        self._client.log_batch(self.id, tags=[RunTag(key, _text(v)) for key, v in tags.items()])

    def log_series(self, series: Mapping[str, np.ndarray], *, first: int, points: int) -> None:
        """Log whole curves in batches, thinned to about `points` each; both ends are kept.

        Parameters
        ----------
        series
            Metric name to values, one a step.
        first
            The step of entry 0.
        points
            Most points of one metric; the record keeps every step.
        """
        now = int(time.time() * 1000)
        metrics = []
        for key, values in series.items():
            chosen = np.unique(np.linspace(0, len(values) - 1, min(points, len(values))).round())
            for i in chosen.astype(int):
                metrics.append(Metric(key, float(values[i]), now, first + int(i)))
        for i in range(0, len(metrics), _BATCH_METRICS):
            self._client.log_batch(self.id, metrics=metrics[i : i + _BATCH_METRICS])

    def log_metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Log single numbers."""
        now = int(time.time() * 1000)
        self._client.log_batch(
            self.id, metrics=[Metric(key, float(v), now, step) for key, v in values.items()]
        )

    def log_folder(self, folder: Path, target: str | None = None) -> None:
        """Copy a folder's files to the run's artifacts."""
        self._client.log_artifacts(self.id, str(folder), target)

    def log_file(self, path: Path, target: str | None = None) -> None:
        """Copy one file to the run's artifacts."""
        self._client.log_artifact(self.id, str(path), target)

    def log_table(self, header: Sequence[str], rows: Sequence[Sequence[str]], name: str) -> None:
        """Log a table as MLflow shows it in a run's artifacts, ``<name>.json``."""
        columns = {
            key: list(column) for key, column in zip(header, zip(*rows, strict=True), strict=True)
        }
        self._client.log_table(self.id, columns, f"{name}.json")

    def log_data(self, x: np.ndarray, y: np.ndarray, *, name: str, digest: str) -> None:
        """Name the training data as the run's input, by its content digest."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's notes about guessed sources and schemas
            data = mlflow.data.from_numpy(x, targets=y, name=name, digest=digest[:32])
            mlflow.log_input(data, context="training")

    def log_model(
        self, model: Any, *, flavor: str, x: np.ndarray, prediction: np.ndarray, requires: list[str]
    ) -> None:
        """Log a trained model in its framework's own flavour, with signature and input example.

        The package's own source goes with it, so that the model loads where the package is not
        installed.
        """
        module = importlib.import_module(f"mlflow.{flavor}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module.log_model(
                model,
                name="model",
                signature=mlflow.models.infer_signature(x, prediction),
                input_example=x,
                pip_requirements=requires,
                code_paths=[str(Path(__file__).parent)],
            )


@contextlib.contextmanager
def open_run(
    *, experiment: str, artifacts: str, name: str, tags: Mapping[str, Any], parent: str | None
) -> Iterator[Run]:
    """Open a run and close it in every case, as FINISHED, FAILED or KILLED."""
    run = create(experiment=experiment, artifacts=artifacts, name=name, tags=tags, parent=parent)
    status = "FAILED"
    mlflow.start_run(run_id=run.id)
    try:
        yield run
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except Exception as error:
        run.log_tags({"error": f"{type(error).__name__}: {error}"[:5000]})
        raise
    finally:
        mlflow.end_run(status)


def create(
    *,
    experiment: str,
    artifacts: str,
    name: str,
    tags: Mapping[str, Any],
    parent: str | None = None,
    note: str | None = None,
) -> Run:
    """Create a run that its maker closes with `close`."""
    extra = {} if parent is None else {MLFLOW_PARENT_RUN_ID: parent}
    if note is not None:
        extra[MLFLOW_RUN_NOTE] = note
    given = {key: _text(value) for key, value in tags.items()}
    made = MlflowClient().create_run(
        _experiment(experiment, artifacts), tags=given | extra, run_name=name
    )
    return Run(made.info.run_id, parent=parent)


def add_failed(parent: str, *, name: str, tags: Mapping[str, Any]) -> None:
    """Add a child that never ran, so that a sweep's books are complete."""
    client = MlflowClient()
    experiment = client.get_run(parent).info.experiment_id
    given = {key: _text(value) for key, value in tags.items()} | {MLFLOW_PARENT_RUN_ID: parent}
    made = client.create_run(experiment, tags=given, run_name=name)
    client.set_terminated(made.info.run_id, "FAILED")


def close(run_id: str, status: str) -> None:
    """End a run that `create` made."""
    MlflowClient().set_terminated(run_id, status)


def remove(run_id: str) -> None:
    """Delete a run that holds nothing."""
    MlflowClient().delete_run(run_id)


def children(parent: str) -> list[Any]:
    """Return the runs of a sweep in the order in which they started."""
    client = MlflowClient()
    experiment = client.get_run(parent).info.experiment_id
    found: list[Any] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment],
            filter_string=f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}'",
            order_by=["attributes.start_time ASC"],
            max_results=1000,
            page_token=token,
        )
        found += page
        token = page.token
        if not token:
            return found


def finished_children(parent: str) -> list[str]:
    """Return the ids of a sweep's runs that finished.

    Raises
    ------
    ConfigError
        If there is no such sweep.
    """
    try:
        found = children(parent)
    except MlflowException:
        found = []
    if not found:
        raise ConfigError("compare.sweep", parent, "is not the id of a sweep with runs")
    return [run.info.run_id for run in found if run.info.status == "FINISHED"]


def latest_sweep(experiment: str) -> str:
    """Return the id of the newest sweep's parent run."""
    client = MlflowClient()
    found = client.get_experiment_by_name(experiment)
    runs = found and client.search_runs(
        [found.experiment_id],
        filter_string="tags.kind = 'sweep'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    if not runs:
        raise ConfigError("compare.sweep", "latest", f"experiment {experiment!r} has no sweep yet")
    return str(runs[0].info.run_id)


def record_folder(run: str, *, key: str) -> Path:
    """Return where a run's record lies: a folder given as such, or a run's artifact.

    Raises
    ------
    ConfigError
        If there is no such run, or it holds no record.
    """
    for folder in (Path(run), Path(run) / "record"):
        if (folder / "record.json").is_file():
            return folder
    try:
        return Path(mlflow.artifacts.download_artifacts(run_id=run, artifact_path="record"))
    except (MlflowException, OSError):
        raise ConfigError(
            key, run, "is neither the id of an MLflow run with a record nor a record folder"
        ) from None


def reopen(run: str) -> Run | None:
    """Return a finished run to add to, or None where the id is a folder's."""
    try:
        return Run(MlflowClient().get_run(run).info.run_id)
    except MlflowException:
        return None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, dict | list | bool | None) else str(value)


os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
