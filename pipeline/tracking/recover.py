"""What dead processes left: their queues delivered, their runs closed."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.redact import redact
from pipeline.tracking import spool
from pipeline.tracking.courier import COURIER
from pipeline.tracking.deliver import HEARTBEAT, Journal, Pace
from pipeline.tracking.spool import Message, now_ms
from pipeline.tracking.store import describe_error, resolve_uri, say


def recover_runs(*, stale: float) -> list[str]:
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
            filter_string=f"attributes.status = 'RUNNING' and tags.{HEARTBEAT} LIKE '%mark%'",
            max_results=1000,
        )
    except MlflowException:
        return ["warning: the tracking store does not say which runs are open"]
    for run in running:
        try:
            beat = json.loads(run.data.tags[HEARTBEAT])
            folder, moment = Path(beat["spool"]), int(beat["time"])
        except (ValueError, KeyError, TypeError):
            continue
        old = now_ms() - moment > stale * 1000
        here = (folder / "queue.jsonl").is_file()
        if here and (old or beat["host"] == socket.gethostname()):
            told.append(finish_spool(folder, run=run.info.run_id))
        elif old and not here:
            client.set_terminated(run.info.run_id, "KILLED", end_time=moment)
            told.append(f"{run.info.run_name} on {beat['host']} gave no sign of life: KILLED")
    told += [finish_spool(folder) for folder in spool.waiting()]
    return [line for line in told if line]


def close_dead_runs(*, stale: float) -> None:
    """Close the runs of dead processes, and say which; a command asks for it once, at its start.

    Parameters
    ----------
    stale
        Seconds without a heartbeat after which a run on another host counts as dead.
    """
    for line in recover_runs(stale=stale):
        say(line)


def deliver_waiting(wait: float) -> list[str]:
    """Deliver what waits on disk, of this process and of dead ones; return what was done.

    Spools of other processes that are alive are given up to `wait` seconds to become empty.
    """
    deadline = time.monotonic() + wait
    for journal in COURIER.journals():
        COURIER.settle(journal, patience=max(0.0, deadline - time.monotonic()))
    told = []
    while True:
        own = {journal.spool.folder for journal in COURIER.journals()}
        folders = [f for f in spool.waiting() if f not in own and spool.lags(f)]
        told += [line for folder in folders if (line := finish_spool(folder))]
        others = [f for f in folders if spool.lags(f) and _is_here(f)]
        if not others or time.monotonic() > deadline:
            return told
        time.sleep(0.2)


def list_undelivered() -> list[Path]:
    """Return the spools known here that hold what the store in use has not got."""
    return [folder for folder in spool.waiting() if spool.lags(folder) and _is_here(folder)]


def awaits_end(run: str) -> bool:
    """Whether a run has ended, and only the store does not know it yet."""
    return any(spool.holds_end_of(run, folder) for folder in spool.waiting())


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
    return bool(uri == redact(resolve_uri(mlflow.get_tracking_uri())))


def finish_spool(folder: Path, *, run: str | None = None) -> str | None:
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
        journal = Journal(place, mark=first["create"]["mark"], pace=Pace(), retry=True)
        journal.deliver()
    except Exception as error:
        place.point()
        place.release()
        return f"{folder}: not delivered ({describe_error(error)[:200]})"
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
