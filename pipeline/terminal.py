"""What a person sees in the terminal: progress, tables, and where things are."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pipeline.leaderboard import SeedVerdict, tell_best
from pipeline.naming import name_runs
from pipeline.output import print_last
from pipeline.parity.verdict import Ladder
from pipeline.redact import redact
from pipeline.report.sentences import (
    MOST_NOTES,
    list_covered,
    sort_by_verdict,
    tell_beside,
    tell_leftovers,
    tell_summary,
)
from pipeline.report.tables import summarise_pair, summarise_runs, tabulate_ladder

_COLOURS = {"PASS": "green", "ABSTAIN": "yellow", "FAIL": "bold red", "ERROR": "bold red"}
_WIDE = 130  # columns of a terminal from which on a ladder says in its rows where bounds are from

_NAME = 24  # columns at least for a run's name, which may be folded; numbers are not
_SPARED = ("|", "first loss", "µs/step")  # begin the names of what a narrow table does without

_PAUSE = 0.5  # seconds at least between two flushes of progress lines
_MOST_LADDERS = 4  # of more pairs, a line each
_MOST_ROWS = 40  # of a table of more runs than that, half as many


def console() -> Console:
    """Return a console on today's stdout; piped output is wide enough not to be folded."""
    return Console() if sys.stdout.isatty() else Console(width=200)


@contextlib.contextmanager
def progress(steps: int) -> Iterator[Callable[..., None]]:
    """Show a bar on a terminal, and a line a call where there is none."""
    if not sys.stdout.isatty():
        due = 0.0

        def line(step: int, loss: float, score: tuple[str, float] | None = None) -> None:
            nonlocal due
            shown = f"step {step:>{len(str(steps))}}/{steps}  loss {loss:.6g}{_tell_score(score)}"
            sys.stdout.write(f"{shown}\n")
            if time.monotonic() >= due:  # who follows a file sees a long run go on
                sys.stdout.flush()
                due = time.monotonic() + _PAUSE

        yield line
        sys.stdout.flush()
        return
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("loss {task.fields[loss]:.6g}{task.fields[score]}"),
                  console=console()) as bar:  # fmt: skip
        task = bar.add_task("training", total=steps, loss=float("nan"), score="")
        yield lambda step, loss, score=None: bar.update(
            task, completed=step, loss=loss, score=_tell_score(score)
        )


def _tell_score(score: tuple[str, float] | None) -> str:
    """Return the score of the validation set as a progress line has it; empty before the first."""
    return "" if score is None else f"  val/{score[0]} {score[1]:.6g}"


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, title: str, least: Sequence[int] = ()
) -> Table:
    """Return a table whose columns may be folded, those after the first down to `least`."""
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for i, name in enumerate(header):
        table.add_column(
            name, justify="left" if i == 0 else "right", overflow="fold",
            min_width=least[i] if i and least else None,
        )  # fmt: skip
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _listed(
    out: Console,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str,
    least: Sequence[int] = (),
) -> None:
    """Print a table of runs; of hundreds, the first ones and how many more there are."""
    shown = rows if len(rows) <= _MOST_ROWS else rows[: _MOST_ROWS // 2]
    out.print(_table(header, shown, title=title, least=least))
    if len(rows) > len(shown):
        out.print(Text(f"  {len(rows) - len(shown)} more are in the report.\n"))


def _runs(out: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print the table of runs; what does not fit is left out, and named."""
    words = [max(map(len, name.split())) for name in header]
    columns = list(zip(*rows, strict=True))
    least = [max(word, *map(len, c)) for word, c in zip(words, columns, strict=True)]
    shown_columns, dropped = list(range(len(header))), []
    for spared in _SPARED:
        if min(least[0], _NAME) - least[0] + sum(least[i] + 3 for i in shown_columns) < out.width:
            break
        dropped += [header[i] for i in shown_columns if header[i].startswith(spared)]
        shown_columns = [i for i in shown_columns if not header[i].startswith(spared)]
    shown = [[row[i] for i in shown_columns] for row in rows]
    fitting, least = [header[i] for i in shown_columns], [least[i] for i in shown_columns]
    _listed(out, fitting, shown, title="Runs", least=least)
    if dropped:
        out.print(Text(f"In the report, too wide for here: {', '.join(dropped)}."))


def _ladder(ladder: Ladder, *, width: int) -> tuple[Table, list[str]]:
    """Return the table of the rungs, and what its cells are too short for."""
    header, rows = tabulate_ladder(ladder)
    sources: dict[str, list[str]] = {}
    longer: dict[str, str] = {}
    for row in rows:
        # "own errors of both sides, from equal states" is too long for a cell.
        row[-2] = re.split(r": |, | of ", row[-2])[0]
        if row[-2]:
            sources.setdefault(row[-2], []).append(row[0])
        row[-1], *rest = row[-1].split("; ")
        for more in rest:
            if more not in ladder.sentence():
                longer.setdefault(more, row[0])
    below = [f"{rung.capitalize()}: {more}." for more, rung in longer.items()]
    shown_columns = [i for i, name in enumerate(header) if any(row[i] for row in rows)]
    if width < _WIDE and header.index("bound from") in shown_columns:
        shown_columns.remove(header.index("bound from"))
        parts = (f"{source} ({', '.join(rungs)})" for source, rungs in sources.items())
        below.append(f"Bounds from: {'; '.join(parts)}.")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), collapse_padding=True)
    for i in shown_columns:
        number = header[i] in ("step", "distance", "bound")
        last = header[i] == "why"
        table.add_column(
            header[i], justify="right" if number else "left", no_wrap=not last,
            overflow="fold" if last else "ellipsis",
            max_width=18 if header[i] == "tensor" else None,
        )  # fmt: skip
    for row in rows:
        styles = {1: _COLOURS[row[1]]}
        table.add_row(*(Text(row[i], style=styles.get(i, "")) for i in shown_columns))
    return table, below


def _passed(out: Console, ladder: Ladder, *, pair: str) -> None:
    """Print in one line that a pair passed, and how near to its bound it came where."""
    ratios = [
        (rung.distance / rung.bound, " ".join(part for part in (rung.name, rung.tensor) if part))
        for rung in ladder.rungs
        if rung.bound and rung.distance is not None
    ]
    decided = dict.fromkeys(rung.by for rung in ladder.rungs if rung.by != "bits")
    reach = f"by {' and '.join(decided)}" if decided else "the same bits on every rung"
    if ratios:
        ratio, where = max(ratios)
        reach = f"at most {ratio:.2g} of a bound ({where})"
    accepted = "".join(f"; accepted: {known.name}" for known in ladder.accepted)
    speed = ladder.facts.get("speed", "").partition(" (")[0]
    many = len(ladder.notes)
    notes = f"; {many} note{'s' * (many > 1)}, with parity.show=all" if many else ""
    told = f"  {pair}: {reach}{accepted}{notes}{speed and f'; {speed[0].lower()}{speed[1:]}'}"
    out.print(Text.assemble(("PASS", _COLOURS["PASS"]), told), soft_wrap=not out.is_terminal)


def _judged(out: Console, ladder: Ladder) -> None:
    """Print a pair's ladder, what it comes to, and what is to know besides."""
    table, below = _ladder(ladder, width=out.width)
    out.print(table)
    notes = list(ladder.notes[:MOST_NOTES])
    if len(ladder.notes) > len(notes):
        notes.append(f"{len(ladder.notes) - len(notes)} more notes are in parity.json")
    sentence = ladder.sentence()
    sentence = sentence.removeprefix("PASS") if sentence.startswith("PASS ") else f": {sentence}"
    verdict = Text.assemble((ladder.verdict, _COLOURS[ladder.verdict]), sentence)
    beside = [*tell_beside(ladder), *below, *(f"Note: {note}" for note in notes)]
    for line in [verdict, *map(Text, beside)]:
        # What is piped keeps its lines, so that they can be searched, and a command copied.
        out.print(line, soft_wrap=not out.is_terminal)


def comparison(result: Any, *, notes: Sequence[str], show: str = "auto") -> None:
    """Print the table of runs, and below it for each pair its parameters and its ladder.

    Parameters
    ----------
    notes
        What did not finish, and nobody has said yet.
    show
        ``auto`` folds pairs that PASS to a line each, ``all`` folds none.
    """
    out = console()
    header, rows = summarise_runs(result.records)
    if len(rows) > 2:
        _runs(out, header, rows)
    else:  # few runs with many numbers read better side by side
        turned = [list(column) for column in zip(header, *rows, strict=True)]
        out.print(_table(turned[0], turned[1:], title="Runs"))
    if result.board[1]:
        _listed(out, *result.board, title="Leaderboard")
    decided = {group.title for group in result.by_seeds}
    for name, test in result.equal.items():
        if name not in decided:
            out.print(Text(f"{name}: {test.sentence()}"))
    named = dict(zip(map(id, result.records), name_runs(result.records), strict=True))
    _pairs(out, result, named=named, show=show)
    for run, why in result.unreadable.items():
        line = Text.assemble(("ERROR", _COLOURS["ERROR"]), f": {run} cannot be read: {why}")
        out.print(line, soft_wrap=not out.is_terminal)
    if result.alone:
        alone = [named[id(record)] for record in result.alone]
        out.print(Text(tell_leftovers(alone, pairs=len(result.pairs))))
    failures(notes)
    _over_seeds(out, result.by_seeds)


def _pairs(out: Console, result: Any, *, named: Mapping[int, str], show: str) -> None:
    """Print the verdict on each pair: those that PASS in a line each, if they are folded."""
    covered = list_covered(result.by_seeds)
    judged = zip(result.pairs, result.ladders, strict=True)
    shown = [both for i, both in enumerate(judged) if i not in covered]
    folded = [] if show == "all" else [both for both in shown if _may_be_folded(both[1])]
    unfolded = shown if show == "all" else [both for both in shown if not _may_be_folded(both[1])]
    if len(unfolded) > _MOST_LADDERS and show != "all":
        rows = [
            [f"{named[id(a)]} against {b.label()}", ladder.verdict, ladder.sentence()]
            for (a, b), ladder in unfolded
        ]
        out.print(_table(["pair", "verdict", "why"], rows, title="Pairs"))
        out.print(Text("Their ladders are in the report and in parity.json."))
        unfolded = []
    for (a, b), ladder in unfolded:
        header, rows = summarise_pair(a, b)
        out.print(_table(header, rows, title=f"{named[id(a)]} against {b.label()}"))
        _judged(out, ladder)
    for (a, b), ladder in folded[:_MOST_ROWS]:
        _passed(out, ladder, pair=f"{named[id(a)]} against {b.label()}")
    if len(folded) > _MOST_ROWS:
        out.print(Text(f"PASS  {len(folded) - _MOST_ROWS} more pairs; the report has all of them."))


def _may_be_folded(ladder: Ladder) -> bool:
    """Whether a pair passed and nothing was measured besides that a person asked for."""
    return ladder.verdict == "PASS" and not {"prove", "gradcheck"} & set(ladder.facts)


def _over_seeds(out: Console, by_seeds: Sequence[SeedVerdict]) -> None:
    """Print the verdicts on groups of runs that drew their own starts, a line each.

    The worst is the last line, because it is what the exit code says.
    """
    groups = sort_by_verdict(by_seeds, worst_first=False)
    if len(groups) > _MOST_ROWS:
        out.print(Text(f"  {len(groups) - _MOST_ROWS // 2} more verdicts are in the report."))
        groups = groups[-(_MOST_ROWS // 2) :]
    for group in groups:
        verdict = (group.verdict, _COLOURS[group.verdict])
        out.print(Text.assemble(verdict, f": {group.sentence}"), soft_wrap=not out.is_terminal)


def summary(result: Any, *, unfinished: int, best: str | None = None) -> None:
    """Print the last line of a comparison, also where the terminal is quiet.

    Parameters
    ----------
    best
        What was best, where that is not a matter of the test score, as in a search.
    """
    covered = list_covered(result.by_seeds)
    line = tell_summary(
        [verdict for i, (verdict, _) in enumerate(result.verdicts) if i not in covered]
        + ["ERROR"] * len(result.unreadable),
        over_seeds=[group.verdict for group in result.by_seeds],
        runs=len(result.records),
        unfinished=unfinished,
        best=tell_best(result.records) if best is None else best,
    )
    worst = [why for verdict, why in result.verdicts if verdict != "PASS"]
    why = f": {worst[0]}" if len(worst) == 1 and len(result.verdicts) == 1 else ""
    print_last(f"{line}{why}")


def run_summary(record: Any) -> None:
    """Print the last line of a run, also where the terminal is quiet."""
    scores = ", ".join(f"eval/{name} {value:.6g}" for name, value in record.about["scores"].items())
    name = f"{record.config['model']['name']} in {record.label()}"
    print_last(f"{name}: {scores or record.about['status']}, run {record.about.get('run')}")


def failures(notes: Sequence[str]) -> None:
    """Print what failed and why, one line each."""
    for note in notes:
        print(f"failed  {note}", file=sys.stderr)


def where(folder: Path, *, uri: str, page: str, run: str = "") -> None:
    """Print where the results are: the run's id, on disk, and on which page of MLflow's."""
    if run:
        print(f"run     {run}")
        print(f"folder  {folder}")
    print(f"plots   {folder / 'plots'}")
    if (folder / "report.html").exists():
        print(f"report  {folder / 'report.html'}")
    if uri.startswith("http"):
        print(f"MLflow  {redact(uri.rstrip('/'))}{page}")
    elif uri.startswith("sqlite"):
        from pipeline.tracking.views import LOCAL_PAGES

        print(f"MLflow  make ui, then {LOCAL_PAGES}{page}")


def run(record: Any) -> None:
    """Print the numbers of one run."""
    header, rows = summarise_runs([record])
    turned = [list(column) for column in zip(header, *rows, strict=True)]
    console().print(_table(turned[0], turned[1:], title="Run"))
