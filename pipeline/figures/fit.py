"""The data and what a model makes of it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data import Dataset
from pipeline.figures.curves import find_kind, find_optimum, is_planar, list_lines
from pipeline.figures.settings import leave_out_diverged, mark_diverged, name_shortly
from pipeline.figures.style import (
    BLACK,
    DOT_SIZES,
    GREY,
    MOST_CLASSES,
    MOST_DOTS,
    MOST_PANELS,
    OTHER_DOT_SIZE,
    Curve,
    Pair,
    add_legend,
    label_axes,
    new_figure,
)
from pipeline.record.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def list_classified(
    records: Sequence[RunRecord], dataset: Dataset
) -> list[tuple[RunRecord, np.ndarray]]:
    """Return the runs whose test logits are finite, with the class that each sample gets."""
    classified = []
    for record in records if dataset.classes is not None else ():
        logits = record.arrays.get("prediction")
        if logits is None or len(logits) != len(dataset.arrays["y_test"]):
            continue
        if np.isfinite(logits).all():
            is_binary = logits.shape[1] == 1
            columns = np.hstack([np.zeros_like(logits), logits]) if is_binary else logits
            classified.append((record, columns.argmax(axis=1)))
    return classified


def list_residuals(
    curves: Sequence[Curve], dataset: Dataset
) -> list[tuple[str, np.ndarray, np.ndarray, dict[str, Any]]]:
    """Return each run's kind, predictions and residuals on the test samples, where finite.

    Beside others, a run that diverged has none: its residuals say nothing but that.
    """
    target = dataset.arrays["y_test"]
    residuals = []
    for record, style in leave_out_diverged(curves) if dataset.classes is None else ():
        prediction = record.arrays.get("prediction")
        if prediction is None or prediction.shape != target.shape:
            continue
        prediction = prediction.astype(np.float64)
        residual = (target - prediction).reshape(-1)
        if np.isfinite(residual).all() and residual.size:
            residuals.append((find_kind(record), prediction.reshape(-1), residual, style))
    return residuals


def draw_samples(axes: Axes, dataset: Dataset) -> None:
    """Draw the training samples of a data set with one feature, at most about `MOST_DOTS`."""
    x, y = dataset.arrays["x_train"], dataset.arrays["y_train"]
    shown = slice(None, None, -(-len(x) // MOST_DOTS))
    count = len(x[shown])
    label = f"{len(x)} training samples" if count == len(x) else f"{count} of {len(x)} samples"
    axes.scatter(
        x[shown], y[shown], s=11, color=GREY, alpha=0.75, linewidths=0, zorder=2, label=label
    )
    label_axes(axes, xlabel="x", ylabel="y")


def draw_fit(axes: Axes, *, curves: Sequence[Curve], dataset: Dataset) -> None:
    """Draw the learned lines over the training samples, and the line of least squares."""
    draw_samples(axes, dataset)
    x, y = dataset.arrays["x_train"], dataset.arrays["y_train"]
    low, high = float(x.min()), float(x.max())
    beyond = 0.07 * ((high - low) or 1.0)
    span = float(np.ptp(y)) or 1.0
    for (w, b), style in list_lines(curves, dataset):
        ends = np.array([low, high])
        heights = w * ends + b
        if np.ptp(heights) > 10 * span:
            # From one edge of the picture to the other: renderers round far coordinates.
            heights = np.array([y.min() - span, y.max() + span])
            ends = (heights - b) / w
        axes.plot(ends, heights, **style, dash_capstyle="butt", solid_capstyle="butt")
    optimum = find_optimum(curves)
    if optimum:
        # Longer than the learned lines, so that its ends show when those lie exactly on it.
        ends = np.array([low - beyond, high + beyond])
        line = optimum[0] * ends + optimum[1]
        axes.plot(ends, line, color=BLACK, linewidth=0.9, zorder=2.5, label="least squares")
    # A line that flew away must not squeeze the samples into a dash.
    bottom, top = axes.get_ylim()
    low, high = float(y.min()) - 0.8 * span, float(y.max()) + 0.8 * span
    axes.set_ylim(max(bottom, low), min(top, high))
    add_legend(axes)


def draw_residuals(axes: Axes, *, curves: Sequence[Curve], dataset: Dataset) -> None:
    """Draw the residuals of the test samples, over x where there is one feature, or else over ŷ."""
    residuals = list_residuals(curves, dataset)
    for kind, prediction, residual, style in residuals:
        across = dataset.arrays["x_test"].reshape(-1) if is_planar(dataset) else prediction
        shown = slice(None, None, -(-residual.size // MOST_DOTS))
        axes.scatter(
            across[shown], residual[shown], s=DOT_SIZES.get(kind, OTHER_DOT_SIZE),
            color=[style["color"]], marker=style.get("marker", "o"), linewidths=0,
            zorder=style["zorder"], label=style["label"], rasterized=True,
        )  # fmt: skip
    axes.axhline(0, color=BLACK, linewidth=0.8, zorder=2)
    noise = dataset.facts.get("noise")
    if noise:
        for sign in (-1, 1):
            label = f"noise, ±σ = ±{noise:.3g}" if sign == 1 else None
            axes.axhline(
                sign * noise, color=BLACK, linewidth=0.8, dashes=(6, 2), zorder=7, label=label
            )
    mark_diverged(axes, curves)
    label_axes(
        axes,
        xlabel="x" if is_planar(dataset) else "prediction ŷ (units of y)",
        ylabel="residual y − ŷ on test samples (units of y)",
    )
    add_legend(axes)


def draw_histogram(axes: Axes, *, curves: Sequence[Curve], dataset: Dataset) -> None:
    """Draw the density of each run's residuals sideways, to stand beside `draw_residuals`."""
    residuals = list_residuals(curves, dataset)
    everything = np.concatenate([residual for _, _, residual, _ in residuals])
    low, high = everything.min(), everything.max()
    # Residuals that hardly differ, as those of a perfect fit, still need bins of some width.
    air = max(100 * np.spacing(max(abs(low), abs(high))), 1e-15)
    edges = np.histogram_bin_edges(everything, bins=30, range=(low - air, high + air))
    for _, _, residual, style in residuals:
        density, _ = np.histogram(residual, bins=edges, density=True)
        look = {key: style[key] for key in ("color", "linestyle", "linewidth", "zorder")}
        axes.stairs(density, edges, orientation="horizontal", **look)
    label_axes(axes, xlabel="density\n(1 / units of y)", ylabel="")
    axes.tick_params(labelleft=False)


def draw_confusions(
    records: Sequence[RunRecord], dataset: Dataset, *, pairs: Sequence[Pair]
) -> Figure:
    """Draw a confusion matrix a run, and say on how many samples the runs of each pair differ."""
    classified = list_classified(records, dataset)
    classes_of = {id(record): classes for record, classes in classified}
    named = dict(zip(map(id, records), name_shortly(records), strict=True))
    shown = classified[:MOST_PANELS]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    lines = [
        f"{named[id(a)]} and {named[id(b)]} disagree on "
        f"{np.count_nonzero(classes_of[id(a)] != classes_of[id(b)])} of "
        f"{len(classes_of[id(a)])} test samples"
        for a, b in pairs
        if id(a) in classes_of and id(b) in classes_of
    ]
    if len(lines) > MOST_PANELS:
        lines[MOST_PANELS:] = [f"and {len(lines) - MOST_PANELS} more pairs"]
    if len(classified) > len(shown):
        lines.append(f"{len(shown)} of {len(classified)} runs are drawn")
    figure = new_figure(max(4.8, 4.0 * columns), 4.3 * rows + 0.2 * len(lines))
    for i, (record, classes) in enumerate(shown):
        axes = figure.add_subplot(rows, columns, i + 1)
        draw_confusion(axes, predicted=classes, dataset=dataset)
        name, right = named[id(record)], axes.get_title(loc="left")
        between = ": " if len(name + right) < 38 else "\n"
        axes.set_title(f"{textwrap.fill(name, 40)}{between}{right}", fontsize=9, loc="left")
    if lines:
        text = "\n".join(textwrap.fill(line, 50 * columns + 10) for line in lines)
        figure.suptitle(text, fontsize=10)
    return figure


def draw_confusion(axes: Axes, *, predicted: np.ndarray, dataset: Dataset) -> None:
    """Draw how many test samples of each class get which class; dark: a large part of its row."""
    truth, classes = dataset.arrays["y_test"][:, 0], int(dataset.classes or 0)
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, (truth, predicted), 1)
    share = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1.25)
    for row, column in zip(*np.nonzero(counts), strict=True) if classes <= MOST_CLASSES else ():
        wrong = "#a50f15" if row != column else BLACK
        axes.text(
            column, row, str(counts[row, column]), ha="center", va="center",
            fontsize=9 if classes <= 10 else 6.5, weight="bold" if row != column else "normal",
            color="white" if share[row, column] > 0.6 else wrong,
        )  # fmt: skip
    labels = [
        re.sub(r"(.{13}).{2,}", r"\1…", str(label))
        for label in dataset.facts.get("labels", range(classes))
    ]
    if classes <= MOST_CLASSES and len(labels) == classes:
        long = max(map(len, labels)) > 3
        axes.set_xticks(
            range(classes), labels, rotation=40 if long else 0, ha="right" if long else "center",
            rotation_mode="anchor",
        )  # fmt: skip
        axes.set_yticks(range(classes), labels)
    right = int(np.trace(counts))
    axes.set_title(f"{right} of {len(truth)} right", fontsize=9, loc="left")
    label_axes(axes, xlabel="predicted class", ylabel="true class (test samples)")
