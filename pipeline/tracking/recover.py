"""What dead processes left: their queues delivered, their runs closed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient

from pipeline.redact import redact
from pipeline.tracking import spool
from pipeline.tracking.courier import COURIER
from pipeline.tracking.deliver import HEARTBEAT, Journal, Pace
from pipeline.tracking.messages import count_damaged, holds_end
from pipeline.tracking.spool import Message, Spool, now_ms
from pipeline.tracking.sqlite import sqlite_file, sqlite_folder
from pipeline.tracking.store import ask_patiently, describe_error, resolve_uri, say

_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)  # errors of a full machine


def close_dead_runs(*, stale: float) -> None:
    """Close the runs of dead processes, and say which; a command asks for it once, at its start.

    Parameters
    ----------
    stale
        Seconds without a heartbeat after which a run on another host counts as dead.
    """
    for line in recover_runs(stale=stale):
        say(line)


def recover_runs(*, stale: float) -> list[str]:
    """Close the runs that nobody will close any more, with what they left; say which.

    A run of this machine is dead when the lock on its spool is free. One of another machine is left
    alone until its heartbeat is `stale` seconds old.
    """
    lines: list[str | None] = []
    try:
        running = ask_patiently(_list_running)
    except Exception as error:  # whatever it is: this command is about something else
        reason = describe_error(error)[:200]
        return [f"warning: the tracking store does not say which runs are open ({reason})"]
    for run in running:
        try:
            lines.append(_close_if_dead(run, stale=stale))
        except Exception as error:
            lines.append(f"{run.info.run_name}: not closed ({describe_error(error)[:200]})")
    lines += [finish_spool(folder) for folder in spool.list_waiting()]
    return [line for line in lines if line]


def _list_running() -> list[Any]:
    """Return the runs that the store has as running and that have a mark in their heartbeat."""
    client = MlflowClient()
    experiments = [each.experiment_id for each in _list_all(client.search_experiments)]
    condition = f"attributes.status = 'RUNNING' and tags.{HEARTBEAT} LIKE '%mark%'"
    return _list_all(partial(client.search_runs, experiments, filter_string=condition))


def _list_all(search: Callable[..., Any]) -> list[Any]:
    """Return what a search of MLflow's finds, from all of its pages."""
    page = search(max_results=1000)
    entries = list(page)
    while page.token:
        page = search(max_results=1000, page_token=page.token)
        entries += page
    return entries


def _close_if_dead(run: Any, *, stale: float) -> str | None:
    """Close a run of the store whose process is dead; return what was done."""
    try:
        beat = json.loads(run.data.tags[HEARTBEAT])
        folder, moment = _locate_spool(beat), int(beat["time"])
    except (ValueError, KeyError, TypeError):
        return None
    old = now_ms() - moment > stale * 1000
    if spool.holds_queue(folder):
        if old or beat["host"] == socket.gethostname():
            return finish_spool(folder, run=run.info.run_id, mark=beat.get("mark"))
    elif old and _close_killed(run.info.run_id, moment):
        return f"{run.info.run_name} on {beat['host']} gave no sign of life: KILLED"
    return None


def _locate_spool(beat: dict[str, Any]) -> Path:
    """Return where a run's spool lies; with a store on disk, as it lies from there.

    So a store that was moved or copied together with its spools means those beside it.
    """
    home = sqlite_folder()
    if home is not None and "beside" in beat:
        return Path(os.path.abspath(home / beat["beside"]))
    return Path(beat["spool"])


def _close_killed(run: str, moment: int) -> bool:
    """Close a run as KILLED unless it has ended in the meantime."""
    client = MlflowClient()
    if ask_patiently(lambda: client.get_run(run)).info.status != "RUNNING":
        return False
    ask_patiently(lambda: client.set_terminated(run, "KILLED", end_time=moment))
    return True


def deliver_waiting(wait: float) -> list[str]:
    """Deliver what waits on disk, of this process and of dead ones; return what was done.

    Spools of other processes that are alive are given up to `wait` seconds to become empty.
    """
    deadline = time.monotonic() + wait
    for journal in COURIER.journals():
        COURIER.settle(journal, patience=max(0.0, deadline - time.monotonic()))
    lines: dict[str, None] = {}
    while True:
        ours = {journal.spool.folder for journal in COURIER.journals()}
        folders = [f for f in spool.list_waiting() if f not in ours and spool.lags(f)]
        lines |= {line: None for folder in folders if (line := finish_spool(folder))}
        others = [f for f in folders if spool.lags(f) and belongs_here(f) and spool.is_owned(f)]
        if not others or time.monotonic() > deadline:
            return list(lines)
        time.sleep(0.2)


def list_undelivered(root: Path | None = None) -> list[Path]:
    """Return the spools that hold what the store in use has not got, or cannot be read.

    Parameters
    ----------
    root
        Look everywhere below this folder, too, and not only at those that were noted.
    """
    folders = set(spool.list_waiting()) | set(spool.find_spools(root) if root else ())
    return sorted(
        folder
        for folder in folders
        if belongs_here(folder) and (spool.lags(folder) or not spool.is_owned(folder))
    )


def awaits_end(run: str) -> bool:
    """Whether a run has ended, and only the store does not know it yet."""
    return any(spool.holds_end_of(run, folder) for folder in spool.list_waiting())


def belongs_here(folder: Path, *, named: bool = True) -> bool:
    """Whether a spool is meant for the store in use; one that does not say for which may be.

    A store on disk that was moved or copied together with its spools is the one that lies where it
    lay from them. A copy of a spool whose original is still there is for no store: what is in it,
    the original delivers.

    Parameters
    ----------
    named
        Whether a run in the store names this folder as its spool. Where the first message is
        damaged, which says so otherwise, nothing but that tells a spool from a copy.
    """
    about = spool.read_creation(folder)
    if about is None:
        return spool.holds_queue(folder) and (named or spool.is_empty(folder))
    uri = mlflow.get_tracking_uri()
    same = about.get("uri") == redact(resolve_uri(uri))
    if not same:
        if "store" not in about or not uri.startswith("sqlite:"):
            return False
        beside = os.path.abspath(folder / about["store"])
        return beside == str(sqlite_file(uri).absolute())
    origin = Path(about.get("folder", folder))
    return origin == folder.absolute() or _mark_of(origin) != about["mark"]


def _mark_of(folder: Path) -> str | None:
    """Return the mark of the run of a spool, None where its first message is damaged."""
    return (spool.read_creation(folder) or {}).get("mark")


def finish_spool(folder: Path, *, run: str | None = None, mark: str | None = None) -> str | None:
    """Deliver a dead owner's spool, and close its run as KILLED if it had not ended.

    It must be meant for the store in use.

    Parameters
    ----------
    run, mark
        The run of the store whose heartbeat names this spool, and that run's mark.

    Returns
    -------
    str | None
        What was done, or why nothing could be; None where there was nothing to do.
    """
    try:
        if not belongs_here(folder, named=run is not None):
            return None
        place = spool.take_over(folder)
    except OSError as error:
        passes = error.errno in _PASSING  # then the next command delivers what waits, and closes
        closed = run is not None and not passes and _close_killed(run, now_ms())
        return f"{folder}: not delivered ({error})" + ("; its run is KILLED" if closed else "")
    if place is None:
        return None
    try:
        return _finish(place, run=run, mark=mark)
    except Exception as error:
        with contextlib.suppress(OSError):
            place.point()
        reason = describe_error(error)[:200]
        place.release()
        return f"{folder}: not delivered ({reason})"


def _finish(place: Spool, *, run: str | None, mark: str | None) -> str | None:
    """Deliver a spool that was taken over, and let go of it."""
    about = spool.read_creation(place.folder)
    if about is None and place.written == 0 and run is None:
        place.remove()  # its owner was about to remove it, or had just begun
        return None
    if run is not None and place.run != run:
        if about is not None and about["mark"] != mark:
            place.release()
            return None
        place.delivered, place.run = 0, run  # its position was lost
    ended = holds_end(place)
    if ended and place.delivered >= place.written:
        place.remove()  # its owner was about to, and everything has arrived
        return None
    name = place.folder.parent.name if about is None else str(about["name"])
    state = "delivered"
    if not ended:
        end = _read_end(place.run)
        if end is None:
            end = {"end": "KILLED", "time": place.last_beat()}
            place.append(*_list_left(place.folder))
            state = "was killed: KILLED"
        place.append(end)
    damaged = count_damaged(place)
    root = place.folder.parent if place.folder.name == "spool" else spool.HOME.absolute().parent
    mark = (mark or "") if about is None else about["mark"]
    journal = Journal(place, mark=mark or "", pace=Pace(), retry=True, root=root)
    journal.deliver()
    if damaged:
        state += f", but {damaged} damaged lines of its queue could not be read"
    if journal.error:
        state += f", but the store refused something ({journal.error})"
    return f"{name} {state}"


def _read_end(run: str | None) -> Message | None:
    """Return how a run ended that somebody else closed, as the one does whose copy a spool is."""
    if run is None:
        return None
    about = ask_patiently(lambda: MlflowClient().get_run(run)).info
    if about.status not in ("FINISHED", "FAILED"):
        return None
    return {"end": about.status, "time": about.end_time}


def _list_left(folder: Path) -> list[Message]:
    """Return messages for the files that a killed run left beside its spool."""
    messages: list[Message] = []
    if folder.name == "spool":
        if (folder.parent / "config.yaml").is_file():
            messages.append({"file": "../config.yaml", "target": None})
        if (folder.parent / "record" / "record.json").is_file():
            messages.append({"folder": "../record", "target": "record"})
    return messages
