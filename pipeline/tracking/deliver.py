"""One run's messages to the store, in batches and in order; each may be sent twice."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_LOGGED_ARTIFACTS

from pipeline import storage
from pipeline.config.types import ConfigError
from pipeline.redact import redact
from pipeline.tracking.messages import halve, is_message, split_batches, split_folder
from pipeline.tracking.spool import Message, Spool, now_ms
from pipeline.tracking.sqlite import HOME_TAG, sqlite_folder
from pipeline.tracking.store import (
    KEPT,
    OutsideError,
    StoreLostError,
    TrackingError,
    check_presence,
    describe_error,
    is_denied,
    is_lost,
    is_refused,
)
from pipeline.tracking.views import describe_experiment

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

    `error` is what the store refused for good, or that its disk is full; `lost` that the store or
    the run in it is gone; `away` that it did not answer the last time.

    Parameters
    ----------
    root
        Where the files must lie that the queue names, for a queue that was found on disk; what this
        process wrote itself may name any.
    """

    def __init__(
        self, place: Spool, *, mark: str, pace: Pace, retry: bool = False, root: Path | None = None
    ) -> None:
        """Begin with nothing delivered by this process.

        Parameters
        ----------
        place
            The spool.
        mark
            The run's, which its heartbeat repeats; empty where it is damaged.
        pace
            How often it is delivered.
        retry
            Whether the run may be in the store already, from an earlier attempt to create it.
        """
        self.spool = place
        self.mark = mark
        self.pace = pace
        self.error = ""
        self.lost = ""
        self.cause: BaseException | None = None
        self.away = False
        self.attempts = 0
        self.ended = False
        self.removed = False
        self._retry = retry
        self._root = root
        self._arrived: set[str] = set()  # files of the folder that is being sent
        self._beat = time.monotonic()

    def deliver(self) -> None:
        """Send what is not delivered, in order; raise at the first thing that does not arrive.

        What the store refuses for good is set aside, and the rest goes on.

        Raises
        ------
        StoreLostError
            If the store is gone, or does not hold the run any more; everything is kept.
        """
        try:
            check_presence()
            self.spool.beat()
            self._deliver_rest(MlflowClient())
            self.lost = ""
        except Exception as error:
            self._retry = True
            if isinstance(error, StoreLostError) or (is_lost(error) and self.spool.run):
                self.lost = str(error) if isinstance(error, StoreLostError) else _describe_loss()
                raise StoreLostError(self.lost) from None
            if is_refused(error):
                self._note_refusal(error)
            raise

    def _deliver_rest(self, client: MlflowClient) -> None:
        """Deliver every message that waits, in order; after the run's end, remove the spool."""
        messages = list(self.spool.messages())
        for batch, end in split_batches((m, end) for m, end in messages if is_message(m)):
            if "end" in batch:  # after which the store calls nobody's attention to it any more
                with contextlib.suppress(OSError):
                    self.spool.point()
            deliver = self._deliver_folder if "folder" in batch else self._deliver_batch
            deliver(client, batch)
            self.spool.advance(end, self.spool.run)
            if "end" in batch:
                self.spool.remove()
                self.removed = True
                return
            self._send_heartbeat(client)
        self._send_heartbeat(client)
        if messages and messages[-1][1] > self.spool.delivered:  # damaged lines at the end
            self.spool.advance(messages[-1][1], self.spool.run)

    def _deliver_folder(self, client: MlflowClient, batch: Message) -> None:
        """Send a folder file by file; after a failure, go on with the first that did not arrive.

        One outside is refused as it is, without a look at what is in it.
        """
        if not _lies_inside(self.spool.folder / batch["folder"], self._root):
            self._deliver_batch(client, {"file": batch["folder"], "target": batch["target"]})
            return
        for part in split_folder(batch, folder=self.spool.folder):
            if part["file"] not in self._arrived:
                self._deliver_batch(client, part)
                self._arrived.add(part["file"])
                self._send_heartbeat(client)
        self._arrived.clear()

    def _deliver_batch(self, client: MlflowClient, batch: Message) -> None:
        """Send a batch; of one that is refused send the parts, and set aside what is to blame.

        Raises
        ------
        Exception
            If it did not arrive, or is refused without which there is no run, or no end of it.
        """
        folder = self.spool.folder
        try:
            if "create" in batch:
                about = batch["create"]
                self.spool.run = create_in_store(client, about, folder=folder, retry=self._retry)
            elif self.spool.run is None:
                raise TrackingError("the queue does not say which run it is of")
            else:
                _check_inside(batch, folder=folder, root=self._root)
                send_message(client, self.spool.run, batch, folder=folder)
        except Exception as error:
            needed = "create" in batch or ("end" in batch and is_denied(error))
            if not is_refused(error) or needed:
                raise
            parts = [] if is_denied(error) else halve(batch)
            if parts:
                for part in parts:
                    self._deliver_batch(client, part)
                return
            self._note_refusal(error)
            self.spool.set_aside(batch, describe_error(error))

    def _note_refusal(self, error: Exception) -> None:
        """Note what the store refused; of several refusals the first one's text."""
        self.error, self.cause = self.error or describe_error(error), error

    def _send_heartbeat(self, client: MlflowClient) -> None:
        """Say from time to time that the run is alive; a store may refuse that."""
        if time.monotonic() - self._beat < self.pace.heartbeat or not self.spool.run:
            return
        try:
            client.set_tag(self.spool.run, HEARTBEAT, _make_heartbeat(self.spool.folder, self.mark))
        except MlflowException as error:
            if not is_refused(error):
                raise
        self._beat = time.monotonic()

    @property
    def empty(self) -> bool:
        """Whether everything that was written is delivered."""
        return self.removed or self.spool.delivered >= self.spool.written


def _describe_loss() -> str:
    """Say that the store does not hold the run any more, and what was kept."""
    uri = redact(mlflow.get_tracking_uri())
    return f"the tracking store {uri} does not hold the run any more; {KEPT}"


def _check_inside(batch: Message, *, folder: Path, root: Path | None) -> None:
    """Refuse a file outside the folder that a queue may upload from."""
    if "file" in batch and not _lies_inside(folder / batch["file"], root):
        raise OutsideError(f"{folder / batch['file']}: outside {root}, so it is not uploaded")


def _lies_inside(path: Path, root: Path | None) -> bool:
    """Whether a path, with links followed, lies in a folder; any does where that is None."""
    return root is None or path.resolve().is_relative_to(root.resolve())


def send_message(client: MlflowClient, run: str, message: Message, *, folder: Path) -> None:
    """Tell the store one thing, which it may have heard already."""
    match message:
        case {"end": status, "time": moment}:
            client.set_terminated(run, status, end_time=moment)
        case {"file": path, "target": target}:
            if Path(path).name == "record.json":
                _name_record(folder / path, run)
            client.log_artifact(run, str(folder / path), target)
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
    if retry and about["mark"].isalnum():
        mark = f"tags.{HEARTBEAT} LIKE '%{about['mark']}%'"
        for run in client.search_runs([experiment], filter_string=mark, max_results=1):
            return str(run.info.run_id)
    tags = about["tags"] | {HEARTBEAT: _make_heartbeat(folder, about["mark"])}
    try:
        run = client.create_run(
            experiment, tags=tags, run_name=about["name"], start_time=about["time"]
        )
    except MlflowException:
        _experiments.pop(key, None)  # it may have been deleted since
        raise
    return str(run.info.run_id)


def _find_experiment(name: str, artifacts: str) -> str:
    """Return the id of an experiment, made if it is not there."""
    client = MlflowClient()
    experiment, refusal = client.get_experiment_by_name(name), None
    if experiment is None:
        remote = mlflow.get_tracking_uri().startswith("http")
        root = None if remote else Path(artifacts).absolute().as_uri()
        home = sqlite_folder()
        tags = describe_experiment() | ({} if home is None else {HOME_TAG: str(home)})
        try:
            return str(client.create_experiment(name, artifact_location=root, tags=tags))
        except MlflowException as error:  # perhaps somebody else made it in the meantime
            refusal = error
        experiment = client.get_experiment_by_name(name)
    if experiment is None and refusal is not None:
        raise refusal
    if experiment is None or experiment.lifecycle_stage != "active":
        raise ConfigError("tracking.experiment", name, "is deleted in this store; choose another")
    return str(experiment.experiment_id)


def _make_heartbeat(folder: Path, mark: str) -> str:
    """Return a run's sign of life: where its spool lies, also as seen from a store on disk."""
    beat = {"host": socket.gethostname(), "time": now_ms(), "spool": str(folder), "mark": mark}
    home = sqlite_folder()
    return json.dumps(beat if home is None else beat | {"beside": os.path.relpath(folder, home)})


def _name_record(path: Path, run: str) -> None:
    """Put the run's id into a record that was saved before the store gave one.

    A damaged record is delivered as it is.
    """
    try:
        about = json.loads(path.read_text())
    except ValueError:
        return
    if isinstance(about, dict) and str(about.get("run", "")).startswith(PENDING):
        text = json.dumps(about | {"run": run}, indent=1)
        storage.write_atomic(path, lambda file: file.write(text.encode()))
