"""A sweep's comparison on its parent run and on its runs in MLflow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.naming import name_runs
from pipeline.parity.evidence import METHOD_NAME
from pipeline.parity.verdict import WORST

_CURVES = 12  # pairs of a sweep whose distance is a metric over the steps


def publish_comparison(
    parent: Any,
    result: Any,
    *,
    overrides: list[str],
    jobs: int | None,
    notes: list[str],
    children: Sequence[Any] = (),
    note: str | None = None,
) -> None:
    """Put a comparison on the sweep's parent run: tables, figures, report and a description.

    What was put there before, by the sweep itself, is replaced; its runs are told their verdicts.

    Parameters
    ----------
    children
        The runs in the store; those that an earlier sweep had finished are listed with links.
    note
        The user's own description.
    """
    from pipeline import leaderboard
    from pipeline.report.markdown import describe_sweep
    from pipeline.report.tables import summarise_runs, tabulate_equivalences, tabulate_verdicts
    from pipeline.tracking.views import list_linked

    _tag_runs(result)
    if (result.folder / "plots").is_dir():
        parent.log_folder(result.folder / "plots", "plots")
    for name in ("report.html", "parity.json", "verdict.json"):
        if (result.folder / name).is_file():
            parent.log_file(result.folder / name)
    tables = {
        "runs": summarise_runs(result.records),
        "leaderboard": result.board,
        "differences": leaderboard.differences(result.records),
        "verdicts": tabulate_verdicts(
            result.records, result.pairs, result.ladders, result.by_seeds
        ),
        "equivalence": tabulate_equivalences(result.equal),
        "pairs": result.table(),
    }
    for name, (header, rows) in tables.items():
        if rows:
            parent.log_table(header, rows, name)
    for name, test in result.equal.items():
        parent.log_tags({f"equivalence.{name}"[:250]: test.sentence()})
    if result.judges:
        parent.log_tags({"parity.verdict": result.worst, "parity.method": METHOD_NAME})
    parent.log_metrics({f"parity/{key}": v for key, v in result.largest().items()})
    text = describe_sweep(
        result.records, overrides=overrides, jobs=jobs, notes=notes, pairs=result.pairs,
        ladders=result.ladders, board=result.board, equal=result.equal,
        by_seeds=result.by_seeds, note=note, linked=list_linked(children, parent.id),
    )  # fmt: skip
    parent.describe(text)


def log_distances(parent: Any, result: Any, *, points: int) -> None:
    """Log how far each pair is apart over the steps, relative to the model's norm.

    One metric a pair, of the first `_CURVES` pairs: of hundreds a page shows none well.
    """
    names = dict(zip(map(id, result.records), name_runs(result.records), strict=True))
    for (a, b), ladder in list(zip(result.pairs, result.ladders, strict=True))[:_CURVES]:
        apart = ladder.distances.get("apart")
        if apart is None:
            continue
        pair = f"{names[id(a)]} against {b.label()}" if len(result.pairs) > 1 else ""
        name = re.sub(r"[^\w.\- :/]+", " ", f"parity/distance {pair}".strip())[:250]
        finite = np.isfinite(apart)
        steps = np.arange(len(apart))[finite]
        if len(steps):
            parent.log_series({name: apart[finite]}, steps=steps, points=points)


def _tag_runs(result: Any) -> None:
    """Tell each run of a pair its verdict and who its twin is; of several the worst."""
    from pipeline.tracking.run import reopen_run

    for run in result.unreadable:
        tracked = reopen_run(run)
        if tracked is not None:
            tracked.log_tags({"parity.verdict": "ERROR"})
    verdicts_of: dict[str, list[tuple[str, str]]] = {}
    for pair, (verdict, _) in zip(result.pairs, result.verdicts, strict=True):
        ids = [str(side.about.get("run", "")) for side in pair]
        for run, twin in (ids, ids[::-1]):
            verdicts_of.setdefault(run, []).append((verdict, twin))
    for run, verdicts in verdicts_of.items():
        worst = max((verdict for verdict, _ in verdicts), key=WORST.__getitem__)
        twins = ", ".join(twin for _, twin in verdicts)
        tracked = reopen_run(run)
        if tracked is not None:
            tracked.log_tags(
                {"parity.verdict": worst, "parity.twin": twins, "parity.method": METHOD_NAME}
            )
