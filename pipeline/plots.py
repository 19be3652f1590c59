"""Records as figures for a paper or the MLflow UI; the only importer of matplotlib.

Figures are made without ``pyplot``: nothing global is set, no window opens, and what is not kept is
freed. Matplotlib is imported when the first figure is made.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from pipeline import config, losses, storage
from pipeline.data import Dataset
from pipeline.parity.distance import ulps
from pipeline.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pair = tuple[RunRecord, RunRecord]
Curve = tuple[RunRecord, dict[str, Any]]
Line = tuple[float, float]

DPI = 200

# Two frameworks usually agree so well that one curve hides the other: a wide bright line below a
# narrow dark dashed one shows both, in grey and to colour-blind eyes too.
_STYLES: dict[str, dict[str, Any]] = {
    "torch": {"color": "#22bfe0", "linestyle": "-", "linewidth": 5.0, "zorder": 3},
    "tensorflow": {"color": "#a50f15", "linestyle": (0, (4, 2.5)), "linewidth": 1.8, "zorder": 5},
    "fit": {"color": "#3f007d", "linestyle": (0, (1, 1.4)), "linewidth": 2.4, "zorder": 6},
}
_OTHER_STYLE = {"color": "#7a7a7a", "linestyle": "-.", "linewidth": 3.2, "zorder": 4}
# The same for dots: a small one in the middle of a large one. Areas in points².
_DOT_SIZES = {"torch": 24.0, "tensorflow": 5.0, "fit": 7.0}
_OTHER_DOT_SIZE = 11.0
# Okabe and Ito's colours, in an order that also steps through the greys.
_PARAMETER_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#000000", "#56b4e9", "#d55e00")
_PARAMETER_STYLES = ("-", (0, (4, 1.5)), ":")
_MARKERS = "os^DvPph"
_BLACK, _GREY = "#000000", "#8a8a8a"

_MANY = 8  # more runs than this in one picture are drawn thin, with one legend entry a label
_DOTS_AT_MOST = 5000
_PANELS = 6

_LOSS_LABELS = {
    "mse": "mean squared error (units of y²)",
    "mae": "mean absolute error (units of y)",
}
# The least that a loss can be on average when the targets carry normal noise of deviation σ.
_IRREDUCIBLE = {
    "mse": ("σ²", lambda noise: noise**2),
    "mae": ("σ·√(2/π)", lambda noise: noise * np.sqrt(2 / np.pi)),
}


def single(record: RunRecord, dataset: Dataset) -> dict[str, Figure]:
    """Draw one run: ``samples``, ``fit``, ``loss``, ``path`` and ``residuals``.

    A figure that makes no sense for the model or the data, or for which the record holds too
    little, is left out: the line needs one feature and one target, the path two scalars at every
    step, the residuals predictions.
    """
    figures = {}
    if _is_planar(dataset):
        figures["samples"] = _new(6.2, 4.2)
        axes = figures["samples"].add_subplot()
        _draw_samples(axes, dataset)
        _legend(axes)
    return figures | _overlaid([record], dataset)


def overview(record: RunRecord, dataset: Dataset) -> Figure:
    """Draw one run in one figure: its loss, its line (or its residuals), and its path."""
    curves = _curves([record])
    drawings = []
    if _kept_losses(curves):
        drawings.append(partial(_draw_loss, curves=curves))
    if _lines(curves, dataset):
        drawings.append(partial(_draw_fit, curves=curves, dataset=dataset))
    elif _residuals(curves, dataset):
        drawings.append(partial(_draw_residuals, curves=curves, dataset=dataset))
    if _paths(curves, dataset):
        drawings.append(partial(_draw_path, curves=curves, dataset=dataset))
    figure = _new(4.6 * max(1, len(drawings)), 4.2)
    for i, draw in enumerate(drawings):
        draw(figure.add_subplot(1, len(drawings), i + 1))
    if not drawings:
        figure.text(0.5, 0.5, "the run kept nothing to draw", ha="center", fontsize=10)
    figure.suptitle(_heading(record), fontsize=10)
    return figure


def comparison(
    records: Sequence[RunRecord], dataset: Dataset, *, pairs: Sequence[Pair]
) -> dict[str, Figure]:
    """Draw all runs over each other: ``fit``, ``loss``, ``path``, ``residuals``, and ``ulps``.

    Parameters
    ----------
    records
        The runs. One that lacks what a figure needs is left out of that figure.
    dataset
        What all of them were trained on.
    pairs
        Runs whose parameters are compared step by step in the figure ``ulps``.
    """
    figures = _overlaid(records, dataset)
    measured = [(pair, found) for pair in pairs if (found := _apart(*pair))]
    if measured:
        figures["ulps"] = _ulps(measured, pairs=len(pairs))
    return figures


def save(figures: Mapping[str, Figure], folder: Path, *, formats: Sequence[str]) -> list[Path]:
    """Write every figure as ``<name>.<format>``, each file whole or not at all."""
    paths = []
    for name, figure in figures.items():
        for kind in formats:
            path = folder / f"{name}.{kind}"

            def write(file: BinaryIO, figure: Figure = figure, kind: str = kind) -> None:
                figure.savefig(file, format=kind, dpi=DPI)

            storage.write_atomic(path, write)
            paths.append(path)
    return paths


def png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def names(records: Sequence[RunRecord]) -> list[str]:
    """Return one name a run: its label, and where several share it, the settings that differ."""
    labels = [record.label() for record in records]
    flat = [config.flatten(record.config) for record in records]
    found = []
    for label, own, record in zip(labels, flat, records, strict=True):
        peers = [other for other, its in zip(flat, labels, strict=True) if its == label]
        keys = {key: None for peer in peers for key in peer}
        parts = [
            f"{key.removesuffix('.name')}={own.get(key, '–')}"
            for key in keys
            if any(peer.get(key) != own.get(key) for peer in peers)
        ]
        if len(peers) > 1 and not parts and record.about.get("run"):
            parts = [str(record.about["run"])[:8]]
        found.append(", ".join([label, *parts]))
    return found


def _overlaid(records: Sequence[RunRecord], dataset: Dataset) -> dict[str, Figure]:
    """Draw the figures that one run and many runs have in common."""
    curves = _curves(records)
    figures = {}
    if _lines(curves, dataset):
        figures["fit"] = _new(6.2, 4.4)
        _draw_fit(figures["fit"].add_subplot(), curves=curves, dataset=dataset)
    if _kept_losses(curves):
        figures["loss"] = _new(6.2, 4.2)
        _draw_loss(figures["loss"].add_subplot(), curves=curves)
    if _paths(curves, dataset):
        figures["path"] = _new(6.2, 4.8)
        _draw_path(figures["path"].add_subplot(), curves=curves, dataset=dataset)
    if _residuals(curves, dataset):
        figures["residuals"] = _new(7.2, 4.2)
        left, right = figures["residuals"].subplots(
            1, 2, sharey=True, gridspec_kw={"width_ratios": [3, 1]}
        )
        _draw_residuals(left, curves=curves, dataset=dataset)
        _draw_histogram(right, curves=curves, dataset=dataset)
    return figures


# What there is to draw


def _is_planar(dataset: Dataset) -> bool:
    """Whether the samples are points of a plane: one feature, one target."""
    return dataset.inputs == (1,) and dataset.outputs == 1


def _curves(records: Sequence[RunRecord]) -> list[Curve]:
    """Give each run the keyword arguments of its line.

    A few runs of one label are told apart by markers, and carry their differing settings in the
    legend; of many runs, only the first of each label has a legend entry.
    """
    many = len(records) > _MANY
    labels = [record.label() for record in records]
    curves = []
    for i, (record, name) in enumerate(zip(records, names(records), strict=True)):
        style = dict(_STYLES.get(_kind(record), _OTHER_STYLE))
        before = labels[:i].count(labels[i])
        if many:
            style |= {"linewidth": style["linewidth"] / 2, "label": None if before else labels[i]}
        else:
            style["label"] = name
            if labels.count(labels[i]) > 1:
                style |= {"marker": _MARKERS[before], "markevery": 0.15, "markersize": 5.5}
                style |= {"markerfacecolor": "white", "markeredgewidth": 1.2}
            if len(records) == 1:  # nothing to hide or to be hidden by
                style["linewidth"] = 2.0
        curves.append((record, style))
    return curves


def _kind(record: RunRecord) -> str:
    """Return what decides a run's look: its backend, or that Keras trained it by itself."""
    return "fit" if record.config["train"]["loop"] == "fit" else record.backend


def _line(values: Mapping[str, Any] | None) -> Line | None:
    """Return slope and intercept, where the values are just that: one finite w, one finite b."""
    if not values or set(values) != {"w", "b"}:
        return None
    w, b = (np.asarray(values[name], dtype=np.float64).reshape(-1) for name in ("w", "b"))
    if w.size != 1 or b.size != 1 or not np.isfinite([w[0], b[0]]).all():
        return None
    return float(w[0]), float(b[0])


def _optimum(curves: Sequence[Curve]) -> Line | None:
    """Return the least-squares line; the runs of one picture share their data, and so share it."""
    found = (_line(record.about.get("least_squares")) for record, _ in curves)
    return next((line for line in found if line), None)


def _lines(curves: Sequence[Curve], dataset: Dataset) -> list[tuple[Line, dict[str, Any]]]:
    """Return the learned lines, with their styles."""
    if not _is_planar(dataset):
        return []
    found = [(_line(record.named("last")), style) for record, style in curves]
    return [(line, style) for line, style in found if line]


def _paths(curves: Sequence[Curve], dataset: Dataset) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Return each run's path of ``(w, b)``, shape ``(rows, 2)``, up to its last finite row."""
    found = []
    for record, style in curves if _is_planar(dataset) else ():
        path = record.named("param")
        if set(path) != {"w", "b"} or any(len(rows) != rows.size for rows in path.values()):
            continue
        rows = np.column_stack([path[n].reshape(-1).astype(np.float64) for n in ("w", "b")])
        finite = np.isfinite(rows).all(axis=1)
        kept = rows[: len(rows) if finite.all() else int(np.argmin(finite))]
        if len(kept):
            found.append((kept, style))
    return found


def _kept_losses(curves: Sequence[Curve]) -> list[Curve]:
    """Return the runs that made at least one step."""
    return [(record, style) for record, style in curves if record.steps]


def _is_finite(record: RunRecord) -> bool:
    """Whether the loss stayed finite to the end."""
    return bool(np.isfinite(record.arrays["loss"]).all())


def _residuals(
    curves: Sequence[Curve], dataset: Dataset
) -> list[tuple[str, np.ndarray, np.ndarray, dict[str, Any]]]:
    """Return each run's kind, predictions and residuals on the test samples, where finite."""
    target = dataset.arrays["y_test"]
    found = []
    for record, style in curves:
        prediction = record.arrays.get("prediction")
        if prediction is None or prediction.shape != target.shape:
            continue
        residual = (target - prediction.astype(np.float64)).reshape(-1)
        if np.isfinite(residual).all() and residual.size:
            found.append((_kind(record), prediction.reshape(-1), residual, style))
    return found


def _apart(a: RunRecord, b: RunRecord) -> dict[str, np.ndarray]:
    """Return by parameter how many ulps two runs are apart at each step, the farthest element's.

    Of runs of different length the steps that both made; nothing if they cannot be compared.
    """
    left, right = a.named("param"), b.named("param")
    found = {}
    for name in left:
        if name not in right or not left[name].size or not right[name].size:
            continue
        rows = min(len(left[name]), len(right[name]))
        try:
            steps = ulps(left[name][:rows], right[name][:rows])
        except ValueError:
            continue
        found[name] = steps.reshape(rows, -1).max(axis=1)
    return found


# Drawing into given axes


def _draw_samples(axes: Axes, dataset: Dataset) -> None:
    x, y = dataset.arrays["x_train"], dataset.arrays["y_train"]
    shown = slice(None, None, -(-len(x) // _DOTS_AT_MOST))
    count = len(x[shown])
    label = f"{len(x)} training samples" if count == len(x) else f"{count} of {len(x)} samples"
    axes.scatter(
        x[shown], y[shown], s=11, color=_GREY, alpha=0.75, linewidths=0, zorder=2, label=label
    )
    _finish(axes, xlabel="x", ylabel="y")


def _draw_fit(axes: Axes, *, curves: Sequence[Curve], dataset: Dataset) -> None:
    _draw_samples(axes, dataset)
    x, y = dataset.arrays["x_train"], dataset.arrays["y_train"]
    low, high = float(x.min()), float(x.max())
    beyond = 0.07 * ((high - low) or 1.0)
    span = float(np.ptp(y)) or 1.0
    for (w, b), style in _lines(curves, dataset):
        ends = np.array([low, high])
        heights = w * ends + b
        if np.ptp(heights) > 10 * span:
            # From one edge of the picture to the other: renderers round far coordinates.
            heights = np.array([y.min() - span, y.max() + span])
            ends = (heights - b) / w
        axes.plot(ends, heights, **style, dash_capstyle="butt", solid_capstyle="butt")
    optimum = _optimum(curves)
    if optimum:
        # Longer than the learned lines, so that its ends show when those lie exactly on it.
        ends = np.array([low - beyond, high + beyond])
        line = optimum[0] * ends + optimum[1]
        axes.plot(ends, line, color=_BLACK, linewidth=0.9, zorder=2.5, label="least squares")
    # A line that flew away must not squeeze the samples into a dash.
    bottom, top = axes.get_ylim()
    low, high = float(y.min()) - 0.8 * span, float(y.max()) + 0.8 * span
    axes.set_ylim(max(bottom, low), min(top, high))
    _legend(axes)


def _draw_loss(axes: Axes, *, curves: Sequence[Curve]) -> None:
    kept = _kept_losses(curves)
    kinds = list(dict.fromkeys(record.config["loss"]["name"] for record, _ in kept))
    ends = []
    lasting = [record.arrays["loss"] for record, _ in kept if _is_finite(record)]
    for record, style in kept:
        loss = record.arrays["loss"].astype(np.float64).reshape(-1)
        usable = np.isfinite(loss) & (loss > 0)
        steps = np.arange(1, len(loss) + 1)
        (drawn,) = axes.plot(steps[usable], loss[usable], **style)
        if len(kinds) > 1 and style["label"]:
            drawn.set_label(f"{style['label']}: {record.config['loss']['name']}")
        if not _is_finite(record) and usable.any():
            last = int(np.flatnonzero(usable)[-1])
            ends.append((steps[last], loss[last], style["color"]))
    axes.set_yscale("log", nonpositive="mask")
    _mark_irreducible(axes, kept, kinds)
    if ends and lasting:
        # One run that flew away must not squeeze the others into a line.
        least = min(float(loss[loss > 0].min(initial=np.inf)) for loss in lasting)
        if np.isfinite(least):
            axes.set_ylim(least / 2, 10 * float(max(loss.max() for loss in lasting)))
    for i, (step, value, colour) in enumerate(ends):
        axes.scatter(
            [step], [min(value, axes.get_ylim()[1])], marker="X", s=70, color=colour, zorder=8,
            edgecolors="white", linewidths=0.8, clip_on=False,
            label="ended: loss not finite" if i == 0 else None,
        )  # fmt: skip
    _plain_log(axes)
    ylabel = _LOSS_LABELS.get(kinds[0], kinds[0]) if len(kinds) == 1 else "each run's own loss"
    axes.locator_params(axis="x", integer=True)
    _finish(axes, xlabel="learning step", ylabel=ylabel)
    _legend(axes)


def _mark_irreducible(axes: Axes, kept: Sequence[Curve], kinds: Sequence[str]) -> None:
    """Mark the level that only knowing the noise itself could beat."""
    facts = (record.about.get("data", {}).get("facts", {}) for record, _ in kept)
    noise = next((known["noise"] for known in facts if known.get("noise")), None)
    for kind, dashes in zip(
        (k for k in kinds if k in _IRREDUCIBLE), ((6, 2), (2, 2)), strict=False
    ):
        if noise:
            symbol, level = _IRREDUCIBLE[kind]
            label = f"noise, {symbol} = {level(noise):.3g}"
            axes.axhline(
                level(noise), color=_BLACK, linewidth=0.8, dashes=dashes, zorder=1, label=label
            )


def _draw_path(axes: Axes, *, curves: Sequence[Curve], dataset: Dataset) -> None:
    paths = _paths(curves, dataset)
    optimum, truth = _optimum(curves), _line(dataset.facts.get("truth"))
    goals = {"least squares": (optimum, "+"), "true values": (truth, "x")}
    frame = _frame([path for path, _ in paths], [point for point, _ in goals.values() if point])
    for path, style in paths:
        # Where a line comes from 1e18 the renderer rounds, and draws it beside its place.
        near = np.abs(path - frame[0]) <= 1e3 * (frame[1] - frame[0])
        shown = np.where(near.all(axis=1, keepdims=True), path, np.nan)
        axes.plot(shown[:, 0], shown[:, 1], **style)
    for i, (path, _) in enumerate(paths):
        for row, colour, name in ((path[0], "white", "start"), (path[-1], _BLACK, "end")):
            axes.scatter(
                row[0], row[1], s=30, color=colour, edgecolors=_BLACK, linewidths=0.9, zorder=8,
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
    kind = _contours(axes, curves, dataset)
    if kind:
        axes.plot([], [], color="#b5b5b5", linewidth=0.9, label=f"training {kind}")
    _finish(axes, xlabel="w", ylabel="b")
    _legend(axes)


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
    loss = config.functions(losses).get(kind)
    if loss is None:
        return None
    # The shared losses take means over everything; here a mean over samples is wanted.
    ops = SimpleNamespace(mean=partial(np.mean, axis=-1), square=np.square, absolute=np.abs)
    x = dataset.arrays["x_train"].reshape(-1)
    y = dataset.arrays["y_train"].reshape(-1)
    w, b = np.linspace(*axes.get_xlim(), 90), np.linspace(*axes.get_ylim(), 90)
    # Row by row: the whole grid at once would take 90 × 90 × n numbers.
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
    return str(kind)


def _draw_residuals(axes: Axes, *, curves: Sequence[Curve], dataset: Dataset) -> None:
    found = _residuals(curves, dataset)
    for kind, prediction, residual, style in found:
        across = dataset.arrays["x_test"].reshape(-1) if _is_planar(dataset) else prediction
        shown = slice(None, None, -(-residual.size // _DOTS_AT_MOST))
        axes.scatter(
            across[shown], residual[shown], s=_DOT_SIZES.get(kind, _OTHER_DOT_SIZE),
            color=style["color"], marker=style.get("marker", "o"), linewidths=0,
            zorder=style["zorder"], label=style["label"], rasterized=True,
        )  # fmt: skip
    axes.axhline(0, color=_BLACK, linewidth=0.8, zorder=2)
    noise = dataset.facts.get("noise")
    if noise:
        for sign in (-1, 1):
            label = f"noise, ±σ = ±{noise:.3g}" if sign == 1 else None
            axes.axhline(
                sign * noise, color=_BLACK, linewidth=0.8, dashes=(6, 2), zorder=7, label=label
            )
    _finish(
        axes,
        xlabel="x" if _is_planar(dataset) else "prediction ŷ (units of y)",
        ylabel="residual y − ŷ on test samples (units of y)",
    )
    _legend(axes)


def _draw_histogram(axes: Axes, *, curves: Sequence[Curve], dataset: Dataset) -> None:
    found = _residuals(curves, dataset)
    everything = np.concatenate([residual for _, _, residual, _ in found])
    edges = np.histogram_bin_edges(everything, bins=30)
    for _, _, residual, style in found:
        density, _ = np.histogram(residual, bins=edges, density=True)
        look = {key: style[key] for key in ("color", "linestyle", "linewidth", "zorder")}
        axes.stairs(density, edges, orientation="horizontal", **look)
    _finish(axes, xlabel="density\n(1 / units of y)", ylabel="")
    axes.tick_params(labelleft=False)


def _ulps(measured: Sequence[tuple[Pair, dict[str, np.ndarray]]], *, pairs: int) -> Figure:
    """Draw how far apart the runs of each pair are, one panel a pair."""
    shown = measured[:_PANELS]
    columns = 1 if len(shown) == 1 else 2
    rows = -(-len(shown) // columns)
    figure = _new(6.2 if columns == 1 else 9.0, 4.2 if rows == 1 else 2.9 * rows)
    runs = list({id(run): run for pair, _ in measured for run in pair}.values())
    named = dict(zip(map(id, runs), names(runs), strict=True))
    for i, ((a, b), found) in enumerate(shown):
        axes = figure.add_subplot(rows, columns, i + 1)
        _draw_ulps(axes, found)
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


def _draw_ulps(axes: Axes, found: Mapping[str, np.ndarray]) -> None:
    order = sorted(found, key=lambda name: -found[name].max())
    kept = [name for name in found if name in order[: len(_PARAMETER_COLOURS)]]
    highest = 1.0
    for i, name in enumerate(kept):
        finite = np.isfinite(found[name])
        steps = np.arange(len(found[name]))
        highest = max(highest, found[name][finite].max(initial=0.0))
        largest = f"at most {found[name].max():.6g}" if found[name].any() else "always 0"
        axes.plot(
            steps[finite], found[name][finite], color=_PARAMETER_COLOURS[i], linewidth=1.3,
            linestyle=_PARAMETER_STYLES[i % 3], label=f"{name}: {largest}", zorder=3 + i,
        )  # fmt: skip
    # Linear up to 1, so that 0 (the same bits) has its place; logarithmic above, up to a margin
    # that the legend fits into.
    scale = 0.4
    decades = scale + np.log10(highest)
    margin = (0.12 + 0.08 * len(kept)) * decades
    axes.set_yscale("symlog", linthresh=1, linscale=scale * 0.9)
    axes.set_ylim(-0.12 * max(1.0, decades), highest * 10**margin)
    steps_of_ten = [10.0**k for k in range(int(np.log10(highest)) + 1)]
    between = [2.0, 5.0, 20.0, 50.0] if highest < 100 else []
    ticks = [0.0, *sorted([*steps_of_ten[:: 1 + len(steps_of_ten) // 8], *between])]
    ticks = [tick for tick in ticks if tick <= highest]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.locator_params(axis="x", integer=True)
    _finish(axes, xlabel="learning step", ylabel="difference (ulps)")
    title = (
        f"{len(kept)} of {len(found)} parameters, the farthest" if len(kept) < len(found) else None
    )
    axes.legend(fontsize=8, frameon=False, loc="upper right", title=title, title_fontsize=8)


# The look


def _new(width: float, height: float) -> Figure:
    """Return an empty figure; sizes in inches."""
    from matplotlib.figure import Figure  # not at the top: half a second that most commands save

    return Figure(figsize=(width, height), layout="constrained")


def _heading(record: RunRecord) -> str:
    values = record.config
    optimizer = values["optimizer"]
    parts = [record.label(), values["model"]["name"], values["loss"]["name"]]
    return ", ".join([*parts, f"{optimizer['name']} lr={optimizer['lr']:g}"])


def _finish(axes: Axes, *, xlabel: str, ylabel: str) -> None:
    axes.set_xlabel(xlabel, fontsize=10)
    axes.set_ylabel(ylabel, fontsize=10)
    axes.tick_params(which="both", labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Axes) -> None:
    """Put the legend above the axes, where it can hide nothing, in as many columns as fit."""
    labels = axes.get_legend_handles_labels()[1]
    if not labels:
        return
    figure, place = axes.get_figure(root=True), axes.get_subplotspec()
    if figure is None or place is None:
        raise ValueError("a legend needs axes that stand in a figure's grid")
    inches = 1.1 * figure.get_figwidth() * place.get_position(figure).width

    def width(columns: int) -> float:
        parts = np.array_split(np.array(labels), columns)
        return sum(0.068 * max(map(len, part)) + 0.6 for part in parts)

    fitting = (n for n in range(len(labels), 1, -1) if width(n) <= inches)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=next(fitting, 1), fontsize=8.5,
        frameon=False, borderaxespad=0.3, columnspacing=1.4, handlelength=2.6,
    )  # fmt: skip


def _plain_log(axes: Axes) -> None:
    """Write the ticks of a short logarithmic axis as plain numbers, 0.05 and not 5 × 10⁻²."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_ylim()
    if low >= 1e-4 and high <= 1e4:
        subs = (1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
