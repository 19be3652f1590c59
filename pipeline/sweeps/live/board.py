"""What the main process shows of its sweep while it runs: a table, or lines."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, RenderableType

from pipeline.sweeps.live.job import PAUSE
from pipeline.sweeps.live.screen import Screen
from pipeline.sweeps.live.table import State, count_jobs, make_table, read_states, tell_span

OUTPUT = "output.log"  # in the jobs' folder: what any process printed while there was a table
_AROUND = 7  # lines that the table has besides its rows, and one for the prompt


class Board:
    """What the main process shows of its sweep, from its start to `close`.

    Parameters
    ----------
    folder
        Where the jobs leave their files.
    total
        How many jobs there will be.
    """

    def __init__(self, folder: Path, *, title: str, total: int) -> None:
        """Show the jobs from now on: a table headed `title` on a terminal, or else lines."""
        self._folder = folder
        self._title = title
        self._total = total
        self._states: dict[int, State] = {}
        self._printed: dict[int, str] = {}
        self.told: set[str] = set()  # names of jobs whose failure was said
        self._looking = threading.Lock()
        self._ended = threading.Event()
        self._screen: Screen | None = None
        if sys.stdout.isatty() and os.isatty(1) and not Console().is_dumb_terminal:
            with contextlib.suppress(OSError):  # where no file can be made there are lines instead
                self._screen = Screen(folder / OUTPUT)
        self._thread = threading.Thread(target=self._loop, name="board", daemon=True)
        self._thread.start()

    @property
    def on_screen(self) -> bool:
        """Whether there is a table, so that nothing else need show how far a job is."""
        return self._screen is not None

    def _loop(self) -> None:
        """Show what is new every `PAUSE` seconds until `close`; the work of the thread."""
        with contextlib.suppress(OSError):  # the terminal is gone
            while not self._ended.wait(PAUSE):
                self._look()

    def look(self) -> None:
        """Print the lines of what is new at once, where there is no table."""
        if self._screen is None:
            with contextlib.suppress(OSError):
                self._look()

    def _look(self) -> None:
        """Read the jobs' files; draw the table, or print a line for what is new."""
        with self._looking:
            read_states(self._folder, self._states)
            for line, failed in self._news():
                if failed:
                    print(line, file=sys.stderr, flush=True)
                elif self._screen is None:
                    sys.stdout.write(line + "\n")
            sys.stdout.flush()
            if self._screen is not None:
                self._screen.draw(self._table)

    def _table(self, lines: int) -> RenderableType:
        """Return the table for a terminal of so many lines."""
        about = {"title": self._title, "total": self._total, "now": time.time()}
        return make_table(self._states, **about, rows=lines - _AROUND)  # type: ignore[arg-type]

    def _news(self) -> Iterator[tuple[str, bool]]:
        """Yield a line for each job that started or ended since the last time, and if it failed."""
        for number, state in sorted(self._states.items()):
            if self._printed.get(number) == state["state"]:
                continue
            self._printed[number] = state["state"]
            if state["end"] is None and state["state"] == "running":
                yield f"job {number} started: {state['name']}", False
                continue
            took = f" in {tell_span(state['end'] - state['start'])}" if state["end"] else ""
            counted = count_jobs(self._states, total=self._total, now=time.time())
            if state["state"] == "done":
                note = f", {state['note']}" if state["note"] else ""
                yield f"job {number} done{took}: {state['name']}{note}  ({counted})", False
                continue
            self.told.add(state["name"])
            why = f": {state['note']}" if state["note"] else ""
            ended = f"job {number} ({state['name']}) {state['state']}{took}{why}"
            yield f"twingrad: {ended}  ({counted})", True

    def close(self) -> None:
        """Show the last of it, and give the terminal back."""
        self._ended.set()
        self._thread.join()
        try:
            with contextlib.suppress(OSError):
                self._look()
        finally:
            if self._screen is not None:
                self._screen.close()
        if self._screen is not None and self._states:
            with contextlib.suppress(OSError):
                print(f"{self._title}: {count_jobs(self._states, total=self._total, now=None)}")
