"""What a run still has to tell its tracking store: on disk, in order; knows no MLflow.

A spool is a folder of three files. ``queue.jsonl`` grows by one line a message. ``position.jsonl``
says how much of it was delivered, and the id the store gave the run. ``alive`` is locked by the
process that owns the spool for as long as it lives, and touched every few seconds: a lock that is
free means that the owner is dead, whatever ended it. A line that a crash cut short is not there.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

HOME = Path("outputs/spool")  # spools of runs without a folder, and pointers to those that wait
Message = Mapping[str, Any]


def now_ms() -> int:
    """Return the time in milliseconds, as MLflow counts it."""
    return int(time.time() * 1000)


class Spool:
    """One run's messages, written by the process that owns it and delivered by whoever can.

    Parameters
    ----------
    folder
        Made if it is not there.

    Raises
    ------
    filelock.Timeout
        If its owner is alive.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._alive = FileLock(self.folder / "alive", timeout=0, thread_local=False)
        self._alive.acquire()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        self._queue = os.open(self.folder / "queue.jsonl", flags, 0o644)
        self._place = os.open(self.folder / "position.jsonl", flags, 0o644)
        self._writing = threading.Lock()
        self.written = self._whole()
        os.ftruncate(self._queue, self.written)
        self.delivered, self.run = _position(self.folder)

    def _whole(self) -> int:
        """Return where the last line ends."""
        return (self.folder / "queue.jsonl").read_bytes().rfind(b"\n") + 1

    def append(self, *messages: Message) -> None:
        """Add messages, whole or not at all.

        Raises
        ------
        OSError
            Naming the file, for instance if the disk is full.
        """
        data = b"".join(json.dumps(message).encode() + b"\n" for message in messages)
        with self._writing:
            try:
                done = 0
                while done < len(data):
                    done += os.write(self._queue, data[done:])
            except OSError as error:
                os.ftruncate(self._queue, self.written)
                path = str(self.folder / "queue.jsonl")
                raise OSError(error.errno, error.strerror, path) from None
            self.written += len(data)

    def messages(self, start: int | None = None) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield the messages from `start` (what is not delivered), and where each one ends."""
        end = self.delivered if start is None else start
        with (self.folder / "queue.jsonl").open("rb") as file:
            file.seek(end)
            data = file.read(self.written - end)
        for line in data.splitlines(keepends=True):
            end += len(line)
            yield json.loads(line), end

    def holds(self, kind: str) -> bool:
        """Whether a message of this kind was ever written."""
        return any(kind in message for message, _ in self.messages(0))

    def advance(self, end: int, run: str | None) -> None:
        """Note that everything up to `end` is delivered; a full disk only makes it lag."""
        self.delivered, self.run = end, run
        with contextlib.suppress(OSError):
            os.write(self._place, json.dumps({"offset": end, "run": run}).encode() + b"\n")

    def beat(self) -> None:
        """Say that the owner is alive, and make what was written safe against a power cut."""
        with contextlib.suppress(OSError):
            os.utime(self.folder / "alive")
            os.fsync(self._queue)

    def last_beat(self) -> int:
        """Return when the owner was last known to be alive, in milliseconds."""
        files = [self.folder / name for name in ("alive", "queue.jsonl")]
        return int(max(path.stat().st_mtime for path in files) * 1000)

    def point(self) -> None:
        """Leave a note in `HOME`, so that the spool is found though the store knows nothing."""
        if self.folder.parent != HOME.absolute() and not self._note().exists():
            HOME.mkdir(parents=True, exist_ok=True)
            self._note().write_text(str(self.folder))

    def unpoint(self) -> None:
        """Take that note away: the store knows the run, and its heartbeat says where this is."""
        with contextlib.suppress(OSError):  # there may be none
            self._note().unlink(missing_ok=True)

    def _note(self) -> Path:
        return HOME / f"{uuid.uuid5(uuid.NAMESPACE_URL, str(self.folder)).hex}.path"

    def release(self) -> None:
        """Let go of the files; they stay for whoever delivers them."""
        os.close(self._queue)
        os.close(self._place)
        self._alive.release()

    def remove(self) -> None:
        """Delete the files: everything is delivered."""
        os.close(self._queue)
        os.close(self._place)
        for name in ("queue.jsonl", "position.jsonl"):
            (self.folder / name).unlink(missing_ok=True)
        self._alive.release()
        (self.folder / "alive").unlink(missing_ok=True)
        self.unpoint()
        with contextlib.suppress(OSError):  # somebody else's file, or gone already
            self.folder.rmdir()


def take_over(folder: Path) -> Spool | None:
    """Return the spool of a dead owner, or None where there is none or its owner is alive."""
    if not (folder / "queue.jsonl").is_file():
        return None
    try:
        return Spool(folder)
    except Timeout:
        return None


def waiting() -> list[Path]:
    """Return the spools below `HOME`, or noted there, that hold what was not delivered."""
    found = []
    for entry in sorted(HOME.glob("*")) if HOME.is_dir() else ():
        with contextlib.suppress(OSError):
            folder = entry if entry.is_dir() else Path(entry.read_text())
            if (folder / "queue.jsonl").is_file():
                found.append(folder.absolute())
            elif entry.is_file():
                entry.unlink()  # its run's folder was deleted
    return found


def lags(folder: Path) -> bool:
    """Whether a spool, whoever owns it, holds more than was delivered."""
    with contextlib.suppress(OSError):
        return (folder / "queue.jsonl").stat().st_size > _position(folder)[0]
    return False


def holds_end_of(run: str, folder: Path) -> bool:
    """Whether a spool, whoever owns it, is this run's and says that it ended."""
    with contextlib.suppress(OSError, ValueError):
        lines = (folder / "queue.jsonl").read_bytes().splitlines()
        return _position(folder)[1] == run and any("end" in json.loads(line) for line in lines)
    return False


def _position(folder: Path) -> tuple[int, str | None]:
    """Return how much of a queue is delivered, and the run's id."""
    try:
        lines = (folder / "position.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return 0, None
    for line in reversed(lines):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            place = json.loads(line)
            return place["offset"], place["run"]
    return 0, None
