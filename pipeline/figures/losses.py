"""Losses and validation scores over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data import Dataset
from pipeline.figures.curves import is_finite, mean_window, read_validation, select_losses
from pipeline.figures.settings import has_diverged
from pipeline.figures.style import (
    BLACK,
    GREY,
    IRREDUCIBLE,
    LOSS_LABELS,
    SAME_SCORE,
    SCORE_LABELS,
    Curve,
    add_legend,
    label_axes,
    make_dotted,
    mark_single_points,
    use_plain_log,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_loss(axes: Axes, *, curves: Sequence[Curve], dataset: Dataset) -> None:
    """Draw each run's loss over its steps, on a log scale, and its validation loss where known."""
    drawn_curves = select_losses(curves)
    kinds = list(dict.fromkeys(record.config["loss"]["name"] for record, _ in drawn_curves))
    ends = []
    windows = {mean_window(record, dataset) for record, _ in drawn_curves} - {1}
    lasting = [record.arrays["loss"] for record, _ in drawn_curves if not has_diverged(record)]
    for record, style in drawn_curves:
        loss = record.arrays["loss"].astype(np.float64).reshape(-1)
        usable = np.isfinite(loss) & (loss > 0)
        steps = np.arange(1, len(loss) + 1)
        name = style["label"]
        if len(kinds) > 1 and name:
            name += f": {record.config['loss']['name']}"
        window = mean_window(record, dataset)
        if window > 1:
            look = {"color": style["color"], "linewidth": 0.5, "alpha": 0.35, "zorder": 1.5}
            axes.plot(steps[usable], loss[usable], **look)
            finite = loss[np.isfinite(loss)]
            means = np.lib.stride_tricks.sliding_window_view(finite, window).mean(axis=1)
            axes.plot(steps[window - 1 : len(finite)], means, **style | {"label": name})
        else:
            axes.plot(steps[usable], loss[usable], **style | {"label": name})
        validated = read_validation(record, SAME_SCORE.get(record.config["loss"]["name"]))
        if validated:
            axes.plot(*validated, **make_dotted(style))
        if has_diverged(record):
            last = int(np.flatnonzero(usable)[-1])
            label = "diverged" if is_finite(record) else "ended: loss not finite"
            ends.append((steps[last], loss[last], style["color"], label))
    if any(record.named("val") for record, _ in drawn_curves):
        axes.plot([], [], **make_dotted({"color": GREY, "linewidth": 2.0, "zorder": 1}),
                  label="dotted: validation samples")  # fmt: skip
    if windows:
        label = f"faint: each step; lines: mean of {' or '.join(map(str, sorted(windows)))} steps"
        axes.plot([], [], color=GREY, linewidth=0.5, label=label)
    axes.set_yscale("log", nonpositive="mask")
    _mark_irreducible(axes, drawn_curves, kinds)
    if ends and lasting:
        # One run that flew away must not squeeze the others into a line.
        least = min(float(loss[loss > 0].min(initial=np.inf)) for loss in lasting)
        if np.isfinite(least):
            axes.set_ylim(least / 2, 10 * float(max(loss.max() for loss in lasting)))
    _mark_ends(axes, ends)
    use_plain_log(axes.yaxis, most=9)
    mark_single_points(axes)
    ylabel = LOSS_LABELS.get(kinds[0], kinds[0]) if len(kinds) == 1 else "each run's own loss"
    axes.locator_params(axis="x", integer=True)
    label_axes(axes, xlabel="learning step", ylabel=ylabel)
    add_legend(axes)


def _mark_ends(axes: Axes, ends: Sequence[tuple[float, float, Any, str]]) -> None:
    """Mark where runs ended that diverged: step, value, colour, and what the legend calls it."""
    for i, (step, value, colour, label) in enumerate(ends):
        axes.scatter(
            [step], [np.clip(value, *axes.get_ylim())], marker="X", s=70, color=[colour], zorder=8,
            edgecolors="white", linewidths=0.8, clip_on=False,
            label=label if label not in [end[-1] for end in ends[:i]] else None,
        )  # fmt: skip


def draw_validation(axes: Axes, *, curves: Sequence[Curve], score: str) -> None:
    """Draw one score of the validation samples over the steps, for each run that has it."""
    ends, lasting = [], []
    for record, style in curves:
        validated = read_validation(record, score)
        if validated is None or not validated[1].size:
            continue
        axes.plot(*validated, **style)
        if has_diverged(record):
            ends.append((validated[0][-1], validated[1][-1], style["color"], "diverged"))
        else:
            lasting += [validated[1].min(), validated[1].max()]
    if ends and lasting:
        air = 0.05 * float(max(lasting) - min(lasting)) or 0.05 * abs(float(max(lasting))) or 0.05
        axes.set_ylim(float(min(lasting)) - air, float(max(lasting)) + air)
        _mark_ends(axes, ends)
    mark_single_points(axes)
    axes.locator_params(axis="x", integer=True)
    label = f"validation {SCORE_LABELS.get(score, score)}"
    label_axes(axes, xlabel="learning step", ylabel=label)
    add_legend(axes)


def _mark_irreducible(axes: Axes, kept: Sequence[Curve], kinds: Sequence[str]) -> None:
    """Mark the level that only knowing the noise itself could beat."""
    facts = (record.about.get("data", {}).get("facts", {}) for record, _ in kept)
    noise = next((known["noise"] for known in facts if known.get("noise")), None)
    for kind, dashes in zip((k for k in kinds if k in IRREDUCIBLE), ((6, 2), (2, 2)), strict=False):
        if noise:
            symbol, level = IRREDUCIBLE[kind]
            label = f"noise, {symbol} = {level(noise):.3g}"
            axes.axhline(
                level(noise), color=BLACK, linewidth=0.8, dashes=dashes, zorder=1, label=label
            )
