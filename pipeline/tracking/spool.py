"""What a run still has to tell its tracking store: on disk, in order; knows no MLflow.

A spool is a folder of three files. ``queue.jsonl`` grows by one line a message. ``position.jsonl``
says how much of it was delivered, and the id the store gave the run. ``alive`` is locked by the
process that owns the spool for as long as it lives, and touched every few seconds: a lock that is
free means that the owner is dead, whatever ended it. ``refused.jsonl`` holds what the store refused
for good, with its reason; nobody delivers it.

Each file may be damaged. A line that is no JSON object is passed over and counted; a position that
cannot be right is passed over too, and what is delivered twice counts once.
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
_FOREIGN = ("record", "plots", "artifacts", "evidence", "data")  # folders that hold no spool


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
    OSError
        If something that is no file lies where a file should.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._alive = FileLock(self.folder / "alive", timeout=0, thread_local=False)
        self._alive.acquire()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        try:
            self._queue = os.open(self.folder / "queue.jsonl", flags, 0o644)
        except OSError:
            self._alive.release()
            raise
        try:
            self._position = os.open(self.folder / "position.jsonl", flags, 0o644)
        except OSError:  # a folder in its place; without it everything is delivered again
            self._position = -1
        self._writing = threading.Lock()
        data = (self.folder / "queue.jsonl").read_bytes()
        self.written = data.rfind(b"\n") + 1
        self.torn = self.written < len(data)  # a crash cut the last line short
        os.ftruncate(self._queue, self.written)
        self.delivered, self.run = read_position(self.folder)

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
        """Yield the messages from `start` (what is not delivered), and where each one ends.

        What is damaged comes as an empty message.
        """
        end = self.delivered if start is None else start
        with (self.folder / "queue.jsonl").open("rb") as file:
            file.seek(end)
            data = file.read(self.written - end)
        for line in data.split(b"\n")[:-1]:
            end += len(line) + 1
            yield _parse_line(line) or {}, end

    def advance(self, end: int, run: str | None) -> None:
        """Note that everything up to `end` is delivered; a full disk only makes it lag."""
        self.delivered, self.run = end, run
        with contextlib.suppress(OSError):
            line = json.dumps({"offset": end, "run": run}).encode() + b"\n"
            os.write(self._position, line)

    def set_aside(self, message: Message, reason: str) -> None:
        """Keep a message that the store refused for good beside the queue, with the reason."""
        line = json.dumps({"reason": reason, "message": message}) + "\n"
        with contextlib.suppress(OSError), (self.folder / "refused.jsonl").open("a") as file:
            file.write(line)

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
        """Leave a note in `HOME`, so that the spool is found though the store knows nothing.

        It holds the way from `HOME`, which a move of ``outputs`` does not change. Whoever is killed
        here has left nothing that only the note leads to.
        """
        if self.folder.parent != HOME.absolute() and not self._note().exists():
            way = os.path.relpath(self.folder, HOME.absolute())
            HOME.mkdir(parents=True, exist_ok=True)
            self._note().write_bytes(os.fsencode(way))

    def unpoint(self) -> None:
        """Take that note away: the store knows the run, and its heartbeat says where this is."""
        with contextlib.suppress(OSError):  # there may be none
            self._note().unlink(missing_ok=True)

    def _note(self) -> Path:
        """Return the path of the spool's note in `HOME`, named after its folder."""
        return HOME / f"{uuid.uuid5(uuid.NAMESPACE_URL, str(self.folder)).hex}.path"

    def release(self) -> None:
        """Let go of the files; they stay for whoever delivers them."""
        self._close()
        self._alive.release()

    def remove(self) -> None:
        """Delete the files: everything is delivered.

        Where the queue cannot be deleted the position stays, which says that nothing waits.
        """
        self._close()
        with contextlib.suppress(OSError):
            (self.folder / "queue.jsonl").unlink()
            (self.folder / "position.jsonl").unlink()
        self._alive.release()
        (self.folder / "alive").unlink(missing_ok=True)
        self.unpoint()
        with contextlib.suppress(OSError):  # somebody else's file, or gone already
            self.folder.rmdir()

    def _close(self) -> None:
        """Close the files of the queue and its position."""
        os.close(self._queue)
        if self._position >= 0:
            os.close(self._position)


def take_over(folder: Path) -> Spool | None:
    """Return the spool of a dead owner, or None where there is none or its owner is alive.

    Raises
    ------
    OSError
        If something that is no file lies where its queue or its lock should.
    """
    if not holds_queue(folder):
        return None
    try:
        return Spool(folder)
    except Timeout:
        return None


def holds_queue(folder: Path) -> bool:
    """Whether a queue lies in a folder, or what was put in its place."""
    return os.path.lexists(folder / "queue.jsonl")


def list_waiting() -> list[Path]:
    """Return the spools below `HOME`, or noted there, that were not removed."""
    spools = []
    for entry in sorted(HOME.glob("*")) if HOME.is_dir() else ():
        try:
            folder = entry if entry.is_dir() else HOME / os.fsdecode(entry.read_bytes())
            if holds_queue(folder):
                spools.append(Path(os.path.abspath(folder)))
            elif entry.suffix == ".path" and entry.is_file():
                entry.unlink()  # its run's folder was deleted
        except (OSError, ValueError):  # it can be no path; `find_spools` looks everywhere
            continue
    return spools


def find_spools(root: Path, *, file: str = "queue.jsonl") -> list[Path]:
    """Return every spool below a folder; `list_waiting` is faster, and knows what was noted."""
    spools = []
    for name, folders, files in os.walk(root):
        if file in [*files, *folders]:
            spools.append(Path(name).absolute())
        folders[:] = [f for f in folders if f not in _FOREIGN and f != "queue.jsonl"]
    return sorted(spools)


def lags(folder: Path) -> bool:
    """Whether a spool, whoever owns it, holds more than was delivered, or cannot be read."""
    queue = folder / "queue.jsonl"
    try:
        return queue.stat().st_size > read_position(folder)[0] or not queue.is_file()
    except FileNotFoundError:
        return False
    except OSError:
        return True


def is_owned(folder: Path) -> bool:
    """Whether the process that owns a spool is alive."""
    lock = FileLock(folder / "alive", timeout=0)
    try:
        with lock:
            return False
    except Timeout:
        return True
    except OSError:
        return False


def holds_end_of(run: str, folder: Path) -> bool:
    """Whether a spool, whoever owns it, is this run's and says that it ended."""
    with contextlib.suppress(OSError):
        lines = (folder / "queue.jsonl").read_bytes().split(b"\n")
        ended = any("end" in (_parse_line(line) or ()) for line in lines)
        return ended and read_position(folder)[1] == run
    return False


def is_empty(folder: Path) -> bool:
    """Whether nothing was ever written to the queue of a spool."""
    with contextlib.suppress(OSError):
        return (folder / "queue.jsonl").stat().st_size == 0
    return False


def read_creation(folder: Path) -> dict[str, Any] | None:
    """Return what a spool's first message says of its run, None where that is damaged."""
    with contextlib.suppress(OSError), (folder / "queue.jsonl").open("rb") as file:
        about = (_parse_line(file.readline()) or {}).get("create")
        return about if isinstance(about, dict) and isinstance(about.get("mark"), str) else None
    return None


def read_position(folder: Path) -> tuple[int, str | None]:
    """Return how much of a queue is delivered, and the run's id.

    Of the lines that can be right the last one counts: a whole number of lines that are there, and
    an id. Where there is none, nothing is known to be delivered.
    """
    try:
        lines = (folder / "position.jsonl").read_bytes().splitlines()
        with (folder / "queue.jsonl").open("rb") as queue:
            size = queue.seek(0, os.SEEK_END)
            for line in reversed(lines):
                position = _parse_line(line) or {}
                offset, run = position.get("offset"), position.get("run")
                if not isinstance(run, str) or not run.isalnum() or type(offset) is not int:
                    continue
                if 0 < offset <= size:
                    queue.seek(offset - 1)
                    if queue.read(1) == b"\n":
                        return offset, run
    except OSError:
        pass
    return 0, None


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a line, None where it holds none; NULs around it are no harm."""
    with contextlib.suppress(ValueError, RecursionError):
        message = json.loads(line.strip(b"\0\r\n ").decode())
        return message if isinstance(message, dict) and message else None
    return None
