"""Pictures of what was swept."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import identity, leaderboard, metrics
from pipeline.figures.curves import find_kind, select_losses
from pipeline.figures.settings import (
    add_scale,
    as_numbers,
    choose_colours,
    find_best,
    group_by_settings,
    has_diverged,
    list_settings,
    name_shortly,
    round_numbers,
    select_spread,
    spans_decades,
    tell_best,
)
from pipeline.figures.style import (
    BLACK,
    MANY_RUNS,
    MARKERS,
    MOST_PANELS,
    OTHER_STYLE,
    PARAMETER_COLOURS,
    SCORE_LABELS,
    STYLES,
    add_legend,
    draw_alone,
    draw_each,
    label_axes,
    mark_single_points,
    new_figure,
    shorten_title,
    use_plain_log,
)
from pipeline.record.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_sweep(records: Sequence[RunRecord]) -> dict[str, Figure]:
    """Draw what a sweep did: ``curves`` by setting, ``sensitivity`` to each, and ``cost``.

    There are curves only where the figure ``loss`` cannot tell its runs apart. Runs that diverged
    stand at the edge of the others.
    """
    finished = [record for record in records if record.about["status"] == "FINISHED"]
    score = leaderboard.score_of(finished)
    known = [r for r in records if r.about["status"] == "FINISHED" or leaderboard.diverged(r)]
    if score is None or len(known) < 3:
        return {}
    drawings: dict[str, Callable[[], Figure]] = {}
    settings = list_settings(known)
    if settings and not _are_told_apart(known, settings):
        drawings["curves"] = partial(_draw_small_multiples, known)
    keys = list(settings)
    if not keys and len({record.backend for record in known}) > 1:
        keys = ["backend.name"]
    if keys:
        keys = keys[:MOST_PANELS]
        drawings["sensitivity"] = partial(_draw_sensitivities, known, keys, score=score)
    if any(_train_seconds(record) > 0 for record in known):
        drawings["cost"] = partial(_draw_cost, known, score=score)
    return draw_each(drawings)


def _are_told_apart(records: Sequence[RunRecord], settings: Mapping[str, Sequence[Any]]) -> bool:
    """Whether the figure ``loss`` shows which run is which: few runs, or colours that say it."""
    colouring = choose_colours(records)
    one_data = len({record.about.get("data", {}).get("digest") for record in records}) == 1
    if colouring is None:
        return one_data and len(records) <= MANY_RUNS
    few = len(group_by_settings(records)) <= len(PARAMETER_COLOURS)
    return one_data and (few if colouring.scale is None else len(settings) == 1)


def _look_of(record: RunRecord, records: Sequence[RunRecord]) -> dict[str, Any]:
    """Return the colour and line of a run in a sweep's picture: of several backends, its own."""
    if len({each.label() for each in records}) == 1:
        return {"color": PARAMETER_COLOURS[0], "linestyle": "-", "linewidth": 1.6, "zorder": 4}
    style = STYLES.get(find_kind(record), OTHER_STYLE)
    return style | {"linewidth": style["linewidth"] * 0.6}


def _train_seconds(record: RunRecord) -> float:
    seconds = record.about.get("time", {}).get("train_s")
    return float(seconds) if seconds is not None else float("nan")


def _draw_small_multiples(records: Sequence[RunRecord]) -> Figure:
    """Draw the losses, a panel for each combination of swept settings; seeds share one."""
    chosen = select_spread(records)
    shown = [[r for r, _ in select_losses([(r, {}) for r in runs])]
             for runs in group_by_settings(chosen).values()]  # fmt: skip
    shown = [members for members in shown if members]
    settings = list_settings(records)
    best = find_best(records)
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(3.1 * columns, 2.5 * rows + 0.5)
    first = None
    for i, members in enumerate(shown):
        axes = figure.add_subplot(rows, columns, i + 1, sharey=first)
        first = first or axes
        for record in members:
            loss = record.arrays["loss"].astype(np.float64)
            look = _look_of(record, records) | {"label": record.label()}
            axes.plot(np.arange(1, len(loss) + 1), loss, **look)
        flat = identity.flatten(members[0].config)
        title = ", ".join(f"{key.removesuffix('.name')}={flat[key]}" for key in settings)
        weight = "bold" if any(record is best for record in members) else "normal"
        text = textwrap.fill(round_numbers(title), 34)
        axes.set_title(text, fontsize=8, loc="left", weight=weight)
        label_axes(axes, xlabel="step", ylabel="training loss" if i % columns == 0 else "")
        axes.locator_params(axis="x", nbins=5, integer=True)
        mark_single_points(axes)
    _share_scale(figure.axes, [record for members in shown for record in members])
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        lines, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, lines, strict=True))
    count, whole = len(shown), len(group_by_settings(records))
    said = [f"{count} of {whole} settings: the best and evenly spread ones"] * (count < whole)
    heading = "\n".join([*said, *filter(None, [tell_best(records)])])
    figure.legend(
        list(handles.values()), list(handles), loc="outside upper left", ncols=4, fontsize=9,
        frameon=False, title=heading or None, title_fontsize=9, alignment="left",
    )  # fmt: skip
    return figure


def _share_scale(panels: Sequence[Axes], records: Sequence[RunRecord]) -> None:
    """Give panels one logarithmic axis, cut where runs that diverged leave the others."""
    lasting = [record.arrays["loss"] for record in records if not has_diverged(record)]
    panels[0].set_yscale("log", nonpositive="mask")
    numbers = np.concatenate([loss[loss > 0] for loss in lasting] or [np.empty(0)])
    if numbers.size and len(lasting) < len(records):
        panels[0].set_ylim(float(numbers.min()) / 2, 10 * float(numbers.max()))
    for axes in panels:
        use_plain_log(axes.yaxis, most=5)
        top = axes.get_ylim()[1]
        for line in axes.lines:
            steps, values = (np.asarray(part, dtype=np.float64) for part in line.get_data())
            beyond = ~(values <= top)
            if beyond.any():
                axes.scatter(
                    [steps[int(np.argmax(beyond))]], [top], marker="X", s=45, clip_on=False,
                    color=[line.get_color()], edgecolors="white", linewidths=0.6, zorder=8,
                )  # fmt: skip


def _draw_sensitivities(records: Sequence[RunRecord], keys: Sequence[str], *, score: str) -> Figure:
    """Draw how a score depends on each swept setting, a panel a setting."""
    columns = min(3, len(keys))
    flat = [identity.flatten(record.config) for record in records]
    names = [len({str(config[key]) for config in flat}) for key in keys]
    widest = max(n for n, key in zip(names, keys, strict=True) if n)
    numeric = all(as_numbers([config[key] for config in flat]) is not None for key in keys)
    width = 4.2 if numeric else max(4.2, 0.32 * widest)
    figure = new_figure(max(5.2, width * columns), 3.8 * -(-len(keys) // columns))
    for i, key in enumerate(keys):
        axes = figure.add_subplot(-(-len(keys) // columns), columns, i + 1)
        _draw_sensitivity(axes, records=records, key=key, score=score)
    return figure


def _draw_sensitivity(axes: Axes, *, records: Sequence[RunRecord], key: str, score: str) -> None:
    """Draw the final scores over the values of one setting: a dot a run, and means.

    Means of numbers are joined by a line; those of names, which have no order, are dashes.
    """
    values = [identity.flatten(record.config)[key] for record in records]
    numbers = as_numbers(values)
    names = list(dict.fromkeys(map(str, values)))
    across = np.array([names.index(str(v)) for v in values], float) if numbers is None else numbers
    scores = _read_scores(records, score)
    several = len({record.label() for record in records}) > 1
    for label in dict.fromkeys(record.label() for record in records):
        members = np.array([record.label() == label for record in records]) & np.isfinite(scores)
        look = _look_of(records[[r.label() for r in records].index(label)], records)
        size = 14 if look["linewidth"] < 2 else 40
        axes.scatter(across[members], scores[members], s=size, color=[look["color"]],
                     zorder=look["zorder"] + 1, linewidths=0,
                     label=label if several else None)  # fmt: skip
        places = np.unique(across[members])
        means = [float(scores[members & (across == place)].mean()) for place in places]
        if numbers is not None:
            axes.plot(places, means, **look)
        elif len(places) < members.sum():
            axes.scatter(places, means, s=260, marker="_", color=[look["color"]], linewidths=1.2)
    if numbers is not None and spans_decades(numbers):
        axes.set_xscale("log")
    elif numbers is None:
        labels = [shorten_title(round_numbers(name)) for name in names]
        axes.set_xticks(range(len(names)), labels, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.5, len(names) - 0.5)
    else:
        axes.locator_params(axis="x", nbins=5)
    _finish_scores(axes, records=records, across=across, score=score)
    if axes.get_xscale() == "log":
        use_plain_log(axes.xaxis, most=5)
    axes.set_xlabel(key.removesuffix(".name"), fontsize=10)


def _read_scores(records: Sequence[RunRecord], score: str) -> np.ndarray:
    """Return the final scores; those of runs that diverged, or have none, are no number."""
    return np.array([
        np.nan if has_diverged(record) else float(record.about.get("scores", {}).get(score, np.nan))
        for record in records
    ])  # fmt: skip


def _finish_scores(
    axes: Axes, *, records: Sequence[RunRecord], across: np.ndarray, score: str
) -> None:
    """Scale and label an axis of scores; mark the best run, and at the worse edge who diverged."""
    scores = _read_scores(records, score)
    higher = score in metrics.HIGHER
    if not higher and spans_decades(scores[np.isfinite(scores)]):
        axes.set_yscale("log")
        use_plain_log(axes.yaxis)
    best = find_best(records)
    if best is not None:
        place = [record is best for record in records].index(True)
        axes.scatter(
            [across[place]], [scores[place]], marker="*", s=130, color=[BLACK], zorder=9,
            edgecolors="white", linewidths=0.8, label=tell_best(records),
        )  # fmt: skip
    lost = np.array([has_diverged(record) for record in records]) & np.isfinite(across)
    if lost.any():
        low, high = axes.get_ylim()
        axes.scatter(
            across[lost], np.full(lost.sum(), low if higher else high), marker="X", s=60,
            color=["#a50f15"], edgecolors="white", linewidths=0.8, clip_on=False, zorder=8,
            label="diverged",
        )  # fmt: skip
        axes.set_ylim(low, high)
    label_axes(axes, xlabel="", ylabel=f"test {SCORE_LABELS.get(score, score)}")
    add_legend(axes)


def _draw_cost(records: Sequence[RunRecord], *, score: str) -> Figure:
    """Draw each run's final score over the time that its training took."""

    def draw(axes: Axes) -> None:
        colouring = choose_colours(records)
        scores, seconds = _read_scores(records, score), np.array(list(map(_train_seconds, records)))
        axes.set_xscale("log")
        kinds, known = list(STYLES), set()
        for i, (record, name) in enumerate(zip(records, name_shortly(records), strict=True)):
            kind, label = find_kind(record), record.label()
            colour = STYLES.get(kind, OTHER_STYLE)["color"]
            if colouring is not None:  # of one backend: its colours are told by a scale, or here
                colour, label = colouring.colours[i], name if colouring.scale is None else ""
            key = label if colouring is None else str(colour)
            axes.scatter(
                [seconds[i]], [scores[i]], s=26, color=[colour], alpha=0.85, linewidths=0.8,
                marker=MARKERS[kinds.index(kind)] if kind in kinds else "o",
                label=label if label and key not in known else None,
            )  # fmt: skip
            known.add(key)
        _finish_scores(axes, records=records, across=seconds, score=score)
        use_plain_log(axes.xaxis)
        axes.set_xlabel("training (s)", fontsize=10)

    figure = draw_alone(draw, size=(6.2, 4.2))
    add_scale(figure, list(figure.axes), records)
    return figure
