"""Pictures of what was swept."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import identity, leaderboard
from pipeline.figures.curves import find_kind
from pipeline.figures.style import (
    DOT_SIZES,
    MARKERS,
    MOST_MULTIPLES,
    MOST_PANELS,
    OTHER_DOT_SIZE,
    OTHER_STYLE,
    SCORE_LABELS,
    STYLES,
    add_legend,
    draw_alone,
    draw_each,
    label_axes,
    new_figure,
    shorten_title,
)
from pipeline.record.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_sweep(records: Sequence[RunRecord]) -> dict[str, Figure]:
    """Draw what a sweep did: ``curves`` by setting, ``sensitivity`` to each, and ``cost``.

    Runs that differ in their backend or seed alone have no curves here: they are all in ``loss``.
    """
    finished = [record for record in records if record.about["status"] == "FINISHED"]
    swept = [key for key in leaderboard.swept(finished) if key not in ("backend.name", "seed")]
    score = leaderboard.score_of(finished)
    if score is None or len(finished) < 3:
        return {}
    drawings: dict[str, Callable[[], Figure]] = {}
    if swept:
        drawings["curves"] = partial(_draw_small_multiples, finished, swept)
    keys = list(leaderboard.sensitivity(finished))[:MOST_PANELS]
    if keys:
        drawings["sensitivity"] = partial(_draw_sensitivities, finished, keys, score=score)
    cost = partial(_draw_cost, records=finished, score=score)
    drawings["cost"] = partial(draw_alone, cost, size=(6.2, 4.2))
    return draw_each(drawings)


def _draw_sensitivities(records: Sequence[RunRecord], keys: Sequence[str], *, score: str) -> Figure:
    """Draw how a score depends on each swept setting, a panel a setting."""
    columns = min(3, len(keys))
    figure = new_figure(4.2 * columns, 3.6 * -(-len(keys) // columns))
    for i, key in enumerate(keys):
        axes = figure.add_subplot(-(-len(keys) // columns), columns, i + 1)
        _draw_sensitivity(axes, records=records, key=key, score=score)
    return figure


def _draw_small_multiples(records: Sequence[RunRecord], swept: Sequence[str]) -> Figure:
    """Draw the losses, a panel for each combination of swept settings; seeds share one."""
    cells: dict[str, list[RunRecord]] = {}
    for record in records:
        flat = identity.flatten(record.config)
        title = ", ".join(f"{key.removesuffix('.name')}={flat.get(key, '–')}" for key in swept)
        cells.setdefault(title, []).append(record)
    shown = dict(list(cells.items())[:MOST_MULTIPLES])
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(3.1 * columns, 2.5 * rows + 0.5)
    first = None
    for i, (title, members) in enumerate(shown.items()):
        axes = figure.add_subplot(rows, columns, i + 1, sharey=first)
        first = first or axes
        for record in members:
            style = STYLES.get(find_kind(record), OTHER_STYLE)
            loss = record.arrays["loss"].astype(np.float64)
            steps = np.arange(1, len(loss) + 1)
            wide = style["linewidth"] * 0.6
            axes.plot(steps, loss, **style | {"linewidth": wide, "label": record.label()})
        axes.set_yscale("log", nonpositive="mask")
        axes.set_title(textwrap.fill(title, 34), fontsize=8, loc="left")
        label_axes(axes, xlabel="step", ylabel="training loss" if i % columns == 0 else "")
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        lines, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, lines, strict=True))
    missing = len(cells) - len(shown)
    heading = f"{len(shown)} of {len(cells)} settings, {missing} left out" if missing else None
    figure.legend(
        list(handles.values()), list(handles), loc="outside upper left", ncols=4, fontsize=9,
        frameon=False, title=heading, title_fontsize=9,
    )  # fmt: skip
    return figure


def _draw_sensitivity(axes: Axes, *, records: Sequence[RunRecord], key: str, score: str) -> None:
    """Draw the final scores over the values of one setting, a dot a run and the means as a line."""
    values = list(leaderboard.sensitivity(records)[key])
    numbers = [_as_number(value) for value in values]
    numeric = all(number is not None for number in numbers)
    place: dict[str, float] = {
        v: float(n) if n is not None and numeric else float(i)
        for i, (v, n) in enumerate(zip(values, numbers, strict=True))
    }
    for label in dict.fromkeys(record.label() for record in records):
        members = [record for record in records if record.label() == label]
        style = STYLES.get(find_kind(members[0]), OTHER_STYLE)
        at: dict[float, list[float]] = {}
        for record in members:
            value = str(identity.flatten(record.config).get(key))
            at.setdefault(place[value], []).append(float(record.about["scores"][score]))
        xs = sorted(at)
        across = [x for x in xs for _ in at[x]]
        scores = [y for x in xs for y in at[x]]
        axes.scatter(
            across, scores, s=DOT_SIZES.get(find_kind(members[0]), OTHER_DOT_SIZE),
            color=style["color"], zorder=style["zorder"], linewidths=0,
        )  # fmt: skip
        means = [float(np.mean(at[x])) for x in xs]
        width = style["linewidth"] * 0.6
        axes.plot(xs, means, **style | {"linewidth": width, "label": label})
    if numeric and min(place.values()) > 0 and max(place.values()) >= 8 * min(place.values()):
        axes.set_xscale("log")
    if not numeric:
        axes.set_xticks(
            range(len(values)), [shorten_title(v) for v in values], rotation=30, ha="right"
        )
    label_axes(
        axes, xlabel=key.removesuffix(".name"), ylabel=f"test {SCORE_LABELS.get(score, score)}"
    )
    add_legend(axes)


def _as_number(text: str) -> float | None:
    """Return the number that a text is, None where it is no number."""
    try:
        return float(text)
    except ValueError:
        return None


def _draw_cost(axes: Axes, *, records: Sequence[RunRecord], score: str) -> None:
    """Draw each run's final score over the time that its training took."""
    for label in dict.fromkeys(record.label() for record in records):
        members = [record for record in records if record.label() == label]
        style = STYLES.get(find_kind(members[0]), OTHER_STYLE)
        axes.scatter(
            [record.about["time"].get("train_s", np.nan) for record in members],
            [record.about["scores"][score] for record in members],
            s=26, color=style["color"], marker=MARKERS[list(STYLES).index(find_kind(members[0]))]
            if find_kind(members[0]) in STYLES else "x", alpha=0.85, linewidths=0.8, label=label,
        )  # fmt: skip
    axes.set_xscale("log")
    label_axes(axes, xlabel="training (s)", ylabel=f"test {SCORE_LABELS.get(score, score)}")
    add_legend(axes)
