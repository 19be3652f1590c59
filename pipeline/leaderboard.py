"""A sweep's records as tables: who scores best, what was swept, and what it did to the score."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline import config, metrics
from pipeline.parity.equivalence import Equivalence, equivalence
from pipeline.record import RunRecord

Table = tuple[list[str], list[list[str]]]
_BACKEND, _OPTIMIZER = "backend.name", "optimizer.name"


def score_of(records: Sequence[RunRecord]) -> str | None:
    """Return the score that all runs have and that decides; None if there is none."""
    kinds = [set(record.about.get("scores", {})) for record in records]
    common = set.intersection(*kinds) if kinds else set()
    return next((name for name in ("accuracy", "mse", "log_loss", "mae") if name in common), None)


def swept(records: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Return the settings in which the runs differ, each run's value.

    Only those that every run has: what comes and goes with another option is told by that option.
    """
    flat = [config.flatten(record.config) for record in records]
    keys = [key for key in (flat[0] if flat else {}) if config.decides(key)]
    values = {key: [own[key] for own in flat] for key in keys if all(key in own for own in flat)}
    return {key: v for key, v in values.items() if any(each != v[0] for each in v)}


def groups(records: Sequence[RunRecord]) -> dict[tuple[str, ...], list[RunRecord]]:
    """Return the runs that differ in their seed alone, by what tells them from the others."""
    differing = swept(records)
    keys = [key for key in (_BACKEND, _OPTIMIZER, *differing) if key != "seed"]
    found: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    for record in records:
        flat = config.flatten(record.config)
        found[tuple(str(flat.get(key, "–")) for key in dict.fromkeys(keys))].append(record)
    return dict(found)


def leaderboard(records: Sequence[RunRecord], *, level: float = 0.95) -> Table:
    """Return a table of groups, the best first: mean ± half an interval over seeds, and time.

    The interval is Student's at `level`; of fewer than two runs there is none.
    """
    finished = [record for record in records if record.about["status"] == "FINISHED"]
    name = score_of(finished)
    if name is None:
        return [], []
    from scipy import stats

    differing = swept(records)
    keys = list(dict.fromkeys(k for k in (_BACKEND, _OPTIMIZER, *differing) if k != "seed"))
    lines = []
    for values, members in groups(records).items():
        runs = [run for run in members if run.about["status"] == "FINISHED"]
        if not runs:
            continue
        scores = np.array([run.about["scores"][name] for run in runs], dtype=np.float64)
        times = [run.about["time"].get("train_s", np.nan) for run in runs]
        reach = np.nan
        if len(scores) > 1:
            factor = stats.t.ppf((1 + level) / 2, len(scores) - 1)
            spread = scores.std(ddof=1) if np.ptp(scores) else 0.0  # not the rounding of the mean
            reach = float(factor * spread / np.sqrt(len(scores)))
        lines.append((float(scores.mean()), reach, len(runs), float(np.median(times)), values))
    lines.sort(key=lambda line: -line[0] if name in metrics.HIGHER else line[0])
    header = [*keys, name, f"± ({level:.0%})", "runs", "train s"]
    rows = [
        [*values, f"{mean:.6g}", "–" if np.isnan(reach) else f"{reach:.2g}", str(n), f"{time:.3g}"]
        for mean, reach, n, time, values in lines
    ]
    return header, rows


def differences(records: Sequence[RunRecord]) -> Table:
    """Return a table of only those settings in which the runs differ, a row a run, if any do."""
    differing = swept(records)
    rows = [[str(values[i]) for values in differing.values()] for i in range(len(records))]
    return list(differing), rows if differing else []


def sensitivity(records: Sequence[RunRecord]) -> dict[str, dict[str, list[float]]]:
    """Return, for each swept setting, the final scores at each of its values."""
    finished = [record for record in records if record.about["status"] == "FINISHED"]
    name = score_of(finished)
    if name is None:
        return {}
    found: dict[str, dict[str, list[float]]] = {}
    for key, values in swept(finished).items():
        if key == "seed":
            continue
        by_value: dict[str, list[float]] = {}
        for value, record in sorted(zip(values, finished, strict=True), key=_order):
            by_value.setdefault(str(value), []).append(float(record.about["scores"][name]))
        found[key] = by_value
    return found


def _order(item: tuple[Any, RunRecord]) -> tuple[int, float, str]:
    value = item[0]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if number else (1, 0.0, str(value))


def over_seeds(records: Sequence[RunRecord], *, margin: float) -> Mapping[str, Equivalence]:
    """Test each two backends' final scores against each other, over the seeds that both ran.

    Groups are runs that are equal but for backend and seed; a group without a second seed is left
    out.
    """
    finished = [record for record in records if record.about["status"] == "FINISHED"]
    name = score_of(finished)
    if name is None:
        return {}
    cells: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    labels: dict[str, str] = {}
    differing = swept(finished)
    for i, record in enumerate(finished):
        key = config.digest(record.config, without=(_BACKEND, "seed"))
        score = float(record.about["scores"][name])
        cells[key][record.backend][int(record.config["seed"])] = score
        rest = [f"{k}={v[i]}" for k, v in differing.items() if k not in (_BACKEND, "seed")]
        labels[key] = ", ".join(rest)
    found = {}
    for key, by_backend in cells.items():
        names = sorted(by_backend)
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                seeds = sorted(set(by_backend[a]) & set(by_backend[b]))
                if len(seeds) < 2:
                    continue
                one, other = ([by_backend[side][seed] for seed in seeds] for side in (a, b))
                title = f"{name} of {a} and {b}" + (f" ({labels[key]})" if labels[key] else "")
                found[title] = equivalence(one, other, margin=margin)
    return found
