"""The way of two parameters over the loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import losses
from pipeline.config.signatures import list_functions
from pipeline.data import Dataset
from pipeline.figures.curves import find_optimum, is_planar, read_line
from pipeline.figures.settings import leave_out_diverged, mark_diverged
from pipeline.figures.style import BLACK, Curve, Line, add_legend, label_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_MOST_SAMPLES = 20_000  # that the loss behind a path is the mean of


def list_paths(
    curves: Sequence[Curve], dataset: Dataset
) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Return each run's path of ``(w, b)``, shape ``(rows, 2)``, up to its last finite row.

    Beside others, a run that diverged has none.
    """
    paths = []
    for record, style in leave_out_diverged(curves) if is_planar(dataset) else ():
        path = record.named("param")
        if set(path) != {"w", "b"} or any(len(rows) != rows.size for rows in path.values()):
            continue
        rows = np.column_stack([path[n].reshape(-1).astype(np.float64) for n in ("w", "b")])
        finite = np.isfinite(rows).all(axis=1)
        finite_rows = rows[: len(rows) if finite.all() else int(np.argmin(finite))]
        if len(finite_rows):
            paths.append((finite_rows, style))
    return paths


def draw_path(axes: Axes, *, curves: Sequence[Curve], dataset: Dataset) -> None:
    """Draw each run's path of ``(w, b)``, its start and end, and contours of the training loss."""
    paths = list_paths(curves, dataset)
    optimum, truth = find_optimum(curves), read_line(dataset.facts.get("truth"))
    goals = {"least squares": (optimum, "+"), "true values": (truth, "x")}
    frame = _frame([path for path, _ in paths], [point for point, _ in goals.values() if point])
    for path, style in paths:
        # Where a line comes from 1e18 the renderer rounds, and draws it beside its place.
        near = np.abs(path - frame[0]) <= 1e3 * (frame[1] - frame[0])
        shown = np.where(near.all(axis=1, keepdims=True), path, np.nan)
        axes.plot(shown[:, 0], shown[:, 1], **style)
    for i, (path, _) in enumerate(paths):
        ends = [(path[0], "white", "start"), (path[-1], BLACK, "end")]
        for row, colour, name in ends if len(path) > 1 else ends[1:]:
            axes.scatter(
                row[0], row[1], s=30, color=colour, edgecolors=BLACK, linewidths=0.9, zorder=8,
                label=name if i == 0 else None,
            )  # fmt: skip
    for name, (point, marker) in goals.items():
        if point:
            axes.scatter(
                point[0], point[1], marker=marker, s=60, color="#d95f02", linewidths=1.8, zorder=9,
                label=name,
            )  # fmt: skip
    axes.set_xlim(*frame[:, 0])
    axes.set_ylim(*frame[:, 1])
    axes.locator_params(nbins=6)
    mark_diverged(axes, curves)
    kind = _contours(axes, curves, dataset)
    if kind:
        axes.plot([], [], color="#b5b5b5", linewidth=0.9, label=f"training {kind}")
    label_axes(axes, xlabel="w", ylabel="b")
    add_legend(axes)


def _frame(paths: Sequence[np.ndarray], goals: Sequence[Line]) -> np.ndarray:
    """Return lower left and upper right corner of a frame about paths and goals, shape (2, 2).

    A path that flies away leaves it: rows count that are at most three times as far from the goal
    as the farthest start.
    """
    marks = np.array([*(path[0] for path in paths), *goals])
    reach = 3 * np.ptp(marks, axis=0).max()
    rows = np.concatenate([*paths, marks])
    near = (np.abs(rows - marks[-1]) <= reach).all(axis=1)
    points = rows[near] if reach > 0 else rows
    low, high = points.min(axis=0), points.max(axis=0)
    width = high - low
    # A path that stays on the spot still needs a frame that is not empty.
    air = np.where(width > 0, 0.15 * width, 1e-3 * np.maximum(1.0, np.abs(high)))
    return np.stack([low - air, high + air])


def _contours(axes: Axes, curves: Sequence[Curve], dataset: Dataset) -> str | None:
    """Draw the training loss behind the axes' frame; return its name, None if nothing was drawn.

    Of runs with several losses it is that of the first.
    """
    component = dict(curves[0][0].config["loss"])
    kind = component.pop("name")
    loss = list_functions(losses).get(kind)
    if loss is None:
        return None
    # The shared losses take means over everything; here a mean over samples is wanted.
    ops = SimpleNamespace(mean=partial(np.mean, axis=-1), square=np.square, absolute=np.abs)
    every = -(-len(dataset.arrays["x_train"]) // _MOST_SAMPLES)
    x = dataset.arrays["x_train"][::every].reshape(-1)
    y = dataset.arrays["y_train"][::every].reshape(-1)
    w, b = np.linspace(*axes.get_xlim(), 90), np.linspace(*axes.get_ylim(), 90)
    # Row by row: 90 × n numbers instead of 90 × 90 × n.
    rows = [loss(np.add.outer(w, 0 * x) * x + each, y, ops=ops, **component) for each in b]
    surface = np.stack(rows)
    low, high = float(surface.min()), float(surface.max())
    if not np.isfinite(surface).all() or not 0 <= low < high:
        return None
    levels = np.geomspace(max(low, high * 1e-6) * 1.01, high, 14)[:-1]
    drawn = axes.contour(
        w, b, surface, levels=levels, colors="#b5b5b5", linewidths=0.7, linestyles="-", zorder=1
    )
    axes.clabel(drawn, levels=levels[::2], fmt="%.2g", fontsize=7, colors="#6a6a6a")
    return str(kind) if every == 1 else f"{kind} of every {every}th sample"
