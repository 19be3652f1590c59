"""The description of a sweep for MLflow's page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from pipeline.leaderboard import SeedVerdict
from pipeline.parity.equivalence import Equivalence
from pipeline.parity.verdict import WORST, Ladder
from pipeline.record.record import RunRecord
from pipeline.redact import redact
from pipeline.report.sentences import MOST_LINES, list_covered, sort_by_verdict
from pipeline.report.tables import Pair, Table, tabulate_verdicts


def tell_asked(overrides: Sequence[str], *, jobs: int | None, note: str | None = None) -> str:
    """Describe in Markdown what a sweep was asked for, below the user's own note."""
    many = "a search" if jobs is None else f"{jobs} jobs"
    command = tell_command(overrides, multirun=True)
    return (f"{note}\n\n" if note else "") + (
        f"**Sweep**, {many}; its runs are nested below.\n\n```\n{command}\n```\n"
    )


def tell_command(overrides: Sequence[str], *, multirun: bool) -> str:
    """Return the command line that was given, without the secrets in it.

    What the program itself adds to Hydra's settings is left out.
    """
    own = ("hydra.mode=", "hydra.job.", "++hydra.job.")
    given = [shlex.quote(redact(text)) for text in overrides if not text.startswith(own)]
    return " \\\n  ".join(["python -m pipeline" + " -m" * multirun, *given])


def describe_sweep(
    records: Sequence[RunRecord],
    *,
    overrides: Sequence[str],
    jobs: int | None,
    notes: Sequence[str],
    pairs: Sequence[Pair] = (),
    ladders: Sequence[Ladder] = (),
    board: Table = ([], []),
    equal: Mapping[str, Equivalence] | None = None,
    by_seeds: Sequence[SeedVerdict] = (),
    note: str | None = None,
    linked: Sequence[tuple[str, str]] = (),
) -> str:
    """Describe in Markdown what a sweep was asked for and what it came to, at most a page.

    `linked` has name and page of the runs that an earlier sweep had finished.
    """
    parts = [tell_asked(overrides, jobs=jobs, note=note)]
    if by_seeds:
        sorted_groups = sort_by_verdict(by_seeds, worst_first=True)
        told = [f"- **{group.verdict}**: {group.sentence}" for group in sorted_groups]
        parts.append("**Verdict over seeds:**\n\n" + _list_items(told))
    covered = list_covered(by_seeds)
    rows = tabulate_verdicts(records, pairs, ladders)[1]
    judged = [row for i, row in enumerate(rows) if i not in covered]
    if judged:
        kinds = [kind for _, _, kind, _ in judged]
        counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in WORST if kind in kinds)
        many = "1 pair" if len(judged) == 1 else f"{len(judged)} pairs"
        parts.append(f"**Parity of {many}:** {counted}.")
        bad = [f"- {a} against {b}: {why}" for a, b, kind, why in judged if kind != "PASS"]
        parts.append(_list_items(bad))
    decided = {group.title for group in by_seeds}
    rest = {name: test for name, test in (equal or {}).items() if name not in decided}
    if rest:
        sentences = [f"- {name}: {test.sentence()}" for name, test in rest.items()]
        parts.append("**Over seeds:**\n\n" + _list_items(sentences))
    if board[1]:
        header, rows = board[0], board[1][:MOST_LINES]
        lines = [header, ["---"] * len(header), *rows]
        first = "" if len(rows) == len(board[1]) else f", the first {len(rows)} of {len(board[1])}"
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"**Leaderboard{first}:**\n\n{text}")
    if linked:
        links = [f"- [{name}]({page})" for name, page in linked]
        parts.append("**Finished before, by an earlier sweep:**\n\n" + _list_items(links))
    if notes:
        parts.append("**Not finished:**\n\n" + _list_items([f"- {note}" for note in notes]))
    if records:
        parts.append(
            "Artifacts: `report.html` has everything in one file; `parity.json` has the verdicts "
            "in full, the other `.json` files are tables, `plots/` the pictures."
        )
    return "\n\n".join(part for part in parts if part)


def _list_items(lines: Sequence[str]) -> str:
    """Return lines as a Markdown list, long ones cut and at most `MOST_LINES` of them."""
    shown = [line if len(line) < 300 else f"{line[:299]}…" for line in lines[:MOST_LINES]]
    more = [f"- … and {len(lines) - len(shown)} more"] if len(lines) > len(shown) else []
    return "\n".join([*shown, *more])
