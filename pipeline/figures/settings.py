"""What was swept, as pictures show it: its values, its colours, the best run, who diverged."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import leaderboard, metrics
from pipeline.figures.style import BLACK, MOST_MULTIPLES, PARAMETER_COLOURS, Curve
from pipeline.naming import name_runs
from pipeline.record.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure


FAR_UP = 10.0  # a run whose loss ends this many times above its first one has diverged


def round_numbers(text: str) -> str:
    """Write the numbers of a text that have more than three digits with three."""
    return re.sub(r"\d+\.\d+(e[-+]?\d+)?", lambda found: f"{float(found[0]):.3g}", text)


def name_shortly(records: Sequence[RunRecord]) -> list[str]:
    """Return the names of runs with rounded numbers, where these still tell them apart."""
    names = name_runs(records)
    rounded = [round_numbers(name) for name in names]
    return rounded if len(set(rounded)) == len(set(names)) else names


def has_diverged(record: RunRecord) -> bool:
    """Whether the loss became infinite or no number, or ended far above where it began."""
    loss = record.arrays.get("loss", np.empty(0))
    if not len(loss):
        return leaderboard.diverged(record) if "status" in record.about else False
    first, last = float(loss[0]), float(loss[-1])
    return not np.isfinite(loss).all() or (first > 0 and last > FAR_UP * first)


def leave_out_diverged(curves: Sequence[Curve]) -> list[Curve]:
    """Return the runs that did not diverge, or all of them if there is no such run."""
    return [curve for curve in curves if not has_diverged(curve[0])] or list(curves)


def mark_diverged(axes: Axes, curves: Sequence[Curve]) -> None:
    """Mark at the upper edge how many runs are left out because they diverged."""
    count = len(curves) - len(leave_out_diverged(curves))
    if count:
        many = "1 run" if count == 1 else f"{count} runs"
        axes.scatter(
            [0.5], [1.0], marker="X", s=70, color=[BLACK], edgecolors="white", linewidths=0.8,
            clip_on=False, transform=axes.transAxes, zorder=8, label=f"{many} diverged: beyond",
        )  # fmt: skip


def as_numbers(values: Sequence[Any]) -> np.ndarray | None:
    """Return values as numbers; None where one is none: a truth value is a category."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return np.array(values, dtype=np.float64)
    return None


def list_settings(records: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Return what was swept besides backend and seed, each run's value.

    A setting that only repeats another one, as an optimizer's rate may repeat its name, is left
    out.
    """
    settings: dict[str, list[Any]] = {}
    for key, values in leaderboard.swept(records).items():
        others = settings.values()
        if key not in ("backend.name", "seed") and not any(_repeats(values, o) for o in others):
            settings[key] = values
    return settings


def _repeats(values: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two settings sort runs alike: into the same groups, numbers in the same order."""
    one, two = as_numbers(values), as_numbers(other)
    if one is not None and two is not None:
        ranks = [np.unique(numbers, return_inverse=True)[1] for numbers in (one, two)]
        return bool(np.array_equal(ranks[0], ranks[1]))
    texts = [[str(each) for each in sides] for sides in (values, other)]
    first, second = ([text.index(each) for each in text] for text in texts)
    return first == second


def group_by_settings(records: Sequence[RunRecord]) -> dict[tuple[Any, ...], list[RunRecord]]:
    """Group runs by what was swept besides backend and seed.

    Numbers are in order, names as they come.
    """
    settings = list_settings(records)
    cells: dict[tuple[Any, ...], list[RunRecord]] = {}
    places: dict[tuple[Any, ...], tuple[float, ...]] = {}
    for i, record in enumerate(records):
        cell = tuple(str(values[i]) for values in settings.values())
        cells.setdefault(cell, []).append(record)
        places[cell] = tuple(
            float(values.index(values[i]) if as_numbers(values) is None else values[i])
            for values in settings.values()
        )
    return {cell: cells[cell] for cell in sorted(cells, key=lambda each: places[each])}


def find_best(records: Sequence[RunRecord]) -> RunRecord | None:
    """Return the best run of the best settings, None if no two runs can be ranked."""
    found = leaderboard.find_best(records)
    if found is None or sum(record.about.get("status") == "FINISHED" for record in records) < 2:
        return None
    score, group = found
    best = max if score in metrics.HIGHER else min
    return best(group.runs, key=lambda record: float(record.about["scores"][score]))


def tell_best(records: Sequence[RunRecord]) -> str:
    """Return which run is the best, what was swept in it, and its score."""
    best = find_best(records)
    if best is None:
        return ""
    score = leaderboard.score_of([r for r in records if r.about.get("status") == "FINISHED"]) or ""
    settings = list_settings(records)
    place = [record is best for record in records].index(True)
    parts = [f"{key.removesuffix('.name')}={values[place]}" for key, values in settings.items()]
    if len({record.label() for record in records}) > 1:
        parts.insert(0, best.label())
    if "seed" in leaderboard.swept(records):
        parts.append(f"seed={best.config['seed']}")
    value = float(best.about["scores"][score])
    return round_numbers(f"best: {', '.join(parts)}") + f" ({score} {value:.4g})"


def select_spread(records: Sequence[RunRecord], *, most: int = MOST_MULTIPLES) -> list[RunRecord]:
    """Return the runs of at most so many settings: of the best one, and of evenly spread ones."""
    cells = list(group_by_settings(records).values())
    if len(cells) <= most:
        return list(records)
    drawn = set(np.linspace(0, len(cells) - 1, most - 1).round().astype(int).tolist())
    best = find_best(records)
    drawn |= {i for i, cell in enumerate(cells) if any(record is best for record in cell)}
    chosen = {id(record) for i in drawn for record in cells[i]}
    return [record for record in records if id(record) in chosen]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Colouring:
    """Colours of runs by a setting.

    Attributes
    ----------
    key
        The setting.
    colours
        One a run.
    scale
        Of numbers, what a colour bar is made of; None for names, which the legend tells.
    """

    key: str
    colours: Sequence[Any]
    scale: ScalarMappable | None


def choose_colours(records: Sequence[RunRecord]) -> Colouring | None:
    """Colour the runs of one backend by what was swept: by numbers on a scale, or by names.

    None where there are several backends, whose colours tell them apart, or nothing was swept. Of
    several settings the numbers with the most values count, if names would be too many colours.
    """
    settings = list_settings(records)
    if len({record.label() for record in records}) > 1 or not settings:
        return None
    cells = {cell: i for i, cell in enumerate(group_by_settings(records))}
    numbers = {key: found for key, v in settings.items() if (found := as_numbers(v)) is not None}
    if len(settings) > 1 and len(cells) <= len(PARAMETER_COLOURS):
        numbers = {}
    if numbers:
        key = max(numbers, key=lambda name: len(set(numbers[name].tolist())))
        scale = _make_scale(numbers[key])
        return Colouring(key=key, colours=list(scale.to_rgba(numbers[key])), scale=scale)
    places = [
        cells[tuple(str(values[i]) for values in settings.values())] for i in range(len(records))
    ]
    colours = [PARAMETER_COLOURS[place % len(PARAMETER_COLOURS)] for place in places]
    return Colouring(key=", ".join(settings), colours=colours, scale=None)


def _make_scale(numbers: np.ndarray) -> ScalarMappable:
    """Return a scale over numbers, logarithmic if they span most of a decade."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, LogNorm, Normalize

    low, high = float(numbers.min()), float(numbers.max())
    norm = LogNorm(low, high) if spans_decades(numbers) else Normalize(low, high)
    # Without its end: yellow is no colour on white.
    return ScalarMappable(norm, ListedColormap(colormaps["viridis"](np.linspace(0, 0.9, 256))))


def spans_decades(numbers: np.ndarray) -> bool:
    """Whether positive numbers span most of a decade: then an axis of them is logarithmic."""
    return bool(numbers.size and numbers.min() > 0 and numbers.max() >= 8 * numbers.min())


def add_scale(figure: Figure, axes: Axes | list[Axes], records: Sequence[RunRecord]) -> None:
    """Put the scale of the runs' colours beside axes, if their colours have one."""
    colouring = choose_colours(records)
    if colouring is None or colouring.scale is None:
        return
    bar = figure.colorbar(colouring.scale, ax=axes, fraction=0.05, pad=0.02)
    bar.set_label(colouring.key.removesuffix(".name"), fontsize=9)
    bar.ax.tick_params(which="both", labelsize=8)
    bar.ax.yaxis.set_minor_formatter("")
