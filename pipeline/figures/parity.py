"""Pictures of how far two runs are apart."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.figures.curves import style_curves
from pipeline.figures.settings import name_shortly
from pipeline.figures.style import (
    BLACK,
    FEW_NUMBERS,
    GREY,
    LEAST_OVER,
    MOST_OVER,
    MOST_PANELS,
    MOST_SAMPLED,
    MOST_TENSORS,
    PARAMETER_COLOURS,
    PARAMETER_STYLES,
    Judged,
    Pair,
    add_legend,
    draw_each,
    draw_panels,
    label_axes,
    mark_single_points,
    new_figure,
    shorten_title,
)
from pipeline.parity import distance
from pipeline.parity.verdict import WORST, Ladder
from pipeline.record.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_parity(judged: Sequence[Judged]) -> dict[str, Figure]:
    """Draw what was measured of pairs: ``distance``, ``ladder``, ``reference``, ``ulp_histogram``.

    One panel a pair; of more than six the worst. A figure for which nothing was measured is left
    out. What they show is in the captions of `pipeline.report`.
    """
    judged = sorted(judged, key=lambda one: -WORST[one[1].verdict])
    runs = list({id(run): run for pair, _ in judged for run in pair}.values())
    named = dict(zip(map(id, runs), name_shortly(runs), strict=True))
    tensors = MOST_TENSORS if len(judged) == 1 else MOST_TENSORS // 2
    panels: dict[str, list[Callable[[Axes], None]]] = {}
    for (a, b), ladder in judged:
        title = f"{ladder.verdict}: {named[id(a)]} and {b.label()}"
        drawings: dict[str, Callable[[Axes], None]] = {}
        if ladder.ratios:
            drawings["distance"] = partial(_draw_distance, ladder=ladder, title=title)
        if any(not np.isnan(over) for rung in ladder.rungs for over in rung.tensors.values()):
            drawings["ladder"] = partial(_draw_ladder, ladder=ladder, title=title, most=tensors)
        if ladder.errors:
            drawings["reference"] = partial(_draw_reference, pair=(a, b), ladder=ladder,
                                            title=title)  # fmt: skip
        counted = count_ulps(a, b)
        if any(apart.any() for apart in counted.values()):
            drawings["ulp_histogram"] = partial(_draw_counted, counted=counted, title=title)
        for name, draw in drawings.items():
            panels.setdefault(name, []).append(draw)
    rows = max((len(_tensors(ladder)) for _, ladder in judged), default=0)
    sizes = {"ladder": (7.4, 2.0 + 0.26 * min(rows, tensors))}
    return draw_each({
        name: partial(draw_panels, drawings, of=len(judged), size=sizes.get(name, (6.6, 4.2)))
        for name, drawings in panels.items()
    })  # fmt: skip


def measure_apart(a: RunRecord, b: RunRecord) -> dict[str, np.ndarray]:
    """Return by parameter how many ulps two runs are apart at each step, the farthest element's.

    Of runs of different length the steps that both made; nothing if they cannot be compared.
    """
    left, right = a.named("param"), b.named("param")
    apart = {}
    for name in left:
        if name not in right or not left[name].size or not right[name].size:
            continue
        rows = min(len(left[name]), len(right[name]))
        one, other = left[name][:rows], right[name][:rows]
        if (one.shape, one.dtype) == (other.shape, other.dtype):
            apart[name] = distance.rows(one, other).ulp  # a piece at a time; long runs are large
    return apart


def count_ulps(a: RunRecord, b: RunRecord) -> dict[str, np.ndarray]:
    """Return how many ulps the parameters of two runs are apart after the start, number by number.

    All steps together, and the first and the last. Of very many numbers an even part, of steps
    that are evenly spread. Nothing of few parameters, each of which is in the figure ``ulps``.
    """
    left, right = a.named("param"), b.named("param")
    shared = [name for name in left if name in right]
    steps = min((len(side[name]) for side in (left, right) for name in shared), default=0)
    width = sum(left[name][0].size for name in shared)
    if steps < 2 or width < FEW_NUMBERS:
        return {}
    every = -(-width // MOST_SAMPLED)
    count = max(1, min(steps - 1, MOST_SAMPLED * every // width))
    rows = np.unique(np.linspace(1, steps - 1, count).round().astype(int))
    columns = []
    for name in shared:
        try:
            apart = distance.ulps(left[name][rows], right[name][rows])
        except ValueError:
            return {}
        columns.append(apart.reshape(len(rows), -1)[:, ::every])
    whole = np.concatenate(columns, axis=1)
    part = "" if whole.size == width * (steps - 1) else f", {whole.size} of {width * (steps - 1)}"
    ends = {f"step {rows[0]}": whole[0], f"step {rows[-1]}": whole[-1]}
    return {f"all steps{part}": whole.reshape(-1)} | ({} if len(rows) == 1 else ends)


def draw_all_ulps(measured: Sequence[tuple[Pair, dict[str, np.ndarray]]], *, pairs: int) -> Figure:
    """Draw how far apart the runs of each pair are, one panel a pair."""
    shown = measured[:MOST_PANELS]
    columns = 1 if len(shown) == 1 else 2
    rows = -(-len(shown) // columns)
    width, height = 6.2 if columns == 1 else 9.0, 4.2 if rows == 1 else 3.2 * rows
    figure = new_figure(width, height)
    runs = list({id(run): run for pair, _ in measured for run in pair}.values())
    named = dict(zip(map(id, runs), name_shortly(runs), strict=True))
    for i, ((a, b), apart) in enumerate(shown):
        axes = figure.add_subplot(rows, columns, i + 1)
        _draw_ulps(axes, apart, width=width / columns, height=height / rows)
        title = textwrap.fill(f"{b.label()} against {named[id(a)]}", 58)
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_xlabel("learning step" if i + columns >= len(shown) else "")
    if pairs > len(shown):
        dropped = (
            f"{pairs - len(measured)} of them cannot be compared" if pairs > len(measured) else ""
        )
        text = f"{len(shown)} of {pairs} pairs; {pairs - len(shown)} left out"
        figure.suptitle(f"{text} ({dropped})" if dropped else text, fontsize=10)
    return figure


def _draw_ulps(axes: Axes, apart: Mapping[str, np.ndarray], *, width: float, height: float) -> None:
    """Draw how far each parameter is apart; `width` and `height` are the panel's, in inches."""
    order = sorted(apart, key=lambda name: -apart[name].max())
    shown = [name for name in apart if name in order[: len(PARAMETER_COLOURS)]]
    highest = 1.0
    for i, name in enumerate(shown):
        finite = np.isfinite(apart[name])
        steps = np.arange(len(apart[name]))
        highest = max(highest, apart[name][finite].max(initial=0.0))
        most = apart[name].max()
        largest = f"at most {most:{'.6g' if most < 1e6 else '.3g'}}" if most else "always 0"
        axes.plot(
            steps[finite], apart[name][finite], color=PARAMETER_COLOURS[i], linewidth=1.3,
            linestyle=PARAMETER_STYLES[i % 3], label=f"{name}: {largest}", zorder=3 + i,
        )  # fmt: skip
    title = (
        f"{len(shown)} of {len(apart)} parameters, the farthest"
        if len(shown) < len(apart)
        else None
    )
    labels = axes.get_legend_handles_labels()[1]
    columns = 2 if len(shown) > 3 and 2 * (0.065 * max(map(len, labels)) + 0.5) < width else 1
    # Linear up to 1, so that 0 (the same bits) has its place; logarithmic above, up to a margin
    # that the legend fits into.
    scale = max(0.4, 0.08 * np.log10(highest))
    decades = scale + np.log10(highest)
    legend = 0.165 * (-(-len(shown) // columns) + bool(title) + 1) / (height - 0.8)
    margin = decades * legend / (1 - min(legend, 0.6))
    axes.set_yscale("symlog", linthresh=1, linscale=scale * 0.9)
    axes.set_ylim(-0.12 * max(1.0, decades), highest * 10**margin)
    steps_of_ten = [10.0**k for k in range(int(np.log10(highest)) + 1)]
    between = [2.0, 5.0, 20.0, 50.0] if highest < 100 else []
    ticks = [0.0, *sorted([*steps_of_ten[:: 1 + len(steps_of_ten) // 8], *between])]
    ticks = [tick for tick in ticks if tick <= highest]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.locator_params(axis="x", integer=True)
    mark_single_points(axes)
    label_axes(axes, xlabel="learning step", ylabel="distance of the two runs in ulps")
    axes.legend(
        fontsize=8, frameon=False, loc="upper right", title=title, title_fontsize=8, ncols=columns
    )


def _draw_distance(axes: Axes, *, ladder: Ladder, title: str) -> None:
    """Draw at each step the largest distance over its bound of each tensor, the farthest seven."""
    order = sorted(ladder.ratios, key=lambda tensor: -ladder.ratios[tensor].max(initial=0.0))
    shown = [tensor for tensor in ladder.ratios if tensor in order[: len(PARAMETER_COLOURS)]]
    for i, tensor in enumerate(shown):
        values = ladder.ratios[tensor]
        finite = np.isfinite(values)
        said = f"at most {values.max(initial=0.0):.2g}" if values.any() else "always 0"
        if not finite.all():
            said = f"not finite at step {int(np.argmin(finite)) + 1}"
        axes.plot(
            np.arange(1, len(values) + 1)[finite], values[finite], color=PARAMETER_COLOURS[i],
            linestyle=PARAMETER_STYLES[i % 3], linewidth=1.2, zorder=3 + i,
            label=f"{shorten_tensor(tensor)}: {said}",
        )  # fmt: skip
    axes.axhline(1.0, color=GREY, linewidth=2.0, zorder=2.5, label="the bound")
    finding = ladder.finding
    if finding is not None and finding.step is not None:
        label = f"first finding ({finding.kind}): {finding.rung}, step {finding.step}"
        axes.axvline(finding.step, color="#a50f15", linewidth=1.2, dashes=(1, 1.5), label=label)
    _from_zero(axes, [*(ladder.ratios[tensor] for tensor in shown), np.ones(1)], zero="same bits")
    mark_single_points(axes)
    axes.locator_params(axis="x", integer=True)
    label_axes(axes, xlabel="learning step", ylabel="distance / bound, from equal states")
    few = len(shown) == len(order)
    rest = "" if few else f"\n{len(shown)} of {len(order)} tensors, the farthest"
    add_legend(axes, title=f"{shorten_title(title)}{rest}")


def _draw_reference(axes: Axes, *, pair: Pair, ladder: Ladder, title: str) -> None:
    """Draw each run's error against the reference in higher precision over the steps."""
    styles = {side: style for side, (_, style) in zip("ab", style_curves(pair), strict=True)}
    for side, values in ladder.errors.items():
        finite = np.isfinite(values)
        last = f": {values[-1]:.3g} at the end, at most {values.max():.3g}"
        look = styles[side] | {"label": styles[side]["label"] + last}
        axes.plot(np.flatnonzero(finite), values[finite], **look)
    _from_zero(axes, list(ladder.errors.values()), zero="0")
    axes.locator_params(axis="x", integer=True)
    mark_single_points(axes)
    ylabel = "distance from the reference in ulps"
    label_axes(axes, xlabel="learning step", ylabel=ylabel)
    add_legend(axes, title=f"{shorten_title(title)}\nagainst {ladder.reference}")


def _from_zero(axes: Axes, curves: Sequence[np.ndarray], *, zero: str) -> None:
    """Make the axis logarithmic from the least number on, with a place for zero below."""
    from matplotlib.ticker import LogFormatterSciNotation

    numbers = np.concatenate(curves)
    numbers = numbers[np.isfinite(numbers) & (numbers > 0)]
    low, high = (numbers.min(), numbers.max()) if numbers.size else (0.1, 1.0)
    least, most = math.floor(np.log10(low)), math.ceil(np.log10(high) + 1e-9)
    decades = max(1, most - least)
    axes.set_yscale("symlog", linthresh=10.0**least, linscale=0.18 * max(2, decades))
    axes.set_ylim(-0.15 * 10.0**least, 10.0**most * 10 ** (0.02 * decades))
    ticks = [10.0**k for k in range(least, most + 1)][:: 1 + decades // 9]
    plain = least >= -3 and most <= 4
    sign = LogFormatterSciNotation()
    labels = [f"{tick:g}" if plain else f"{sign(tick)}" for tick in ticks]
    axes.set_yticks([0.0, *ticks], [zero, *labels])
    axes.set_yticks([], minor=True)
    axes.axhline(0, color=GREY, linewidth=0.6, zorder=1)


def _draw_ladder(axes: Axes, *, ladder: Ladder, title: str, most: int) -> None:
    """Draw distance over bound of each tensor on each rung; dark orange is far beyond.

    The rows are in the order of the model; of many tensors the farthest are there.
    """
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    order = _tensors(ladder)
    farthest = _find_farthest(ladder)
    # Each rung has the cell that it is judged by.
    judged_by = {rung.tensor for rung in ladder.rungs}
    shown = set(sorted(order, key=lambda t: (t not in judged_by, -farthest[t]))[:most])
    row_of = {tensor: row for row, tensor in enumerate(t for t in order if t in shown)}
    cells = {
        (row_of[tensor], column): float(over)
        for column, rung in enumerate(ladder.rungs)
        for tensor, over in rung.tensors.items()
        if tensor in row_of
    }
    # Two hues that no eye confuses, and a step between them where the bound is.
    parts = [(0.0, "#f0f5fa"), (0.5, "#5b9bd0"), (0.5, "#fdae61"), (1.0, "#7f2704")]
    colours = LinearSegmentedColormap.from_list("over", parts)
    norm = LogNorm(LEAST_OVER, MOST_OVER, clip=True)
    grid = np.full((len(row_of), len(ladder.rungs)), np.nan)
    for (row, column), over in cells.items():
        if np.isnan(over):
            axes.fill_between(
                [column - 0.5, column + 0.5], row - 0.5, row + 0.5, facecolor="#e4e4e4",
                edgecolor=GREY, hatch="////", linewidth=0, zorder=2,
            )  # fmt: skip
            continue
        grid[row, column] = np.clip(over, LEAST_OVER, MOST_OVER)
        dark = over > 30
        axes.text(
            column, row, _times(over), ha="center", va="center", fontsize=7, zorder=4,
            color="white" if dark else BLACK, weight="bold" if over > 1 else "normal",
        )  # fmt: skip
        if over > 1:
            axes.plot(
                np.array([-1, 1, 1, -1, -1]) * 0.48 + column,
                np.array([-1, -1, 1, 1, -1]) * 0.46 + row, color=BLACK, linewidth=1.1, zorder=5,
            )  # fmt: skip
    drawn = axes.imshow(np.ma.masked_invalid(grid), cmap=colours, norm=norm, aspect="auto")
    labels = [f"{rung.name}\n{rung.verdict}" for rung in ladder.rungs]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(row_of)), [shorten_tensor(tensor) for tensor in row_of])
    axes.tick_params(length=0, labelsize=7.5, labelbottom=False, labeltop=True)
    for edge in np.arange(len(row_of) + 1) - 0.5:
        axes.axhline(edge, color="white", linewidth=1.5, zorder=3)
    for edge in np.arange(len(labels) + 1) - 0.5:
        axes.axvline(edge, color="white", linewidth=1.5, zorder=3)
    axes.spines[:].set_visible(False)
    figure = axes.get_figure(root=True)
    if figure is not None:
        bar = figure.colorbar(drawn, ax=axes, fraction=0.03, pad=0.01, extend="both")
        bar.set_label("largest distance / bound (1: at the bound)", fontsize=8)
        bar.ax.tick_params(labelsize=7.5)
        bar.ax.axhline(1, color=BLACK, linewidth=1.5)
    rest = len(order) - len(row_of)
    more = f"\n{len(row_of)} of {len(order)} tensors, the farthest" if rest else ""
    axes.set_title(f"{shorten_title(title)}{more}", fontsize=9, loc="left")


def _tensors(ladder: Ladder) -> list[str]:
    """Return the tensors of a ladder in the order of the model: as the rungs come to them.

    Of a rung in which something is missing, as a gradient, the others' order stays.
    """
    return list(dict.fromkeys(tensor for rung in ladder.rungs for tensor in rung.tensors))


def _find_farthest(ladder: Ladder) -> dict[str, float]:
    """Return each tensor's largest distance over its bound; -1 where nothing was judged."""
    farthest: dict[str, float] = {}
    for rung in ladder.rungs:
        for tensor, over in rung.tensors.items():
            farthest[tensor] = max(farthest.get(tensor, -1.0), -1.0 if np.isnan(over) else over)
    return farthest


def shorten_tensor(name: str) -> str:
    """Return the name of a tensor without its middle, if it is long."""
    return re.sub(r"(.{15}).{3,}(.{9})", r"\1…\2", name)


def _times(over: float) -> str:
    """Write distance over bound in at most five characters; ``=`` is no distance."""
    if over == 0:
        return "="
    if not np.isfinite(over):
        return "∞"
    if 0.001 <= over < 1000:
        return f"{over:.2g}" if over < 100 else f"{over:.0f}"
    return "<.001" if over < 1 else f"{over:.0e}".replace("e+0", "e").replace("e+", "e")


def _draw_counted(axes: Axes, *, counted: Mapping[str, np.ndarray], title: str) -> None:
    """Draw a histogram of ulps whose bars are 0, 1, 2 to 3, 4 to 7, and so on."""
    binned = {name: _binned(apart) for name, apart in counted.items()}
    bars = max(4, *(int(bins.max()) + 1 for bins in binned.values()))
    looks: list[dict[str, Any]] = [
        {"fill": True, "facecolor": "#a9cfe8", "edgecolor": "#56b4e9"},
        {"color": "#d55e00", "linewidth": 1.4, "linestyle": (0, (4, 1.5)), "zorder": 4},
        {"color": "#000000", "linewidth": 1.4, "zorder": 3},
    ]
    least = 1.0
    for (name, apart), look in zip(counted.items(), looks, strict=False):
        share = np.bincount(binned[name], minlength=bars) / len(apart)
        least = min(least, 1 / len(apart))
        middle, far = np.quantile(apart, [0.5, 0.99], method="inverted_cdf")
        label = f"{name}: median {middle:.4g}, 99 % within {far:.4g}, at most {apart.max():.4g}"
        label = textwrap.fill(label, 75)
        axes.stairs(share, np.arange(bars + 1) - 0.5, baseline=least / 3, label=label, **look)
    axes.set_yscale("log")
    axes.set_ylim(least / 2, 1.3)
    powers = [f"$2^{{{k}}}$" if k > 9 else str(2**k) for k in range(bars - 1)]
    shown = slice(None, None, 1 + bars // 16)
    axes.set_xticks(range(bars)[shown], ["0", *powers][shown])
    axes.set_xlim(-0.7, bars - 0.3)
    label_axes(axes, xlabel="distance in ulps, bins double", ylabel="fraction of parameter values")
    add_legend(axes, title=shorten_title(title))


def _binned(apart: np.ndarray) -> np.ndarray:
    """Return 0 for 0, 1 for 1, 2 for 2 to 3, …; what is infinite is with the farthest."""
    near = np.where(np.isfinite(apart), np.maximum(apart, 1), 2.0**64)
    return np.where(apart == 0, 0, 1 + np.floor(np.log2(near))).astype(int)
