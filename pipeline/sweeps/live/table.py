"""What a sweep's jobs left on disk, as a table and as words; plain functions."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

State = Mapping[str, Any]

_MOST = 12  # jobs in the table that have ended
_FIRST = 0.05  # of a job; before so much is done, most of the time went into starting
_STYLES = {"done": "green", "failed": "bold red", "killed": "bold red", "stopped": "yellow"}


def read_states(folder: Path, states: dict[int, State]) -> None:
    """Bring `states`, by the jobs' numbers, up to what lies in a folder."""
    host = socket.gethostname()
    for path in folder.glob("*.json"):
        number = int(path.stem)
        known = states.get(number)
        if known is not None and known["end"] is not None:
            continue
        _read_state(path, number, states)
        state = states.get(number)
        if state and state["end"] is None and state["host"] == host and not _alive(state["pid"]):
            _read_state(path, number, states)  # it may have told its end since, and then gone
            if states[number]["end"] is None:
                states[number] = {**state, "state": "killed"}


def _read_state(path: Path, number: int, states: dict[int, State]) -> None:
    """Bring one job's state up to its file; while that is being written it stays as it is."""
    with contextlib.suppress(OSError, ValueError):
        states[number] = json.loads(path.read_text())


def _alive(pid: int) -> bool:
    """Whether a process of this machine is alive."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def estimate_seconds_left(states: Mapping[int, State], *, total: int, now: float) -> float | None:
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


def count_jobs(states: Mapping[int, State], *, total: int, now: float | None) -> str:
    """Say how many jobs are done, failed and running, and until the end how long the rest takes."""
    kinds = [state["state"] for state in states.values()]
    words = [f"{kinds.count('done')} of {max(total, len(kinds))} done"]
    others = [kind for kind in ("failed", "killed", "stopped") if kind in kinds]
    words += [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(["failed", *others])]
    if "running" in kinds:
        words.append(f"{kinds.count('running')} running")
    seconds = None if now is None else estimate_seconds_left(states, total=total, now=now)
    if seconds:
        words.append(f"about {tell_span(seconds)} left")
    return ", ".join(words)


def make_table(
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
        took = tell_span((state["end"] or now) - state["start"])
        name = f"{state['name']}, {state['note']}" if state["note"] else state["name"]
        jobs.add_row(str(number), Text(name), bar, step, loss, took)
    over = Table.grid(padding=(0, 2, 0, 0))
    whole = ProgressBar(total=max(total, 1), completed=len(ended), width=24)
    counted = count_jobs(states, total=total, now=now)
    over.add_row(Text(title, style="bold"), whole, Text(counted))
    more = len(states) - len(shown)
    below = [Text(f"and {more} more", style="dim")] if more > 0 else []
    return Group(over, jobs, *below)


def tell_span(seconds: float) -> str:
    """Write a time in words, in two units at most."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
