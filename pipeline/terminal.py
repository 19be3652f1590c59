"""What a person sees in the terminal: progress, tables, and where things are."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pipeline import report


def console() -> Console:
    """Return a console on today's stdout; piped output is wide enough not to be folded."""
    return Console() if sys.stdout.isatty() else Console(width=200)


@contextlib.contextmanager
def progress(steps: int) -> Iterator[Callable[[int, float], None]]:
    """Show a bar on a terminal, and a line a call where there is none."""
    if not sys.stdout.isatty():

        def line(step: int, loss: float) -> None:
            sys.stdout.write(f"epoch {step:>{len(str(steps))}}/{steps}  loss {loss:.6g}\n")

        yield line
        sys.stdout.flush()
        return
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("loss {task.fields[loss]:.6g}"), console=console()) as bar:
        task = bar.add_task("training", total=steps, loss=float("nan"))
        yield lambda step, loss: bar.update(task, completed=step, loss=loss)
        bar.update(task, completed=steps)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def comparison(result: Any, *, notes: Sequence[str]) -> None:
    """Print the table of runs, and below it one for each pair."""
    out = console()
    header, rows = report.summary(result.records)
    if len(rows) > 2 or out.width < 140:
        out.print(_table(header, rows, title="Runs"))
    else:  # few runs with many numbers read better side by side
        turned = [list(column) for column in zip(header, *rows, strict=True)]
        out.print(_table(turned[0], turned[1:], title="Runs"))
    for (a, b), (verdict, why) in zip(result.pairs, result.verdicts, strict=True):
        header, rows = report.pair_summary(a, b)
        out.print(_table(header, rows, title=f"{a.label()} against {b.label()}"))
        out.print(f"{verdict}: {why}", highlight=False)
    if result.alone:
        names = ", ".join(record.label() for record in result.alone)
        out.print(f"Without a partner: {names}", highlight=False)
    failures(notes)


def failures(notes: Sequence[str]) -> None:
    """Print what failed and why, one line each."""
    for note in notes:
        print(f"failed  {note}", file=sys.stderr)


def where(folder: Path, *, uri: str) -> None:
    """Print where the results are."""
    print(f"plots   {folder / 'plots'}")
    if (folder / "report.html").exists():
        print(f"report  {folder / 'report.html'}")
    print("MLflow  make ui, then http://127.0.0.1:5000" if uri.startswith("sqlite") else "")


def run(record: Any) -> None:
    """Print the numbers of one run."""
    header, rows = report.summary([record])
    turned = [list(column) for column in zip(header, *rows, strict=True)]
    console().print(_table(turned[0], turned[1:], title="Run"))
