"""The terminal while a sweep's table is on it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, ConsoleDimensions, RenderableType
from rich.live import Live
from rich.text import Text


class Screen:
    """The terminal while a table is on it; what is written there goes above the table.

    The descriptors of stdout and stderr themselves lead into a file meanwhile, so that this holds
    for workers and libraries, too. The file lies on disk: what a sweep printed last can be read
    there after it was killed.

    Parameters
    ----------
    path
        The file; what is in it is deleted.

    Raises
    ------
    OSError
        If the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        self._aside = os.open(path, flags, 0o666)
        sys.stdout.flush()
        sys.stderr.flush()
        self._terminals = {number: os.dup(number) for number in (1, 2) if os.isatty(number)}
        self._read, self._rest = 0, b""
        self._console = Console(file=os.fdopen(self._terminals[1], "w", closefd=False))
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False,
            redirect_stderr=False,
        )  # fmt: skip
        self._live.start()
        self._console.show_cursor(True)  # whoever is killed cannot bring it back
        for number in self._terminals:
            os.dup2(self._aside, number)

    def draw(self, make_table: Callable[[int], RenderableType]) -> None:
        """Print what was written since the last time, and below it a table made for its lines."""
        columns, lines = os.get_terminal_size(self._terminals[1])
        self._console.size = ConsoleDimensions(columns or 80, lines or 24)
        self._above()
        self._live.update(make_table(self._console.height), refresh=True)

    def _above(self, *, rest: bool = False) -> None:
        """Print above the table what was written since; with `rest` an unfinished line, too."""
        size = os.fstat(self._aside).st_size - self._read
        if size > 0:
            data = os.pread(self._aside, size, self._read)
            self._read += len(data)
            self._rest += data
        whole, newline, self._rest = self._rest.rpartition(b"\n")
        if rest and self._rest:
            whole, newline, self._rest = whole + newline + self._rest, b"\n", b""
        if newline:
            text = Text.from_ansi(whole.decode(errors="replace"))
            self._console.print(text, soft_wrap=True, highlight=False)

    def close(self) -> None:
        """Take the table away, and lead stdout and stderr to the terminal again."""
        try:
            sys.stdout.flush()
            sys.stderr.flush()
            with contextlib.suppress(OSError):
                self._live.update("")
                self._live.stop()
                self._above(rest=True)
        finally:
            for number, terminal in self._terminals.items():
                os.dup2(terminal, number)
            for number in (*self._terminals.values(), self._aside):
                os.close(number)
