"""Records to MLflow and back; the only importer of mlflow.

A run is opened and closed by one context manager, so that it ends in every case: FINISHED, FAILED
with its reason, or KILLED. What it tells is written to its spool (`pipeline.spool`), and a thread
delivers that in batches and in order. So a store that is slow or away stops nothing: whatever
starts next against it, or the stage ``sync``, delivers the rest. Each message may be sent twice and
counts once: a metric's timestamp is fixed when it is written, and MLflow's SQL stores keep one row
for the same key, timestamp, step and value; params and tags are set to what they are; a run is
looked for by its mark before it is created again.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import dataclasses
import importlib
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

# The courier below repeats what failed; MLflow's own patience of minutes would only hide it.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # it holds the password

import mlflow
import mlflow.artifacts
import mlflow.data
import numpy as np
import requests
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _initialize_tables
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_LOGGED_ARTIFACTS,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
)
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from pipeline import spool, storage
from pipeline.config import ConfigError
from pipeline.record import found_in
from pipeline.spool import Message, Spool, redact

# What goes wrong reaches us as an exception; their logs would add tracebacks, and URIs.
logging.getLogger("mlflow").setLevel(logging.CRITICAL)
logging.getLogger("urllib3").setLevel(logging.CRITICAL)
logging.getLogger("alembic").setLevel(logging.ERROR)

VIEW = "twingrad"  # the name of the view of runs, few columns in order
_COLUMNS = (
    "params.`backend.name`", "params.`optimizer.name`", "params.`optimizer.lr`", "params.`seed`",
    "metrics.`train/loss`", "metrics.`eval/mse`", "metrics.`eval/accuracy`",
    "metrics.`time/train_s`", "tags.`parity.verdict`",
)  # fmt: skip
_ABOUT = """\
Runs of **Twingrad**: the same model trained in several frameworks, and compared.

- A sweep is one run; its jobs are nested below it. Its description says what was asked and what \
came of it; `report.html` among its artifacts has everything.
- The view `twingrad` (*Views*) has few columns, in order.
- `tags.parity.verdict = 'FAIL'` finds the pairs that disagree.
- Curves are thinned; `record/` among a run's artifacts has every step.
"""
_LINKED = "linked."  # then a job's number and a run's id: a tag of a parent that counts it too
_PARAM_LIMIT, _BATCH_METRICS, _BATCH_OTHERS = 6000, 800, 100  # 1000 of all kinds in a call
_HEARTBEAT = "heartbeat"
_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST", "INVALID_STATE")
_ready: set[tuple[str, float]] = set()  # stores that this process has prepared


class TrackingError(Exception):
    """The store refused something for good, or does not answer where an answer is needed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """How often, in seconds, a run tells the store something, and how long it waits for it.

    Attributes
    ----------
    flush
        Between two deliveries while training goes on.
    heartbeat
        Between two signs of life that other hosts can see.
    wait
        How long a run that ends waits for a store that does not answer.
    """

    flush: float = 5.0
    heartbeat: float = 30.0
    wait: float = 10.0


def prepare(uri: str, *, started: bool = False, stale: float = 300.0) -> None:
    """Make sure the store can be written before anything is: create it, migrate it, once.

    A SQLite store is initialised under a file lock, because processes that open a fresh one at the
    same time leave it broken, and switched to write-ahead logging, so that readers do not stop
    writers. Then runs whose process is dead are closed with what they left.

    Parameters
    ----------
    started
        The command began earlier, as for a sweep's later jobs: a server that does not answer now
        may answer later, and what is logged waits for it.
    stale
        Seconds without a heartbeat after which a run on another host counts as dead.

    Raises
    ------
    ConfigError
        If the store cannot be reached, opened or written.
    """
    if (uri, stale) in _ready and (not uri.startswith("sqlite:") or _file(uri).is_file()):
        mlflow.set_tracking_uri(uri)
        return
    try:
        _check(uri)
    except ConfigError:
        if not (started and uri.startswith("http")):
            raise
        mlflow.set_tracking_uri(uri)
        return
    _ready.add((uri, stale))
    for line in recover(stale=stale):
        _say(line)


def _check(uri: str) -> None:
    """Create or reach a store and ask it something; raise `ConfigError` if that fails."""
    if "@" in uri and not uri.startswith("sqlite:") and len(uri.split()) > 1:
        shown = f"{uri.partition('://')[0]}://***"  # where its password ends nobody could tell
        raise ConfigError("tracking.uri", shown, "must not hold a space; write it as %20")
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


def _file(uri: str) -> Path:
    return Path(make_url(uri).database or "")


def find(uri: str, *, stale: float = 300.0) -> None:
    """Use a store that is there, to read from it; one that is not is not made.

    Raises
    ------
    ConfigError
        If there is no such store, or it cannot be used.
    """
    if uri.startswith("sqlite:") and not _file(uri).is_file():
        raise ConfigError("tracking.uri", uri, "no such store; a first run makes it")
    prepare(uri, stale=stale)


def _prepare_sqlite(uri: str) -> None:
    path = _file(uri)
    made: list[Path] = []
    try:
        if not path.name:
            raise OSError("it names no file")
        for folder in reversed([p for p in path.parents if not p.exists()]):
            folder.mkdir(exist_ok=True)
            made.append(folder)
        lock = path.with_name(f".{path.name}.lock")
        with FileLock(lock):
            fresh = not path.exists()
            if fresh:
                _create_sqlite(path)
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


def _create_sqlite(path: Path) -> None:
    """Create a store beside its place and move it there whole.

    MLflow's migrations are no transaction: one that is killed between them leaves a store that no
    command can open. The caller holds the lock, so what lies there is of one that was killed.
    """
    draft = path.with_name(f".{path.name}.new")
    for leftover in (draft, draft.with_name(f"{draft.name}-journal")):
        leftover.unlink(missing_ok=True)
    try:
        engine = create_engine(f"sqlite:///{draft}")
        _initialize_tables(engine)
        engine.dispose()
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _experiment(name: str, artifacts: str) -> str:
    """Return the id of an experiment, made if it is not there."""
    client = MlflowClient()
    found = client.get_experiment_by_name(name)
    if found is None:
        remote = mlflow.get_tracking_uri().startswith("http")
        root = None if remote else Path(artifacts).absolute().as_uri()
        with contextlib.suppress(MlflowException):  # somebody else made it in the meantime
            made = client.create_experiment(name, artifact_location=root, tags=_shown_as())
            return str(made)
        found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise ConfigError("tracking.experiment", name, "is deleted in this store; choose another")
    return str(found.experiment_id)


def _shown_as() -> dict[str, str]:
    """Return tags of an experiment for MLflow's pages: a description, and a view of its runs.

    The view is what the page itself would save of chosen columns; one that does not know the format
    leaves it out.
    """
    state = {
        "searchFilter": "", "orderByKey": "attributes.start_time", "orderByAsc": False,
        "startTime": "ALL", "lifecycleFilter": "Active", "datasetsFilter": [],
        "modelVersionFilter": "All Runs", "selectedColumns": list(_COLUMNS), "columnOrder": [],
        "columnWidths": {}, "hideEmptyCharts": True,
        "globalLineChartConfig": {
            "xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": "",
        },
    }  # fmt: skip
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    view = {
        "name": VIEW, "createdAt": _now(), "updatedAt": _now(), "state": f"deflate;{packed}",
    }  # fmt: skip
    return {
        "mlflow.note.content": _ABOUT,
        f"mlflow.sharedViewState.{VIEW}": json.dumps(view),
    }


class Run:
    """An open MLflow run; not to be confused with a record, which is the run's own account.

    With a journal, whatever is logged waits on disk until it is delivered; without one it goes to
    the store at once, as for a run that has ended.
    """

    def __init__(
        self, run_id: str = "", *, parent: str | None = None, journal: _Journal | None = None
    ) -> None:
        self.parent = parent
        self._id = run_id
        self._journal = journal
        self._start = _now()
        self._seen: list[tuple[int, int]] = []  # step and time of what was told while training
        self._told: dict[str, set[int]] = {}
        self._buffer: list[list[Any]] = []
        self._flushed = time.monotonic()

    @property
    def id(self) -> str:
        """The store's id; as long as the store has not answered, a name that `sync` replaces."""
        if self._journal is None:
            return self._id
        return self._journal.spool.run or f"{_PENDING}{self._journal.mark}"

    def _put(self, *messages: Message) -> None:
        if self._journal is not None:
            self._journal.spool.append(*messages)
            return
        for batch, _ in _batches((message, 0) for message in messages):
            _send(MlflowClient(), self._id, batch, folder=Path.cwd())

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log flattened settings; a value that is too long is cut."""
        texts = {key: _text(value)[:_PARAM_LIMIT] for key, value in values.items()}
        self._put(*({"params": part} for part in _parts(texts, _BATCH_OTHERS)))

    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags."""
        texts = {key: _text(value) for key, value in tags.items()}
        self._put(*({"tags": part} for part in _parts(texts, _BATCH_OTHERS)))

    def follower(self, *, total: int, points: int) -> Callable[[int, Mapping[str, float]], None]:
        """Return what is told of a training as it goes on: its step, and numbers.

        It keeps at most half of `points`, writes them down every few seconds, and is called outside
        the timed part of a step. A training that is over sooner leaves all of it to `log_series`.
        """
        distance = max(1, 2 * total // points)
        due = 0

        def follow(step: int, values: Mapping[str, float]) -> None:
            nonlocal due
            if step < due or self._journal is None:
                return
            due, now = step + distance, _now()
            self._seen.append((step, now))
            self._buffer += [[key, float(value), now, step] for key, value in values.items()]
            if time.monotonic() - self._flushed >= self._journal.pace.flush:
                self._flush()

        return follow

    def _flush(self) -> None:
        rows, self._buffer = self._buffer, []
        self._flushed = time.monotonic()
        self._put(*_rows(rows))
        for key, _, _, step in rows:
            self._told.setdefault(key, set()).add(step)

    def log_series(
        self, series: Mapping[str, np.ndarray], *, steps: np.ndarray, points: int
    ) -> None:
        """Log whole curves in batches, thinned to about `points` each; both ends are kept.

        A step that was told while training went on is not told again. The others' timestamps lie
        between those that are known, so that curves keep their order over time, too.

        Parameters
        ----------
        series
            Metric name to values, as many as `steps`.
        steps
            The step of each entry.
        points
            Most points of one metric; the record keeps every step.
        """
        self._buffer.clear()  # what was not written down yet is part of the curve
        known = [(0, self._start), *self._seen, (max([0, *map(int, steps[-1:])]), _now())]
        times = _between(np.asarray(steps), np.array(known))
        numbers = np.asarray(steps).tolist()
        rows = []
        for key, values in series.items():
            told = self._told.get(key, set())
            most = min(max(points - len(told), 2), len(values))
            if len(values) and (values == values[0]).all():  # two points draw a level line
                most = min(2, most)
            chosen = np.unique(np.linspace(0, len(values) - 1, most).round()).astype(int)
            for i in chosen.tolist():
                if numbers[i] not in told:
                    rows.append([key, float(values[i]), times[i], numbers[i]])
        self._put(*_rows(rows))

    def log_metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Log single numbers."""
        now = _now()
        self._put(*_rows([[key, float(value), now, step] for key, value in values.items()]))

    def log_folder(self, folder: Path, target: str | None = None) -> None:
        """Copy a folder's files to the run's artifacts."""
        self._put({"folder": self._path(folder), "target": target})

    def log_file(self, path: Path, target: str | None = None) -> None:
        """Copy one file to the run's artifacts."""
        self._put({"file": self._path(path), "target": target})

    def _path(self, path: Path) -> str:
        """Return a path as it is found from the spool, so that ``outputs`` may move."""
        start = Path.cwd() if self._journal is None else self._journal.spool.folder
        return os.path.relpath(path.absolute(), start)

    def log_table(self, header: Sequence[str], rows: Sequence[Sequence[str]], name: str) -> None:
        """Log a table as MLflow shows it in a run's artifacts, ``<name>.json``.

        Its UI takes a dot in a column's name for a path into the row, and shows nothing.
        """
        columns = [name.replace(".", "/") for name in header]
        table = {"columns": columns, "data": [list(row) for row in rows]}
        self._put({"table": table, "name": f"{name}.json"})

    def describe(self, text: str) -> None:
        """Set the description that MLflow shows, in Markdown."""
        self.log_tags({MLFLOW_RUN_NOTE: text})

    def log_data(self, x: np.ndarray, y: np.ndarray, *, name: str, digest: str) -> None:
        """Name the training data as the run's input, by its content digest."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's notes about guessed sources and schemas
            data = mlflow.data.from_numpy(x, targets=y, name=name, digest=digest[:32])
            self._put({"input": dict(data._to_mlflow_entity())})

    def log_model(
        self, model: Any, *, flavor: str, x: np.ndarray, prediction: np.ndarray, requires: list[str]
    ) -> None:
        """Log a trained model in its framework's own flavour, with signature and input example.

        The package's own source goes with it, so that the model loads where the package is not
        installed. The model goes straight to the store: it does not wait on disk, where the
        record has its weights.

        Raises
        ------
        TrackingError
            If the store does not answer.
        """
        if self._journal is not None and not _courier.settle(self._journal):
            raise TrackingError("the tracking store did not answer; the record has the weights")
        module = importlib.import_module(f"mlflow.{flavor}")
        mlflow.start_run(run_id=self.id)  # a flavour logs to the active run only
        with warnings.catch_warnings(), contextlib.ExitStack() as after:
            after.callback(mlflow.end_run, "RUNNING")  # `close` says how it ended
            warnings.simplefilter("ignore")
            module.log_model(
                model,
                name="model",
                signature=mlflow.models.infer_signature(x, prediction),
                input_example=x,
                pip_requirements=requires,
                code_paths=[str(Path(__file__).parent)],
            )

    def close(self, status: str) -> None:
        """End the run, and wait a little for the store to know all of it.

        Raises
        ------
        TrackingError
            If the store refused something for good; the run is FAILED then.
        """
        journal = self._journal
        if journal is None:
            MlflowClient().set_terminated(self._id, status)
            return
        patience = journal.pace.wait if self.parent is None else 0.0
        deadline = time.monotonic() + patience
        _courier.settle(journal, patience=patience)
        if journal.error and status == "FINISHED":
            status = "FAILED"
            self.log_tags({"error": journal.error[:5000]})
        self._put({"end": status, "time": _now()})
        journal.ended = True
        done = _courier.settle(journal, patience=deadline - time.monotonic())
        if journal.error and status == "FAILED":
            raise TrackingError(journal.error)
        if not done:
            _say_once(
                "warning: the tracking store does not answer; what it has not got waits on disk "
                "for the next command, or python -m pipeline 'stages=[sync]'"
            )


@contextlib.contextmanager
def open_run(
    *,
    experiment: str,
    artifacts: str,
    name: str,
    tags: Mapping[str, Any],
    parent: str | None,
    folder: Path | None = None,
    pace: Pace | None = None,
) -> Iterator[Run]:
    """Open a run and close it in every case, as FINISHED, FAILED or KILLED.

    Parameters
    ----------
    folder
        Where the run's own files go; what the store has not got yet waits in ``spool`` there.
    """
    run = create(
        experiment=experiment,
        artifacts=artifacts,
        name=name,
        tags=tags,
        parent=parent,
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


def create(
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
        If the store refuses it.
    """
    extra = {} if parent is None else {MLFLOW_PARENT_RUN_ID: parent}
    if note is not None:
        extra[MLFLOW_RUN_NOTE] = redact(note)
    mark = uuid.uuid4().hex
    place = Spool(spool.HOME / mark if folder is None else folder / "spool")
    given = {key: _text(value) for key, value in tags.items()}
    about = {
        "uri": redact(_resolved(mlflow.get_tracking_uri())),
        "experiment": experiment,
        "artifacts": str(Path(artifacts).absolute()),
        "name": redact(name),
        "tags": given | extra,
        "mark": mark,
        "time": _now(),
    }
    journal = _Journal(place, mark=mark, pace=pace or Pace())
    try:
        place.point()  # who is killed before the store knows of this run is found by that
        place.append({"create": about})
        _courier.add(journal)
        if _courier.settle(journal):
            place.unpoint()
    except BaseException:
        _courier.forget(journal)
        place.remove()
        raise
    strict = parent is None and folder is None  # nothing has begun that it could stop
    if place.run is None and (journal.error or strict):
        _courier.forget(journal)
        place.remove()
        if isinstance(journal.cause, ConfigError):
            raise journal.cause
        raise TrackingError(journal.error or "the tracking store does not answer")
    return Run(parent=parent, journal=journal)


def add_failed(parent: str, *, name: str, tags: Mapping[str, Any]) -> None:
    """Add a child that never ran, so that a sweep's books are complete."""
    client = MlflowClient()
    experiment = _patiently(lambda: client.get_run(parent)).info.experiment_id
    found = _patiently(lambda: client.get_experiment(experiment))
    run = create(
        experiment=found.name,
        artifacts="",  # the experiment is there
        name=name,
        tags=tags,
        parent=parent,
    )
    run.close("FAILED")


def close(run_id: str, status: str) -> None:
    """End a run that `create` made."""
    journal = _courier.journal_of(run_id)
    Run(run_id, journal=journal).close(status)


def remove(run_id: str) -> None:
    """Delete a run that holds nothing."""
    MlflowClient().delete_run(run_id)


def children(parent: str) -> list[Any]:
    """Return the run of each job of a sweep in the order in which they started.

    One that several jobs are linked to is there once for each of them. What the jobs left on disk
    is delivered first.

    Raises
    ------
    TrackingError
        If the store does not answer.
    """
    drain(Pace().wait)
    client = MlflowClient()
    about = _patiently(lambda: client.get_run(parent))
    experiment = about.info.experiment_id
    linked = [tag.split(".")[-1] for tag in about.data.tags if tag.startswith(_LINKED)]
    found: list[Any] = [_patiently(partial(client.get_run, run)) for run in linked]
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


def finished(*, experiment: str, tags: Mapping[str, str], asked: str) -> str | None:
    """Return the newest finished run with these tags, None if there is none or nobody answers.

    `asked` are words in their usual order: a run of which more was asked has what they ask for.
    """
    client = MlflowClient()
    wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    wanted += f" and tags.`asked` LIKE '%{asked.replace(' ', '%')}%'"
    try:
        known = client.get_experiment_by_name(experiment)
        if known is None:
            return None
        found = client.search_runs(
            [known.experiment_id],
            filter_string=f"attributes.status = 'FINISHED' and {wanted}",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
    except (MlflowException, requests.RequestException):
        return None
    return str(found[0].info.run_id) if found else None


def link(parent: str, run: str, *, job: int, name: str) -> None:
    """Count a finished run among a sweep's children, as what that job would have done."""
    MlflowClient().set_tag(parent, f"{_LINKED}{job}.{run}", name)


def sweep_of(parent: str) -> tuple[Any, list[Any]]:
    """Return a sweep's parent and its runs.

    Raises
    ------
    ConfigError
        If there is no such sweep.
    """
    try:
        found = children(parent)
        about = MlflowClient().get_run(parent)
    except MlflowException:
        found, about = [], None
    if not found:
        raise ConfigError("compare.sweep", parent, "is not the id of a sweep with runs")
    return about, found


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


def record_folder(run: str, *, key: str, artifacts: str = "") -> Path:
    """Return where a run's record lies: a folder given as such, or a run's artifact.

    Where the URI of its artifacts is known and of this machine, nobody need be asked.

    Raises
    ------
    ConfigError
        If there is no such run, or it holds no record.
    """
    local = local_file_uri_to_path(artifacts) if artifacts.startswith("file:") else run
    here = found_in(Path(local))
    if here is not None:
        return here
    try:
        return Path(mlflow.artifacts.download_artifacts(run_id=run, artifact_path="record"))
    except (MlflowException, OSError):
        raise ConfigError(
            key, run, "is neither the id of an MLflow run with a record nor a record folder"
        ) from None


def page(experiment: str) -> str:
    """Return where MLflow's pages show an experiment's runs in the view made for them."""
    try:
        found = MlflowClient().get_experiment_by_name(experiment)
    except (MlflowException, requests.RequestException):
        found = None
    if found is None:
        return ""
    shown = f"workflowType=machine_learning&viewStateShareKey={VIEW}"
    return f"/#/experiments/{found.experiment_id}/runs?{shown}"


def reopen(run: str) -> Run | None:
    """Return a finished run to add to, or None where the id is a folder's."""
    try:
        return Run(MlflowClient().get_run(run).info.run_id)
    except MlflowException:
        return None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return redact(value)
    structured = isinstance(value, dict | list | bool | None)
    return redact(json.dumps(value) if structured else str(value))


def _now() -> int:
    return int(time.time() * 1000)


def _say(text: str) -> None:
    print(f"twingrad: {redact(text)}", file=sys.stderr, flush=True)


_said: set[str] = set()


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        _say(text)


def _resolved(uri: str) -> str:
    """Return a store's URI so that the same store has the same one from every folder."""
    return f"sqlite:///{_file(uri).absolute()}" if uri.startswith("sqlite:") else uri.rstrip("/")


# ---- From the spool to the store -------------------------------------------------------------

_PENDING = "pending-"
_experiments: dict[tuple[str, str], str] = {}


class _Journal:
    """One run's spool and how the store took it; only the courier delivers it.

    `error` is what the store refused for good, or that its disk is full; `away` that it did not
    answer the last time.
    """

    def __init__(self, place: Spool, *, mark: str, pace: Pace, retry: bool = False) -> None:
        self.spool = place
        self.mark = mark
        self.pace = pace
        self.error = ""
        self.cause: BaseException | None = None
        self.away = False
        self.attempts = 0
        self.ended = False
        self.removed = False
        self._retry = retry
        self._beat = time.monotonic()

    def deliver(self) -> None:
        """Send what is not delivered, in order; raise at the first thing that does not arrive."""
        self.spool.beat()
        client = MlflowClient()
        for batch, end in _batches(self.spool.messages()):
            try:
                if "create" in batch:
                    self.spool.run = _created(
                        client, batch["create"], folder=self.spool.folder, retry=self._retry
                    )
                else:
                    _send(client, str(self.spool.run), batch, folder=self.spool.folder)
            except Exception as error:
                self._retry = True
                if not _refused(error):
                    raise
                self.error, self.cause = self.error or _reason(error), error
                if "create" in batch:
                    raise
            self.spool.advance(end, self.spool.run)
            if "end" in batch:
                self.spool.remove()
                self.removed = True
                return
        if time.monotonic() - self._beat >= self.pace.heartbeat and self.spool.run:
            client.set_tag(self.spool.run, _HEARTBEAT, _heartbeat(self.spool.folder, self.mark))
            self._beat = time.monotonic()

    @property
    def empty(self) -> bool:
        """Whether everything that was written is delivered."""
        return self.removed or self.spool.delivered >= self.spool.written


class _Courier:
    """One thread of this process that delivers the journals of its runs."""

    def __init__(self) -> None:
        self._journals: list[_Journal] = []
        self._changed = threading.Condition()
        self._asked = False
        self._thread: threading.Thread | None = None

    def add(self, journal: _Journal) -> None:
        """Deliver this one from now on."""
        with self._changed:
            self._journals.append(journal)
            if self._thread is None or not self._thread.is_alive():  # a fork has no thread
                self._thread = threading.Thread(target=self._loop, name="courier", daemon=True)
                self._thread.start()

    def forget(self, journal: _Journal) -> None:
        """Deliver this one no more."""
        with self._changed:
            if journal in self._journals:
                self._journals.remove(journal)

    def journals(self) -> list[_Journal]:
        """Return those that this process owns."""
        with self._changed:
            return list(self._journals)

    def journal_of(self, run_id: str) -> _Journal | None:
        """Return the journal of a run that this process opened."""
        return next(
            (j for j in self.journals() if run_id in (j.spool.run, _PENDING + j.mark)), None
        )

    def settle(self, journal: _Journal, *, patience: float = 0.0) -> bool:
        """Have everything delivered that was written; whether it was.

        A store that answers slowly is given the run's whole waiting time; one that is away only
        `patience` seconds more than one attempt.
        """
        start = time.monotonic()
        limit = max(journal.pace.wait, patience)
        with self._changed:
            attempts = journal.attempts
            self._asked = True
            self._changed.notify_all()
            while not journal.empty:
                failed = journal.attempts > attempts
                left = start + (patience if failed else limit) - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def _loop(self) -> None:
        while True:
            with self._changed:
                soon = 1.0 if any(j.away for j in self._journals) else 3600.0
                pause = min([soon, *(j.pace.flush for j in self._journals)])
                self._changed.wait_for(lambda: self._asked, timeout=pause)
                self._asked = False
                journals = list(self._journals)
            for journal in journals:
                self._serve(journal)

    def _serve(self, journal: _Journal) -> None:
        try:
            journal.deliver()
            failure = None
        except Exception as error:  # the store is away, whatever it raised
            failure = error
            if spool.is_full(error):
                journal.error, journal.cause = _reason(error), error
            with contextlib.suppress(OSError):
                journal.spool.point()
        with self._changed:
            journal.away = failure is not None
            journal.attempts += journal.away
            if journal.removed and journal in self._journals:
                self._journals.remove(journal)
            self._changed.notify_all()


_courier = _Courier()


def _batches(
    messages: Iterator[tuple[dict[str, Any], int]] | Any,
) -> Iterator[tuple[dict[str, Any], int]]:
    """Join messages that follow each other and fit into one call of MLflow's `log_batch`."""
    joined: dict[str, Any] = {}
    last = 0
    for message, end in messages:
        (kind, *_) = message
        small = kind in ("params", "tags", "metrics")
        most = _BATCH_METRICS if kind == "metrics" else _BATCH_OTHERS
        if joined and (not small or len(joined.get(kind, ())) + len(message[kind]) > most):
            yield joined, last
            joined = {}
        if not small:
            yield dict(message), end
        elif kind == "metrics":
            joined = {**joined, kind: [*joined.get(kind, ()), *message[kind]]}
        else:
            joined = {**joined, kind: {**joined.get(kind, {}), **message[kind]}}
        last = end
    if joined:
        yield joined, last


def _send(client: MlflowClient, run: str, message: Message, *, folder: Path) -> None:
    """Tell the store one thing, which it may have heard already."""
    match message:
        case {"end": status, "time": moment}:
            client.set_terminated(run, status, end_time=moment)
        case {"file": path, "target": target}:
            client.log_artifact(run, str(folder / path), target)
        case {"folder": path, "target": target}:
            _name_record(folder / path, run)
            client.log_artifacts(run, str(folder / path), target)
        case {"table": table, "name": name}:
            _send_table(client, run, table, name=name)
        case {"input": data}:
            entity = mlflow.entities.Dataset(**data)
            tag = InputTag(MLFLOW_DATASET_CONTEXT, "training")
            client.log_inputs(run, datasets=[DatasetInput(entity, [tag])])
        case _:
            client.log_batch(
                run,
                metrics=[Metric(*row) for row in message.get("metrics", ())],
                params=[Param(*pair) for pair in message.get("params", {}).items()],
                tags=[RunTag(*pair) for pair in message.get("tags", {}).items()],
            )


def _send_table(client: MlflowClient, run: str, table: Any, *, name: str) -> None:
    """Write a table where MLflow's own `log_table` does, which would add rows to one of before."""
    client.log_text(run, json.dumps(table), name)
    shown = json.loads(client.get_run(run).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
    entry = {"path": name, "type": "table"}
    if entry not in shown:
        client.set_tag(run, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*shown, entry]))


def _created(client: MlflowClient, about: Mapping[str, Any], *, folder: Path, retry: bool) -> str:
    """Create a run and return its id; after a failed attempt, look first whether it is there."""
    key = (mlflow.get_tracking_uri(), about["experiment"])
    if key not in _experiments:
        _experiments[key] = _experiment(about["experiment"], about["artifacts"])
    experiment = _experiments[key]
    if retry:
        mark = f"tags.{_HEARTBEAT} LIKE '%{about['mark']}%'"
        for found in client.search_runs([experiment], filter_string=mark, max_results=1):
            return str(found.info.run_id)
    tags = about["tags"] | {_HEARTBEAT: _heartbeat(folder, about["mark"])}
    try:
        made = client.create_run(
            experiment, tags=tags, run_name=about["name"], start_time=about["time"]
        )
    except MlflowException:
        _experiments.pop(key, None)  # it may have been deleted since
        raise
    return str(made.info.run_id)


def _heartbeat(folder: Path, mark: str) -> str:
    return json.dumps(
        {"host": socket.gethostname(), "time": _now(), "spool": str(folder), "mark": mark}
    )


def _name_record(folder: Path, run: str) -> None:
    """Put the run's id into a record that was saved before the store gave one."""
    path = folder / "record.json"
    if path.is_file():
        about = json.loads(path.read_text())
        if str(about.get("run", "")).startswith(_PENDING):
            text = json.dumps(about | {"run": run}, indent=1)
            storage.write_atomic(path, lambda file: file.write(text.encode()))


def _refused(error: Exception) -> bool:
    """Whether the store answered and will never take this, so that repeating it is of no use."""
    if isinstance(error, ConfigError | FileNotFoundError | NotADirectoryError):
        return True
    return isinstance(error, MlflowException) and error.error_code in _REFUSALS


def _reason(error: Exception) -> str:
    text = redact(" ".join(str(error).split()))
    if not spool.is_full(error):
        return text
    uri = mlflow.get_tracking_uri()
    where = str(_file(uri)) if uri.startswith("sqlite:") else redact(uri)
    return f"{where}: the tracking store's disk is full; what it has not got waits beside the run"


def _patiently(call: Callable[[], Any]) -> Any:
    """Return what a call to the store returns, waiting a little for one that is away."""
    deadline = time.monotonic() + Pace().wait
    while True:
        try:
            return call()
        except MlflowException as error:
            if _refused(error):
                raise
            if time.monotonic() > deadline:
                raise TrackingError(
                    "the tracking store does not answer; when it does, python -m pipeline "
                    f"'stages=[sync]' delivers what waits on disk ({_reason(error)[:200]})"
                ) from None
            time.sleep(0.5)


def drain(wait: float) -> list[str]:
    """Deliver what waits on disk, of this process and of dead ones; return what was done.

    Spools of other processes that are alive are given up to `wait` seconds to become empty.
    """
    deadline = time.monotonic() + wait
    for journal in _courier.journals():
        _courier.settle(journal, patience=max(0.0, deadline - time.monotonic()))
    told = []
    while True:
        own = {journal.spool.folder for journal in _courier.journals()}
        folders = [f for f in spool.waiting() if f not in own and spool.lags(f)]
        told += [line for folder in folders if (line := _finish(folder))]
        others = [f for f in folders if spool.lags(f) and _is_here(f)]
        if not others or time.monotonic() > deadline:
            return told
        time.sleep(0.2)


def undelivered() -> list[Path]:
    """Return the spools known here that hold what the store in use has not got."""
    return [folder for folder in spool.waiting() if spool.lags(folder) and _is_here(folder)]


def waits(run: str) -> bool:
    """Whether a run has ended, and only the store does not know it yet."""
    return any(spool.holds_end_of(run, folder) for folder in spool.waiting())


def recover(*, stale: float) -> list[str]:
    """Close the runs that nobody will close any more, with what they left; say which.

    A run of this machine is dead when the lock on its spool is free. One of another machine is left
    alone until its heartbeat is `stale` seconds old.
    """
    client = MlflowClient()
    told = []
    try:
        experiments = [e.experiment_id for e in client.search_experiments(max_results=1000)]
        running = client.search_runs(
            experiments,
            filter_string=f"attributes.status = 'RUNNING' and tags.{_HEARTBEAT} LIKE '%mark%'",
            max_results=1000,
        )
    except MlflowException:
        return ["warning: the tracking store does not say which runs are open"]
    for run in running:
        try:
            beat = json.loads(run.data.tags[_HEARTBEAT])
            folder, moment = Path(beat["spool"]), int(beat["time"])
        except (ValueError, KeyError, TypeError):
            continue
        old = _now() - moment > stale * 1000
        here = (folder / "queue.jsonl").is_file()
        if here and (old or beat["host"] == socket.gethostname()):
            told.append(_finish(folder, run=run.info.run_id))
        elif old and not here:
            client.set_terminated(run.info.run_id, "KILLED", end_time=moment)
            told.append(f"{run.info.run_name} on {beat['host']} gave no sign of life: KILLED")
    told += [_finish(folder) for folder in spool.waiting()]
    return [line for line in told if line]


def _is_here(folder: Path) -> bool:
    """Whether a spool is meant for the store in use; one whose first line was cut short is."""
    try:
        with (folder / "queue.jsonl").open() as file:
            line = file.readline()
        if not line.endswith("\n"):
            return True
        uri = json.loads(line)["create"]["uri"]
    except (OSError, ValueError, KeyError):
        return False
    return bool(uri == redact(_resolved(mlflow.get_tracking_uri())))


def _finish(folder: Path, *, run: str | None = None) -> str | None:
    """Deliver a dead owner's spool, and close its run as KILLED if it had not ended.

    It must be meant for the store in use, or be that of `run`, which is in this store.
    """
    if run is None and not _is_here(folder):
        return None
    place = spool.take_over(folder)
    if place is None:
        return None
    if not place.written:  # its owner was just about to remove it
        place.remove()
        return None
    if run is not None and place.run != run:
        place.release()
        return None
    try:
        (first, _), *_ = place.messages(0)
        name, status = first["create"]["name"], "delivered"
        if not place.holds("end"):
            moment, status = place.last_beat(), "was killed: KILLED"
            place.append(*_left(folder), {"end": "KILLED", "time": moment})
        journal = _Journal(place, mark=first["create"]["mark"], pace=Pace(), retry=True)
        journal.deliver()
    except Exception as error:
        place.point()
        place.release()
        return f"{folder}: not delivered ({_reason(error)[:200]})"
    refused = f", but the store refused something ({journal.error})" if journal.error else ""
    return f"{name} {status}{refused}"


def _left(folder: Path) -> list[Message]:
    """Return messages for the files that a killed run left beside its spool."""
    found: list[Message] = []
    if folder.name == "spool":
        if (folder.parent / "config.yaml").is_file():
            found.append({"file": "../config.yaml", "target": None})
        if (folder.parent / "record" / "record.json").is_file():
            found.append({"folder": "../record", "target": "record"})
    return found


def _parts(values: Mapping[str, str], most: int) -> Iterator[dict[str, str]]:
    items = list(values.items())
    for i in range(0, len(items), most):
        yield dict(items[i : i + most])


def _rows(rows: list[list[Any]]) -> Iterator[Message]:
    for i in range(0, len(rows), _BATCH_METRICS):
        yield {"metrics": rows[i : i + _BATCH_METRICS]}


def _between(steps: np.ndarray, known: np.ndarray) -> list[int]:
    """Return when each step was made, from rows of step and time in milliseconds."""
    return np.interp(steps, known[:, 0], known[:, 1]).astype(np.int64).tolist()


@atexit.register
def _leave() -> None:
    """Close what this process opened and nobody closed: its maker gave up."""
    for journal in _courier.journals():
        if not journal.ended:
            with contextlib.suppress(OSError, TrackingError):
                Run(parent="none", journal=journal).close("FAILED")
