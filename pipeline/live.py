"""A sweep while it runs: what each job leaves of itself on disk, and a live table made of it.

Not to be confused with a sweep's books: how a job ended is read from the store. A job, in whatever
process it runs, writes one small file; the main process reads them all a few times a second. So no
job waits for the table, and one that was killed is known by its process. On a terminal there is a
table, and whatever is written there meanwhile, by any process, appears above it; elsewhere a line
when a job starts and when it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

State = Mapping[str, Any]
Progress = Callable[[int], contextlib.AbstractContextManager[Callable[[int, float], None]]]

_PAUSE = 0.5  # seconds between two looks, and between two words of a job
_MOST = 12  # jobs in the table that have ended
_FIRST = 0.05  # of a job; before so much is done, most of the time went into starting
_AROUND = 7  # lines that the table has besides its rows, and one for the prompt
_STYLES = {"done": "green", "failed": "bold red", "killed": "bold red", "stopped": "yellow"}


class Job:
    """What one job tells of itself; a copy of it works in another process, too.

    Parameters
    ----------
    folder
        Where the jobs of the sweep leave their files.
    lines
        Whether it also prints how far training is.
    """

    def __init__(self, folder: Path, *, number: int, name: str, lines: bool) -> None:
        self._file = folder / f"{number}.json"
        self._lines = lines
        self._about: dict[str, Any] = {
            "name": name, "state": "running", "host": socket.gethostname(), "pid": os.getpid(),
            "start": time.time(), "end": None, "step": 0, "total": 0, "loss": None, "note": "",
        }  # fmt: skip

    def _tell(self, **news: Any) -> None:
        self._about |= news
        with contextlib.suppress(OSError):  # a full disk is told of by what matters
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps(self._about))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Tell that the job runs, and then how it ended."""
        self._tell()
        state = "failed"
        try:
            yield
            state = "done"
        except KeyboardInterrupt:
            state = "stopped"
            raise
        finally:
            with contextlib.suppress(OSError, ValueError):  # what a process of its own told
                self._about |= json.loads(self._file.read_text())
            self._tell(state=state, end=time.time())

    def note(self, text: str) -> None:
        """Say why there was nothing to do."""
        self._tell(note=text)

    @contextlib.contextmanager
    def progress(self, steps: int) -> Iterator[Callable[[int, float], None]]:
        """Take what a training of so many steps tells, and write it down now and then."""
        from pipeline import terminal

        due = 0.0
        last: tuple[int, float | None] = (0, None)
        printed = terminal.progress(steps) if self._lines else contextlib.nullcontext(None)
        with printed as line:

            def told(step: int, loss: float) -> None:
                nonlocal due, last
                last = step, float(loss)
                if line is not None:
                    line(step, loss)
                now = time.monotonic()
                if now >= due:
                    due = now + _PAUSE
                    self._tell(step=step, loss=last[1])

            self._tell(total=steps)
            try:
                yield told
            finally:
                self._tell(step=last[0], loss=last[1])


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
        self._folder = folder
        self._title = title
        self._total = total
        self._states: dict[int, State] = {}
        self._told: dict[int, str] = {}
        self._looking = threading.Lock()
        self._ended = threading.Event()
        self._screen: _Screen | None = None
        if sys.stdout.isatty() and os.isatty(1) and not Console().is_dumb_terminal:
            self._screen = _Screen()
        self._thread = threading.Thread(target=self._loop, name="board", daemon=True)
        self._thread.start()

    @property
    def on_screen(self) -> bool:
        """Whether there is a table, so that nothing else need show how far a job is."""
        return self._screen is not None

    def _loop(self) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone
            while not self._ended.wait(_PAUSE):
                self._look()

    def look(self) -> None:
        """Print the lines of what is new at once, where there is no table."""
        if self._screen is None:
            with contextlib.suppress(OSError):
                self._look()

    def _look(self) -> None:
        with self._looking:
            read(self._folder, self._states)
            if self._screen is not None:
                self._screen.draw(self._table)
                return
            for line in self._news():
                sys.stdout.write(line + "\n")
                sys.stdout.flush()

    def _table(self, lines: int) -> RenderableType:
        about = {"title": self._title, "total": self._total, "now": time.time()}
        return table(self._states, **about, rows=lines - _AROUND)  # type: ignore[arg-type]

    def _news(self) -> Iterator[str]:
        """Yield a line for each job that started or ended since the last time."""
        for number, state in sorted(self._states.items()):
            if self._told.get(number) == state["state"]:
                continue
            self._told[number] = state["state"]
            if state["end"] is None and state["state"] == "running":
                yield f"job {number} started: {state['name']}"
                continue
            took = f" in {span(state['end'] - state['start'])}" if state["end"] else ""
            counted = counts(self._states, total=self._total, now=time.time())
            note = f", {state['note']}" if state["note"] else ""
            yield f"job {number} {state['state']}{took}: {state['name']}{note}  ({counted})"

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
                print(f"{self._title}: {counts(self._states, total=self._total, now=None)}")


class _Screen:
    """The terminal while a table is on it; what is written there goes above the table.

    The descriptors of stdout and stderr themselves lead into a file meanwhile, so that this holds
    for workers and libraries, too. It lies in memory: no disk can fill up, no pipe can break.
    """

    def __init__(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._kept = {number: os.dup(number) for number in (1, 2) if os.isatty(number)}
        self._aside = _file_in_memory()
        self._read, self._rest = 0, b""
        self._console = Console(file=os.fdopen(self._kept[1], "w", closefd=False))
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False,
            redirect_stderr=False,
        )  # fmt: skip
        self._live.start()
        self._console.show_cursor(True)  # whoever is killed cannot bring it back
        for number in self._kept:
            os.dup2(self._aside, number)

    def draw(self, made: Callable[[int], RenderableType]) -> None:
        """Print what was written since the last time, and below it what is made for its lines."""
        columns, lines = os.get_terminal_size(self._kept[1])
        self._console.size = ConsoleDimensions(columns or 80, lines or 24)
        self._above()
        self._live.update(made(self._console.height), refresh=True)

    def _above(self, *, rest: bool = False) -> None:
        size = os.fstat(self._aside).st_size - self._read
        if size > 0:
            found = os.pread(self._aside, size, self._read)
            self._read += len(found)
            self._rest += found
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
            for number, kept in self._kept.items():
                os.dup2(kept, number)
            for number in (*self._kept.values(), self._aside):
                os.close(number)


def _file_in_memory() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("twingrad")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def read(folder: Path, states: dict[int, State]) -> None:
    """Bring `states`, by the jobs' numbers, up to what lies in a folder."""
    host = socket.gethostname()
    for path in folder.glob("*.json"):
        number = int(path.stem)
        known = states.get(number)
        if known is not None and known["end"] is not None:
            continue
        with contextlib.suppress(OSError, ValueError):  # it is just being written
            states[number] = json.loads(path.read_text())
        state = states.get(number)
        if state and state["end"] is None and state["host"] == host and not _alive(state["pid"]):
            states[number] = {**state, "state": "killed"}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def left(states: Mapping[int, State], *, total: int, now: float) -> float | None:
    """Return how many seconds a sweep still needs, None as long as nothing tells.

    What was finished before, or did not get to its end, says nothing about the others' pace.
    """
    runs = [state for state in states.values() if state["state"] == "running"]
    part = sum(state["step"] / state["total"] for state in runs if state["total"])
    done = sum(s["state"] == "done" and s["total"] > 0 for s in states.values()) + part
    if done < _FIRST:
        return None
    elapsed = now - min(state["start"] for state in states.values())
    return float(elapsed * (max(total - len(states), 0) + len(runs) - part) / done)


def counts(states: Mapping[int, State], *, total: int, now: float | None) -> str:
    """Say how many jobs are done, failed and running, and until the end how long the rest takes."""
    kinds = [state["state"] for state in states.values()]
    said = [f"{kinds.count('done')} of {max(total, len(kinds))} done"]
    others = [kind for kind in ("failed", "killed", "stopped") if kind in kinds]
    said += [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(["failed", *others])]
    if "running" in kinds:
        said.append(f"{kinds.count('running')} running")
    seconds = None if now is None else left(states, total=total, now=now)
    if seconds:
        said.append(f"about {span(seconds)} left")
    return ", ".join(said)


def table(
    states: Mapping[int, State], *, title: str, total: int, now: float, rows: int
) -> RenderableType:
    """Return what a terminal shows of a sweep: a line for all of it, and a row a job, so many.

    Those that run come first, then what ended last, failures before the others.
    """
    running = sorted(n for n, state in states.items() if state["state"] == "running")
    ended = [n for n, state in states.items() if state["state"] != "running"]
    ended.sort(key=lambda n: (states[n]["state"] == "done", -(states[n]["end"] or now)))
    shown = [*running, *ended[:_MOST]][: max(rows, 1)]
    jobs = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), expand=True)
    for name in ("job", "name", "", "step", "loss", "time"):
        wide = name == "name"
        jobs.add_column(
            name, no_wrap=True, overflow="ellipsis", ratio=1 if wide else None,
            justify="right" if name in ("job", "step", "loss", "time") else "left",
        )  # fmt: skip
    for number in shown:
        state = states[number]
        bar: RenderableType = Text(state["state"], style=_STYLES.get(state["state"], ""))
        step = ""
        if state["state"] == "running":
            bar = ProgressBar(total=state["total"] or 1, completed=state["step"], width=16)
            step = f"{state['step']}/{state['total']}" if state["total"] else "starts"
        loss = "" if state["loss"] is None else f"{state['loss']:.4g}"
        took = span((state["end"] or now) - state["start"])
        name = f"{state['name']}, {state['note']}" if state["note"] else state["name"]
        jobs.add_row(str(number), Text(name), bar, step, loss, took)
    over = Table.grid(padding=(0, 2, 0, 0))
    whole = ProgressBar(total=max(total, 1), completed=len(ended), width=24)
    counted = counts(states, total=total, now=now)
    over.add_row(Text(title, style="bold"), whole, Text(counted))
    more = len(states) - len(shown)
    below = [Text(f"and {more} more", style="dim")] if more > 0 else []
    return Group(over, jobs, *below)


def span(seconds: float) -> str:
    """Write a time in words, in two units at most."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
