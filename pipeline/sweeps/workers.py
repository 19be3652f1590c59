"""Jobs of a sweep, in whatever process they run: told of, stopped, and noted where they failed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig

from pipeline import storage
from pipeline.output import guard_output
from pipeline.redact import redact
from pipeline.sweeps.opened import GRACE, JOBS, RUNNING, OpenSweep, find_open_sweep

if TYPE_CHECKING:
    from pipeline.sweeps.live.job import Job


@contextlib.contextmanager
def tell_job(name: str) -> Iterator[Job]:
    """Tell the sweep's table of this job, in whatever process it runs, from start to end."""
    from pipeline.sweeps.live.job import Job

    hydra, sweep = HydraConfig.get(), find_open_sweep()
    board = sweep.board if sweep is not None else None
    folder = Path(hydra.runtime.cwd, hydra.sweep.dir, RUNNING, JOBS)
    with contextlib.suppress(OSError):  # now, since who is killed cannot do it at its end
        redact_multirun(folder.parents[1])
    lines = board is not None and not board.on_screen  # of several processes they would mix
    job = Job(folder, number=hydra.job.num, name=redact(name), lines=lines)
    look = board.look if board is not None else lambda: None
    try:
        with job.running():
            look()
            yield job
    finally:
        look()


@contextlib.contextmanager
def in_worker(stop: Callable[[int, Any], None]) -> Iterator[bool]:
    """Let the main process stop this job, where it runs in another process than that.

    Parameters
    ----------
    stop
        Signal handler that raises what ends the job.

    Yields
    ------
    bool
        Whether the job shall run at all: not if the sweep was stopped before it began.
    """
    if find_open_sweep() is not None:
        yield True
        return
    guard_output()
    hydra = HydraConfig.get()
    with contextlib.suppress(OSError):
        os.chdir(hydra.runtime.cwd)
    folder = Path(hydra.runtime.cwd, hydra.sweep.dir, RUNNING)
    folder.mkdir(parents=True, exist_ok=True)
    mine, asked, ended = folder / str(hydra.job.num), folder / "stop", threading.Event()
    mine.write_text(f"{socket.gethostname()} {os.getpid()}")
    main = threading.main_thread().ident or 0

    def watch() -> None:
        while not ended.wait(0.25):
            if asked.exists():
                signal.pthread_kill(main, signal.SIGTERM)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    before = signal.signal(signal.SIGTERM, stop)
    watcher.start()
    try:
        yield not asked.exists()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ended.set()
        watcher.join()
        signal.signal(signal.SIGTERM, before)
        mine.unlink(missing_ok=True)


def ask_jobs_to_stop(sweep: OpenSweep) -> None:
    """Tell the jobs in other processes to save what they hold, and to end; wait for none."""
    if sweep.deadline is None:
        sweep.deadline = time.monotonic() + GRACE
    with contextlib.suppress(OSError):  # where nothing can be written, no job has begun
        sweep.running.mkdir(parents=True, exist_ok=True)
        (sweep.running / "stop").touch()


def must_wait_for_jobs(sweep: OpenSweep) -> bool:
    """Whether jobs that were asked to stop still run in other processes, and have time to."""
    with contextlib.suppress(OSError):
        if sweep.deadline is not None and time.monotonic() < sweep.deadline:
            return any(map(_runs, sweep.running.iterdir()))
    return False


def _runs(file: Path) -> bool:
    """Whether the job that wrote a file is still there, as far as this machine can tell."""
    with contextlib.suppress(OSError, ValueError):
        host, pid = file.read_text().split()
        if host != socket.gethostname():
            return True
        os.kill(int(pid), 0)
        return True
    return False


def note_failure(
    parent: str | None, *, tracked: Any, folder: Path, name: str, error: Exception
) -> None:
    """Leave a FAILED child for a job that failed before it had opened a run of its own.

    Parameters
    ----------
    tracked
        The job's config of the group `tracking`.
    folder
        The job's own; an opened run has left its config or its spool there.
    """
    if parent is None or any((folder / part).exists() for part in ("config.yaml", "spool")):
        return
    from pipeline.tracking.run import add_failed_run
    from pipeline.tracking.store import prepare_store

    prepare_store(tracked.uri, started=True)
    tags = {"kind": "run", "sweep": parent, "error": f"{type(error).__name__}: {error}"}
    add_failed_run(parent, name=name, tags=tags)


def redact_multirun(folder: Path) -> None:
    """Take passwords of URIs out of the file that Hydra writes of a sweep's config."""
    path = folder / "multirun.yaml"
    if not path.is_file():
        return
    text = path.read_text()
    if redact(text) != text:
        storage.write_atomic(path, lambda file: file.write(redact(text).encode()))
