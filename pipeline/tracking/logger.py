"""What is logged to an open run in MLflow.

It is written to the run's spool (`pipeline.tracking.spool`), and a thread delivers that in batches
and in order. Each message may be sent twice and counts once: a metric's timestamp is fixed when it
is written, and MLflow's SQL stores keep one row for the same key, timestamp, step and value; params
and tags are set to what they are.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import mlflow.data
import numpy as np
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

import pipeline
from pipeline.redact import redact
from pipeline.tracking.courier import COURIER
from pipeline.tracking.deliver import PENDING, Journal, send_message
from pipeline.tracking.messages import BATCH_METRICS, BATCH_OTHERS, split_batches, split_folder
from pipeline.tracking.spool import Message, now_ms
from pipeline.tracking.store import TrackingError, ask_patiently, say_once

_PARAM_LIMIT = 6000


class Run:
    """An open MLflow run; not to be confused with a record, which is the run's own account.

    With a journal, whatever is logged waits on disk until it is delivered; without one it goes to
    the store at once, as for a run that has ended.
    """

    def __init__(
        self, run_id: str = "", *, parent: str | None = None, journal: Journal | None = None
    ) -> None:
        """Begin now; `run_id` is the id of a run that the store has, for use without a `journal`.

        `parent` is the id of the sweep's run, None for a run by itself.
        """
        self.parent = parent
        self._id = run_id
        self._journal = journal
        self._start = now_ms()
        self._seen: list[tuple[int, int]] = []  # step and time of what was told while training
        self._told: dict[str, set[int]] = {}
        self._buffer: list[list[Any]] = []
        self._flushed = time.monotonic()

    @property
    def id(self) -> str:
        """The store's id; as long as the store has not answered, a name that `sync` replaces."""
        if self._journal is None:
            return self._id
        return self._journal.spool.run or f"{PENDING}{self._journal.mark}"

    def _put(self, *messages: Message) -> None:
        """Append messages to the journal; without one, send them to the store now."""
        if self._journal is not None:
            self._journal.spool.append(*messages)
            return
        here = Path.cwd()
        for batch, _ in split_batches((message, 0) for message in messages):
            parts = split_folder(batch, folder=here) if "folder" in batch else [batch]
            for part in parts:
                ask_patiently(partial(send_message, MlflowClient(), self._id, part, folder=here))

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log flattened settings; a value that is too long is cut."""
        texts = {key: as_text(value)[:_PARAM_LIMIT] for key, value in values.items()}
        self._put(*({"params": part} for part in _parts(texts, BATCH_OTHERS)))

    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags."""
        texts = {key: as_text(value) for key, value in tags.items()}
        self._put(*({"tags": part} for part in _parts(texts, BATCH_OTHERS)))

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
            due, now = step + distance, now_ms()
            self._seen.append((step, now))
            self._buffer += [[key, float(value), now, step] for key, value in values.items()]
            if time.monotonic() - self._flushed >= self._journal.pace.flush:
                self._flush()

        return follow

    def _flush(self) -> None:
        """Put the metrics that are buffered, and remember at which steps each was told."""
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
        known = [(0, self._start), *self._seen, (max([0, *map(int, steps[-1:])]), now_ms())]
        times = _between(np.asarray(steps), np.array(known))
        numbers = np.asarray(steps).tolist()
        rows = []
        for key, values in series.items():
            sent = self._told.get(key, set())
            most = min(max(points - len(sent), 2), len(values))
            if len(values) and (values == values[0]).all():  # two points draw a level line
                most = min(2, most)
            chosen = np.unique(np.linspace(0, len(values) - 1, most).round()).astype(int)
            for i in chosen.tolist():
                if numbers[i] not in sent:
                    rows.append([key, float(values[i]), times[i], numbers[i]])
        self._put(*_rows(rows))

    def log_metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Log single numbers."""
        now = now_ms()
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
        self,
        model: Any,
        *,
        flavor: str,
        x: np.ndarray,
        prediction: np.ndarray,
        requires: list[str],
        step: int,
        tags: Mapping[str, str],
    ) -> None:
        """Log a trained model in its framework's own flavour, with signature and input example.

        It has the run's parameters, and of its metrics those of `step`, as it is then.

        The package's own source goes with it, so that the model loads where the package is not
        installed. The model goes straight to the store: it does not wait on disk, where the
        record has its weights.

        Raises
        ------
        TrackingError
            If the store does not answer.
        """
        if self._journal is not None and not COURIER.settle(self._journal):
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
                code_paths=[str(Path(pipeline.__file__).parent)],
                step=step,
                tags=dict(tags),
            )

    def close(self, status: str) -> None:
        """End the run, and wait a little for the store to know all of it.

        Raises
        ------
        TrackingError
            If the store refused something for good, and the run is FAILED then; or if the store or
            the run in it is gone.
        """
        journal = self._journal
        if journal is None:
            ask_patiently(lambda: MlflowClient().set_terminated(self._id, status))
            return
        patience = journal.pace.wait if self.parent is None else 0.0
        deadline = time.monotonic() + patience
        COURIER.settle(journal, patience=patience)
        if journal.error and status == "FINISHED":
            status = "FAILED"
            self.log_tags({"error": journal.error[:5000]})
        self._put({"end": status, "time": now_ms()})
        journal.ended = True
        done = COURIER.settle(journal, patience=deadline - time.monotonic())
        if journal.lost and not done:
            raise TrackingError(journal.lost)
        if journal.error and status != "KILLED":
            raise TrackingError(journal.error)
        if not done:
            say_once(
                "warning: the tracking store does not answer; what it has not got waits on disk "
                "for the next command, or python -m pipeline 'stages=[sync]'"
            )


def as_text(value: Any) -> str:
    """Return a value as the text of a parameter or tag, without secrets; structures as JSON."""
    if isinstance(value, str):
        return redact(value)
    structured = isinstance(value, dict | list | bool | None)
    return redact(json.dumps(value) if structured else str(value))


def _parts(values: Mapping[str, str], most: int) -> Iterator[dict[str, str]]:
    """Yield the values in parts of at most `most`, the most that the store takes at once."""
    items = list(values.items())
    for i in range(0, len(items), most):
        yield dict(items[i : i + most])


def _rows(rows: list[list[Any]]) -> Iterator[Message]:
    """Yield messages with the rows of metrics, as many in each as the store takes at once."""
    for i in range(0, len(rows), BATCH_METRICS):
        yield {"metrics": rows[i : i + BATCH_METRICS]}


def _between(steps: np.ndarray, known: np.ndarray) -> list[int]:
    """Return when each step was made, from rows of step and time in milliseconds."""
    return np.interp(steps, known[:, 0], known[:, 1]).astype(np.int64).tolist()
