"""One run's messages to the store, in batches and in order; each may be sent twice."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_LOGGED_ARTIFACTS

from pipeline import storage
from pipeline.config import ConfigError
from pipeline.tracking.spool import Message, Spool, now_ms
from pipeline.tracking.store import describe_error, is_refused
from pipeline.tracking.views import describe_experiment

BATCH_METRICS, BATCH_OTHERS = 800, 100  # 1000 of all kinds in a call
HEARTBEAT = "heartbeat"
PENDING = "pending-"  # then a run's mark: its name as long as the store gave none
_experiments: dict[tuple[str, str], str] = {}


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


class Journal:
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
        for batch, end in split_batches(self.spool.messages()):
            try:
                if "create" in batch:
                    self.spool.run = create_in_store(
                        client, batch["create"], folder=self.spool.folder, retry=self._retry
                    )
                else:
                    send_message(client, str(self.spool.run), batch, folder=self.spool.folder)
            except Exception as error:
                self._retry = True
                if not is_refused(error):
                    raise
                self.error, self.cause = self.error or describe_error(error), error
                if "create" in batch:
                    raise
            self.spool.advance(end, self.spool.run)
            if "end" in batch:
                self.spool.remove()
                self.removed = True
                return
        if time.monotonic() - self._beat >= self.pace.heartbeat and self.spool.run:
            client.set_tag(self.spool.run, HEARTBEAT, _make_heartbeat(self.spool.folder, self.mark))
            self._beat = time.monotonic()

    @property
    def empty(self) -> bool:
        """Whether everything that was written is delivered."""
        return self.removed or self.spool.delivered >= self.spool.written


def split_batches(
    messages: Iterator[tuple[dict[str, Any], int]] | Any,
) -> Iterator[tuple[dict[str, Any], int]]:
    """Join messages that follow each other and fit into one call of MLflow's `log_batch`."""
    joined: dict[str, Any] = {}
    last = 0
    for message, end in messages:
        (kind, *_) = message
        small = kind in ("params", "tags", "metrics")
        most = BATCH_METRICS if kind == "metrics" else BATCH_OTHERS
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


def send_message(client: MlflowClient, run: str, message: Message, *, folder: Path) -> None:
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


def create_in_store(
    client: MlflowClient, about: Mapping[str, Any], *, folder: Path, retry: bool
) -> str:
    """Create a run and return its id; after a failed attempt, look first whether it is there."""
    key = (mlflow.get_tracking_uri(), about["experiment"])
    if key not in _experiments:
        _experiments[key] = _find_experiment(about["experiment"], about["artifacts"])
    experiment = _experiments[key]
    if retry:
        mark = f"tags.{HEARTBEAT} LIKE '%{about['mark']}%'"
        for found in client.search_runs([experiment], filter_string=mark, max_results=1):
            return str(found.info.run_id)
    tags = about["tags"] | {HEARTBEAT: _make_heartbeat(folder, about["mark"])}
    try:
        made = client.create_run(
            experiment, tags=tags, run_name=about["name"], start_time=about["time"]
        )
    except MlflowException:
        _experiments.pop(key, None)  # it may have been deleted since
        raise
    return str(made.info.run_id)


def _find_experiment(name: str, artifacts: str) -> str:
    """Return the id of an experiment, made if it is not there."""
    client = MlflowClient()
    found = client.get_experiment_by_name(name)
    if found is None:
        remote = mlflow.get_tracking_uri().startswith("http")
        root = None if remote else Path(artifacts).absolute().as_uri()
        with contextlib.suppress(MlflowException):  # somebody else made it in the meantime
            made = client.create_experiment(
                name, artifact_location=root, tags=describe_experiment()
            )
            return str(made)
        found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise ConfigError("tracking.experiment", name, "is deleted in this store; choose another")
    return str(found.experiment_id)


def _make_heartbeat(folder: Path, mark: str) -> str:
    return json.dumps(
        {"host": socket.gethostname(), "time": now_ms(), "spool": str(folder), "mark": mark}
    )


def _name_record(folder: Path, run: str) -> None:
    """Put the run's id into a record that was saved before the store gave one."""
    path = folder / "record.json"
    if path.is_file():
        about = json.loads(path.read_text())
        if str(about.get("run", "")).startswith(PENDING):
            text = json.dumps(about | {"run": run}, indent=1)
            storage.write_atomic(path, lambda file: file.write(text.encode()))
