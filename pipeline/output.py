"""What a process prints: a closed, full or broken stdout stops no training, and it can be quiet."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from typing import Any


class _Forgiving(io.FileIO):
    """A file descriptor that takes what it cannot write for written."""

    def write(self, data: Any) -> int:
        """Write, or lose, some bytes."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def be_quiet() -> None:
    """Let this process print nothing on stdout any more, but for what `print_last` prints."""
    if not isinstance(sys.stdout, _Nowhere):
        sys.stdout = _Nowhere(sys.stdout)


def print_last(line: str) -> None:
    """Print the last line of a command, also where it is quiet."""
    stream = sys.stdout
    print(line, file=stream.stdout if isinstance(stream, _Nowhere) else stream, flush=True)


class _Nowhere(io.TextIOBase):
    """A stdout that loses what is printed; `stdout` is the one in whose place it stands."""

    def __init__(self, stdout: Any) -> None:
        self.stdout = stdout

    def writable(self) -> bool:
        """Whether it can be written to."""
        return True

    def write(self, text: str) -> int:
        """Lose some text."""
        return len(text)


def guard_output() -> None:
    """Let this process write to stdout and stderr without an error, whatever became of them.

    A descriptor that is closed leads to nowhere from now on, so that no other file gets its number.
    What the terminal's encoding does not have is written as an escape. NumPy's warnings of numbers
    out of range are not shown: a training that diverges is told of in words.
    """
    for problem in ("overflow", "invalid value", "divide by zero"):
        warnings.filterwarnings("ignore", f"{problem} encountered", RuntimeWarning)
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
            try:
                number = stream.fileno()
            except (OSError, ValueError):  # a notebook's or a test's own, which is no file
                continue
        raw = _Forgiving(number, "wb", closefd=False)
        text = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=getattr(stream, "encoding", None) or "utf-8",
            errors="backslashreplace",
            line_buffering=name == "stderr" or raw.isatty(),
        )
        setattr(sys, name, text)
