"""Where an interrupted job goes on: its place for checkpoints, and whether those are its own."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline import identity, storage
from pipeline.config.types import ConfigError
from pipeline.jobs.job import Job
from pipeline.record import checkpoint
from pipeline.record.trace import NonFiniteLossError

_ALTERED = "its stored config was altered"
_COUNTED = {"curves", "checks", "waited", "best"}  # see `pipeline.stages.train`


class Checkpoints:
    """Where a job's checkpoints are, and when the next one is due.

    Jobs whose identity is the same have one place. Of two that run at the same time only the first
    writes there.
    """

    def __init__(self, job: Job) -> None:
        """Take the folder from the job's identity and the interval from its settings."""
        self.identity = job.identity
        self.folder = checkpoint.HOME / job.identity.key()
        self.every = job.settings.train.checkpoint
        self.epochs, self.updates = job.settings.train.epochs, len(job.rates)
        self.wanted = self.every is not None and job.settings.train.loop == "manual"
        self.about: dict[str, Any] = {}
        self._last = time.monotonic()

    def load(self) -> checkpoint.Checkpoint | None:
        """Return the last checkpoint, None where there is none that this job can go on from."""
        try:
            last = checkpoint.load(self.folder)
            reason = "" if last is None else self._refuse(last)
        except ValueError as error:
            last, reason = None, str(error)
        if reason:
            print(f"twingrad: warning: {reason}; begins anew", file=sys.stderr)
            return None
        return last

    def _refuse(self, last: checkpoint.Checkpoint) -> str:
        """Return why this job cannot go on from a checkpoint; empty if it can."""
        difference = self.identity.tell_difference(last.about)
        if difference:
            return f"{self.folder} was {difference}"
        if _is_altered(last.about):
            return f"{self.folder}: {_ALTERED}"
        misfit = self._find_misfit(last)
        return f"{self.folder} does not fit the job ({misfit})" if misfit else ""

    def _find_misfit(self, last: checkpoint.Checkpoint) -> str:
        """Return what in a checkpoint this job cannot have written; empty if it fits.

        After e of E epochs a job of U updates has e·U/E rows of each kind.
        """
        if not 0 < last.epoch < self.epochs:
            return f"epoch {last.epoch} of {self.epochs}"
        rows, wanted = len(last.rows.get("loss", ())), last.epoch * self.updates // self.epochs
        if rows != wanted:
            return f"{rows} rows after epoch {last.epoch}, not {wanted}"
        counted = last.about.get("counted")
        if not isinstance(counted, Mapping) or not set(counted) >= _COUNTED:
            return "what the training counts is missing"
        if "run" not in last.about or "seconds" not in last.rows:
            return "it is not whole"
        return "" if set(last.named("param")) == set(last.named("first")) else "its parameters"

    @contextlib.contextmanager
    def held(self, *, goes_on: bool) -> Iterator[None]:
        """Keep other processes from the place, and clear it when the job is through.

        Before a job that does not go on from what is there it is cleared, too: the rows of another
        training are no part of its record.
        """
        if not self.wanted:
            yield
            return
        checkpoint.HOME.mkdir(parents=True, exist_ok=True)
        lock = FileLock(checkpoint.HOME / f".{self.folder.name}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:  # the same job runs elsewhere, too
            self.wanted = False
            yield
            return
        try:
            if not goes_on:
                checkpoint.clear(self.folder)
            yield
            checkpoint.clear(self.folder)
        except NonFiniteLossError:
            checkpoint.clear(self.folder)  # it would fail at the same step again
            raise
        finally:
            lock.release()

    def due(self) -> bool:
        """Whether so many seconds have passed since the last one."""
        return self.every is not None and time.monotonic() - self._last >= self.every

    def save(self, *, epoch: int, counted: Mapping[str, Any], **arrays: Any) -> None:
        """Write one; where the one before is damaged, warn and write no more of them."""
        about = {**self.about, **self.identity.as_tags(), "counted": counted}
        try:
            with storage.room_for(self.folder):
                checkpoint.save(self.folder, epoch=epoch, about=about, **arrays)
        except ValueError as error:
            print(f"twingrad: warning: {error}; no more checkpoints", file=sys.stderr)
            self.every = None
            checkpoint.clear(self.folder)
        self._last = time.monotonic()


def find_interrupted(run: str, *, key: str) -> dict[str, Any]:
    """Return who wrote the checkpoint of an interrupted run, by the run's id or folder.

    Raises
    ------
    ConfigError
        If there is none, it was made by other code, or its config is not the one it was made with.
    """
    known = {str(about["run"]): about for about in _list_checkpoints()}
    about = known.get(run) or find_checkpoint(Path(run))
    if about is None:
        there = f"those there are: {', '.join(known)}" if known else "there is none at all"
        raise ConfigError(key, run, f"no checkpoint of such a run in {checkpoint.HOME}; {there}")
    if about.get("code.digest") != identity.code_digest():
        raise ConfigError(key, run, "was made by other code; run it anew")
    if _is_altered(about):
        raise ConfigError(key, run, f"{_ALTERED}; run it anew")
    return about


def find_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return who wrote the checkpoint of the run in a folder, None where there is none."""
    here = str(folder.absolute())
    return next((about for about in _list_checkpoints() if about.get("folder") == here), None)


def _list_checkpoints() -> Iterator[dict[str, Any]]:
    """Yield who wrote each checkpoint that names its run."""
    for folder in sorted(checkpoint.HOME.glob("*/")):
        about = checkpoint.about(folder)
        if about is not None and "run" in about:
            yield about


def refuse_other(job: Job, about: Mapping[str, Any], *, run: str, key: str) -> None:
    """Refuse to go on from a checkpoint that this job would not have written."""
    difference = job.identity.tell_difference(about)
    if difference:
        raise ConfigError(key, run, f"was {difference}; run it anew")


def _is_altered(about: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's config is not the one whose digest it carries."""
    values = about.get("config")
    if not isinstance(values, Mapping):
        return True
    return identity.config_digest(values) != about.get("config.digest")
