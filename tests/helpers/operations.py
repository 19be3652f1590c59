"""A shim that makes the n-th file operation of a process fail, or ends the process there.

Counted is what changes files below the working directory by way of Python: opening for writing,
writing, renaming, linking, syncing, removing, making folders. SQLite's own operations are C and
tested by SQLite in the same way. Only for processes of their own: `install` cannot be taken back.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from pathlib import Path

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Descriptors that no file name leads to.
_BY_DESCRIPTOR = ("fsync", "fdatasync", "write", "ftruncate")
_BY_NAME = ("rename", "replace", "link", "symlink", "unlink", "remove", "mkdir", "rmdir")
_FREEING = {"unlink", "remove", "rmdir", "rename", "replace"}  # a full disk allows them


def _draw_one_picture() -> None:
    """Let a run draw an empty picture: its file is operated on as any other, and costs nothing."""
    from matplotlib.figure import Figure

    from pipeline.stages import account

    account.draw_overview = lambda *_: Figure(figsize=(1, 1))
    account.draw_run = lambda *_: {"overview": Figure(figsize=(1, 1))}


def install(plan: str, log: str) -> None:
    """Let the process fail as ``"<once|full|kill> <n>"`` says, and list its operations in `log`.

    ``once`` fails operation n alone, ``full`` all from it on that need room, ``kill`` ends the
    process before operation n.
    """
    _draw_one_picture()
    kind, number = plan.split()
    folder = Path.cwd()
    listed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    real_write, real_open, real_os_open = os.write, io.open, os.open
    state = {"count": 0}

    def count(name: str, path: object) -> None:
        state["count"] += 1
        real_write(listed, f"{state['count']} {name} {path}\n".encode())
        if kind == "kill" and state["count"] == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        failing = state["count"] == int(number) or (
            kind == "full" and state["count"] > int(number) and name not in _FREEING
        )
        if kind != "kill" and failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def inside(path: object) -> bool:
        if not isinstance(path, str | os.PathLike):
            return False
        return Path(os.path.abspath(path)).is_relative_to(folder)

    class Raw(io.FileIO):
        def write(self, data, /):
            count("write", self.name)
            return super().write(data)

    def open_counted(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *more, **names):  # fmt: skip
        if not set(mode) & set("wax+") or not inside(file):
            return real_open(file, mode, buffering, encoding, errors, newline, *more, **names)
        count("open", file)
        if "+" in mode or buffering == 0 or more or names:
            return real_open(file, mode, buffering, encoding, errors, newline, *more, **names)
        buffered = io.BufferedWriter(Raw(file, mode.replace("b", "").replace("t", "")))
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)

    def os_open_counted(path, flags, *more, **names):
        if flags & _WRITING and inside(path):
            count("os.open", path)
        return real_os_open(path, flags, *more, **names)

    def named(name):
        real = getattr(os, name)

        def operation(path, *more, **names):
            if inside(path):
                count(name, path)
            return real(path, *more, **names)

        return operation

    def described(name):
        real = getattr(os, name)

        def operation(descriptor, *more):
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if path.startswith("/") and inside(path):  # no pipe, no socket
                count(name, path)
            return real(descriptor, *more)

        return operation

    io.open = builtins.open = open_counted
    for name in _BY_NAME:
        setattr(os, name, named(name))
    for name in _BY_DESCRIPTOR:
        setattr(os, name, described(name))
    os.open = os_open_counted
