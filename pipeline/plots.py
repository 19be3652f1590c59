"""Records as figures for a paper or the MLflow UI; the only importer of matplotlib.

Figures are made without ``pyplot``: nothing global is set, no window opens, and what is not kept is
freed. Matplotlib is imported when the first figure is made.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from pipeline import config, identity, leaderboard, losses, storage
from pipeline.data import Dataset
from pipeline.parity import distance
from pipeline.parity.verdict import WORST, Ladder
from pipeline.record.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pair = tuple[RunRecord, RunRecord]
Judged = tuple[Pair, Ladder]
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
_DISTANCES: dict[str, dict[str, Any]] = {
    "own": {"label": "float32's own error, one step", "color": "#56b4e9", "linewidth": 3.5},
    "apart": {"label": "the two runs", "color": "#000000", "linewidth": 1.7},
    "forced": {"label": "each step from equal states", "color": "#d55e00", "linewidth": 1.0},
}
_MARKERS = "os^DvPph"
_BLACK, _GREY = "#000000", "#8a8a8a"

_MANY = 8  # more runs than this in one picture are drawn thin, with one legend entry a label
_DOTS_AT_MOST = 5000
_STEPS_APART = 400  # a minibatch loss of more steps than this is drawn as a running mean
_PANELS = 6
_MULTIPLES = 12
_TENSORS = 30  # rows of a heat map; of several, half as many
_LEAST_OVER, _MOST_OVER = 1e-3, 1e3  # where the colours of a heat map end
_SAMPLED = 1_000_000
_FEW_NUMBERS = 50  # fewer make no histogram
_CELLS = 20  # up to this many classes, a confusion matrix has its counts written in

_LOSS_LABELS = {
    "mse": "mean squared error (units of y²)",
    "mae": "mean absolute error (units of y)",
    "huber": "Huber loss",
    "cross_entropy": "cross-entropy (nats)",
    "bce": "binary cross-entropy (nats)",
}
_SCORE_LABELS = {
    "mse": _LOSS_LABELS["mse"],
    "mae": _LOSS_LABELS["mae"],
    "r2": "R²",
    "accuracy": "accuracy",
    "log_loss": "log loss (nats)",
}
# The score that a loss becomes on other samples; it can share the loss's axis.
_SAME_SCORE = {"mse": "mse", "mae": "mae", "cross_entropy": "log_loss", "bce": "log_loss"}
# The least that a loss can be on average when the targets carry normal noise of deviation σ.
_IRREDUCIBLE = {
    "mse": ("σ²", lambda noise: noise**2),
    "mae": ("σ·√(2/π)", lambda noise: noise * np.sqrt(2 / np.pi)),
}


def single(record: RunRecord, dataset: Dataset) -> dict[str, Figure]:
    """Draw one run: ``samples``, ``fit``, ``loss``, ``validation``, ``path`` and ``residuals``.

    A figure that makes no sense for the model or the data, or for which the record holds too
    little, is left out: the line needs one feature and one target, the path two scalars at every
    step, the residuals predictions. Of classes there is ``confusion`` instead of residuals.
    """
    figures = {}
    if _is_planar(dataset):
        figures["samples"] = _new(6.2, 4.2)
        axes = figures["samples"].add_subplot()
        _draw_samples(axes, dataset)
        _legend(axes)
    return figures | _overlaid([record], dataset)


def overview(record: RunRecord, dataset: Dataset) -> Figure:
    """Draw one run in one figure: its loss, and its line, residuals or confusion."""
    curves = _curves([record])
    drawings: list[Callable[[Axes], None]] = []
    if _kept_losses(curves):
        drawings.append(partial(_draw_loss, curves=curves, dataset=dataset))
    if _lines(curves, dataset):
        drawings.append(partial(_draw_fit, curves=curves, dataset=dataset))
    elif _residuals(curves, dataset):
        drawings.append(partial(_draw_residuals, curves=curves, dataset=dataset))
    for _, said in _classified([record], dataset):
        drawings.append(partial(_draw_confusion, said=said, dataset=dataset))
    columns = max(1, len(drawings))
    wide, high = 4.6 * columns, 4.2
    fixed = dataset.classes is None  # their names may be long
    # To measure every label takes half as long as to draw it all.
    figure = _new(wide, high, layout=None if fixed else "constrained")
    if fixed:
        figure.subplots_adjust(
            left=1.05 / wide, right=1 - 0.2 / wide, bottom=0.55 / high,
            wspace=1.25 * columns / (wide - 1.25 * columns),
        )  # fmt: skip
    for i, draw in enumerate(drawings):
        draw(figure.add_subplot(1, columns, i + 1))
    if fixed:
        legends = [axes.get_legend() for axes in figure.axes]
        above = max((found.get_window_extent().height for found in legends if found), default=0)
        figure.subplots_adjust(top=1 - (0.4 + above / figure.dpi) / high)
        for axes in figure.axes:
            axes.locator_params(axis="x", nbins=6)
    if not drawings:
        figure.text(0.5, 0.5, "the run kept nothing to draw", ha="center", fontsize=10)
    figure.suptitle(_heading(record), fontsize=10)
    return figure


def comparison(
    records: Sequence[RunRecord], dataset: Dataset, *, pairs: Sequence[Pair]
) -> dict[str, Figure]:
    """Draw all runs over each other, in the figures of `single` but ``samples``, and ``ulps``.

    Parameters
    ----------
    records
        The runs. One that lacks what a figure needs is left out of that figure.
    dataset
        What all of them were trained on.
    pairs
        Runs whose parameters are compared step by step in the figure ``ulps``, and whose predicted
        classes in ``confusion``.
    """
    figures = _overlaid(records, dataset, pairs=pairs)
    measured = [(pair, found) for pair in pairs if (found := _apart(*pair))]
    if measured:
        figures["ulps"] = _ulps(measured, pairs=len(pairs))
    return figures


def parity(judged: Sequence[Judged]) -> dict[str, Figure]:
    """Draw what was measured of pairs: ``distance``, ``ladder``, ``reference``, ``ulp_histogram``.

    One panel a pair; of more than six the worst. A figure for which nothing was measured is left
    out. What they show is in the captions of `pipeline.report`.
    """
    judged = sorted(judged, key=lambda one: -WORST[one[1].verdict])
    runs = list({id(run): run for pair, _ in judged for run in pair}.values())
    named = dict(zip(map(id, runs), names(runs), strict=True))
    tensors = _TENSORS if len(judged) == 1 else _TENSORS // 2
    panels: dict[str, list[Callable[[Axes], None]]] = {}
    for (a, b), ladder in judged:
        title = f"{ladder.verdict}: {named[id(a)]} and {b.label()}"
        drawings: dict[str, Callable[[Axes], None]] = {}
        if len(ladder.distances.get("apart", ())) > 1:
            drawings["distance"] = partial(_draw_distance, ladder=ladder, title=title)
        if any(not np.isnan(over) for rung in ladder.rungs for over in rung.tensors.values()):
            drawings["ladder"] = partial(_draw_ladder, ladder=ladder, title=title, most=tensors)
        if ladder.errors:
            drawings["reference"] = partial(_draw_reference, pair=(a, b), ladder=ladder,
                                            title=title)  # fmt: skip
        counted = _counted(a, b)
        if counted:
            drawings["ulp_histogram"] = partial(_draw_counted, found=counted, title=title)
        for name, draw in drawings.items():
            panels.setdefault(name, []).append(draw)
    rows = max((len(_tensors(ladder)) for _, ladder in judged), default=0)
    sizes = {"ladder": (7.4, 2.0 + 0.26 * min(rows, tensors))}
    return {
        name: _paneled(found, of=len(judged), size=sizes.get(name, (6.6, 4.2)))
        for name, found in panels.items()
    }


def sweep(records: Sequence[RunRecord]) -> dict[str, Figure]:
    """Draw what a sweep did: ``curves`` by setting, ``sensitivity`` to each, and ``cost``.

    Runs that differ in their backend or seed alone have no curves here: they are all in ``loss``.
    """
    finished = [record for record in records if record.about["status"] == "FINISHED"]
    swept = [key for key in leaderboard.swept(finished) if key not in ("backend.name", "seed")]
    score = leaderboard.score_of(finished)
    if score is None or len(finished) < 3:
        return {}
    figures = {"curves": _small_multiples(finished, swept)} if swept else {}
    keys = list(leaderboard.sensitivity(finished))[:_PANELS]
    columns = min(3, len(keys))
    if keys:
        figures["sensitivity"] = _new(4.2 * columns, 3.6 * -(-len(keys) // columns))
    for i, key in enumerate(keys):
        axes = figures["sensitivity"].add_subplot(-(-len(keys) // columns), columns, i + 1)
        _draw_sensitivity(axes, records=finished, key=key, score=score)
    figures["cost"] = _new(6.2, 4.2)
    _draw_cost(figures["cost"].add_subplot(), records=finished, score=score)
    return figures


def _small_multiples(records: Sequence[RunRecord], swept: Sequence[str]) -> Figure:
    """Draw the losses, a panel for each combination of swept settings; seeds share one."""
    cells: dict[str, list[RunRecord]] = {}
    for record in records:
        flat = identity.flatten(record.config)
        title = ", ".join(f"{key.removesuffix('.name')}={flat.get(key, '–')}" for key in swept)
        cells.setdefault(title, []).append(record)
    shown = dict(list(cells.items())[:_MULTIPLES])
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = _new(3.1 * columns, 2.5 * rows + 0.5)
    first = None
    for i, (title, members) in enumerate(shown.items()):
        axes = figure.add_subplot(rows, columns, i + 1, sharey=first)
        first = first or axes
        for record in members:
            style = _STYLES.get(_kind(record), _OTHER_STYLE)
            loss = record.arrays["loss"].astype(np.float64)
            steps = np.arange(1, len(loss) + 1)
            wide = style["linewidth"] * 0.6
            axes.plot(steps, loss, **style | {"linewidth": wide, "label": record.label()})
        axes.set_yscale("log", nonpositive="mask")
        axes.set_title(textwrap.fill(title, 34), fontsize=8, loc="left")
        _finish(axes, xlabel="step", ylabel="training loss" if i % columns == 0 else "")
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        lines, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, lines, strict=True))
    left = len(cells) - len(shown)
    said = f"{len(shown)} of {len(cells)} settings, {left} left out" if left else None
    figure.legend(
        list(handles.values()), list(handles), loc="outside upper left", ncols=4, fontsize=9,
        frameon=False, title=said, title_fontsize=9,
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
        own = [record for record in records if record.label() == label]
        style = _STYLES.get(_kind(own[0]), _OTHER_STYLE)
        at: dict[float, list[float]] = {}
        for record in own:
            value = str(identity.flatten(record.config).get(key))
            at.setdefault(place[value], []).append(float(record.about["scores"][score]))
        xs = sorted(at)
        across = [x for x in xs for _ in at[x]]
        scores = [y for x in xs for y in at[x]]
        axes.scatter(
            across, scores, s=_DOT_SIZES.get(_kind(own[0]), _OTHER_DOT_SIZE),
            color=style["color"], zorder=style["zorder"], linewidths=0,
        )  # fmt: skip
        means = [float(np.mean(at[x])) for x in xs]
        width = style["linewidth"] * 0.6
        axes.plot(xs, means, **style | {"linewidth": width, "label": label})
    if numeric and min(place.values()) > 0 and max(place.values()) >= 8 * min(place.values()):
        axes.set_xscale("log")
    if not numeric:
        axes.set_xticks(range(len(values)), [_short(v) for v in values], rotation=30, ha="right")
    _finish(
        axes, xlabel=key.removesuffix(".name"), ylabel=f"test {_SCORE_LABELS.get(score, score)}"
    )
    _legend(axes)


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _draw_cost(axes: Axes, *, records: Sequence[RunRecord], score: str) -> None:
    """Draw each run's final score over the time that its training took."""
    for label in dict.fromkeys(record.label() for record in records):
        own = [record for record in records if record.label() == label]
        style = _STYLES.get(_kind(own[0]), _OTHER_STYLE)
        axes.scatter(
            [record.about["time"].get("train_s", np.nan) for record in own],
            [record.about["scores"][score] for record in own],
            s=26, color=style["color"], marker=_MARKERS[list(_STYLES).index(_kind(own[0]))]
            if _kind(own[0]) in _STYLES else "x", alpha=0.85, linewidths=0.8, label=label,
        )  # fmt: skip
    axes.set_xscale("log")
    _finish(axes, xlabel="training (s)", ylabel=f"test {_SCORE_LABELS.get(score, score)}")
    _legend(axes)


def _paneled(
    drawings: Sequence[Callable[[Axes], None]], *, of: int, size: tuple[float, float]
) -> Figure:
    """Put drawings into panels of a size in inches, and say how many there would be."""
    shown = drawings[:_PANELS]
    columns = 1 if len(shown) == 1 else 2
    rows = -(-len(shown) // columns)
    figure = _new(size[0] * columns, size[1] * rows)
    for i, draw in enumerate(shown):
        draw(figure.add_subplot(rows, columns, i + 1))
    if of > len(shown):
        unmeasured = of - len(drawings)
        text = f"{len(shown)} of {of} pairs, the worst verdicts first; {of - len(shown)} left out"
        text += f" ({unmeasured} of them for want of numbers)" if unmeasured else ""
        figure.suptitle(text, fontsize=10)
    return figure


def save(
    figures: Mapping[str, Figure], folder: Path, *, formats: Sequence[str], dpi: int = DPI
) -> list[Path]:
    """Write every figure as ``<name>.<format>``, each file whole or not at all."""
    paths = []
    for name, figure in figures.items():
        for kind in formats:
            path = folder / f"{name}.{kind}"

            storage.write_atomic(path, partial(_write, figure=figure, kind=kind, dpi=dpi))
            paths.append(path)
    return paths


def saved(
    figures: Mapping[str, Figure], folder: Path, *, formats: Sequence[str]
) -> dict[str, bytes]:
    """Save figures, and return each one as the bytes of a PNG file, drawn once."""
    save(figures, folder, formats=formats)
    return {
        name: (folder / f"{name}.png").read_bytes() if "png" in formats else png(figure)
        for name, figure in figures.items()
    }


def png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    _write(buffer, figure=figure, kind="png", dpi=DPI)
    return buffer.getvalue()


def _write(file: BinaryIO, *, figure: Figure, kind: str, dpi: int) -> None:
    """Write a figure; pixels at once, where `savefig` draws everything twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if kind == "png":
        figure.set_dpi(dpi)
        FigureCanvasAgg(figure).print_png(file)
    else:
        figure.savefig(file, format=kind, dpi=dpi)


def names(records: Sequence[RunRecord]) -> list[str]:
    """Return one name a run: its label, where several share it what differs, or else its id."""
    labels = [record.label() for record in records]
    flat = [identity.flatten(record.config) for record in records]
    found = []
    for label, own in zip(labels, flat, strict=True):
        peers = [other for other, its in zip(flat, labels, strict=True) if its == label]
        keys = {key: None for peer in peers for key in peer if identity.decides_numbers(key)}
        parts = [
            f"{key.removesuffix('.name')}={own[key]}"
            for key in keys
            if all(key in peer for peer in peers) and any(peer[key] != own[key] for peer in peers)
        ]
        found.append(", ".join([label, *parts]))
    often = Counter(found)
    ids = [str(record.about.get("run") or "")[:8] for record in records]
    return [
        f"{name}, {run}" if often[name] > 1 and run else name
        for name, run in zip(found, ids, strict=True)
    ]


def _overlaid(
    records: Sequence[RunRecord], dataset: Dataset, *, pairs: Sequence[Pair] = ()
) -> dict[str, Figure]:
    """Draw the figures that one run and many runs have in common."""
    curves = _curves(records)
    figures = {}
    if _lines(curves, dataset):
        figures["fit"] = _new(6.2, 4.4)
        _draw_fit(figures["fit"].add_subplot(), curves=curves, dataset=dataset)
    if _kept_losses(curves):
        figures["loss"] = _new(6.2, 4.2)
        _draw_loss(figures["loss"].add_subplot(), curves=curves, dataset=dataset)
    others = _other_scores(curves)
    if others:
        figures["validation"] = _new(max(6.2, 4.4 * len(others)), 3.6)
        for i, score in enumerate(others):
            _draw_validation(
                figures["validation"].add_subplot(1, len(others), i + 1), curves=curves, score=score
            )
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
    if _classified(records, dataset):
        figures["confusion"] = _confusion(records, dataset, pairs=pairs)
    return figures


# What there is to draw


def _is_planar(dataset: Dataset) -> bool:
    """Whether the samples are points of a plane: one feature, one target that is no class."""
    in_memory = "x_train" in dataset.arrays and dataset.classes is None
    return in_memory and dataset.inputs == (1,) and dataset.outputs == 1


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


def _window(record: RunRecord, dataset: Dataset) -> int:
    """Return over how many steps a loss is averaged: an epoch's or more if it is long, else 1."""
    batch = record.config["train"].get("batch")
    if batch is None or record.steps <= _STEPS_APART:
        return 1
    epoch = -(-dataset.rows // batch) / record.config["optimizer"].get("accumulate", 1)
    if epoch <= 1:
        return 1
    return min(max(math.ceil(epoch), record.steps // 50), record.steps // 10)


def _validated(record: RunRecord, score: str | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the steps at which a score of the validation set is finite, and the score there."""
    values = record.arrays.get(f"val/{score}")
    if values is None:
        return None
    finite = np.isfinite(values)
    return record.arrays["val/step"][finite], values[finite]


def _other_scores(curves: Sequence[Curve]) -> list[str]:
    """Return the scores of the validation set that a run has and its loss's axis cannot show."""
    return list(
        dict.fromkeys(
            score
            for record, _ in curves
            for score in record.named("val")
            if score not in ("step", _SAME_SCORE.get(record.config["loss"]["name"]))
        )
    )


def _classified(
    records: Sequence[RunRecord], dataset: Dataset
) -> list[tuple[RunRecord, np.ndarray]]:
    """Return the runs whose test logits are finite, with the class that each sample gets."""
    found = []
    for record in records if dataset.classes is not None else ():
        logits = record.arrays.get("prediction")
        if logits is None or len(logits) != len(dataset.arrays["y_test"]):
            continue
        if np.isfinite(logits).all():
            single = logits.shape[1] == 1
            two = np.hstack([np.zeros_like(logits), logits]) if single else logits
            found.append((record, two.argmax(axis=1)))
    return found


def _residuals(
    curves: Sequence[Curve], dataset: Dataset
) -> list[tuple[str, np.ndarray, np.ndarray, dict[str, Any]]]:
    """Return each run's kind, predictions and residuals on the test samples, where finite."""
    target = dataset.arrays["y_test"]
    found = []
    for record, style in curves if dataset.classes is None else ():
        prediction = record.arrays.get("prediction")
        if prediction is None or prediction.shape != target.shape:
            continue
        prediction = prediction.astype(np.float64)
        residual = (target - prediction).reshape(-1)
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
        one, other = left[name][:rows], right[name][:rows]
        if (one.shape, one.dtype) == (other.shape, other.dtype):
            found[name] = distance.rows(one, other).ulp  # a piece at a time; long runs are large
    return found


def _counted(a: RunRecord, b: RunRecord) -> dict[str, np.ndarray]:
    """Return how many ulps the parameters of two runs are apart after the start, number by number.

    All steps together, and the first and the last where these are enough for a histogram. Of very
    many numbers every so manieth, of steps that are evenly spread.
    """
    left, right = a.named("param"), b.named("param")
    shared = [name for name in left if name in right]
    steps = min((len(side[name]) for side in (left, right) for name in shared), default=0)
    if steps < 2:
        return {}
    width = sum(left[name][0].size for name in shared)
    every = -(-width // _SAMPLED)
    kept = max(1, min(steps - 1, _SAMPLED * every // width))
    rows = np.unique(np.linspace(1, steps - 1, kept).round().astype(int))
    found = []
    for name in shared:
        try:
            apart = distance.ulps(left[name][rows], right[name][rows])
        except ValueError:
            return {}
        found.append(apart.reshape(len(rows), -1)[:, ::every])
    whole = np.concatenate(found, axis=1)
    part = "" if whole.size == width * (steps - 1) else f", {whole.size} of {width * (steps - 1)}"
    ends = {f"step {rows[0]}": whole[0], f"step {rows[-1]}": whole[-1]}
    few = whole.shape[1] < _FEW_NUMBERS or len(rows) == 1
    return {f"all steps{part}": whole.reshape(-1)} | ({} if few else ends)


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


def _draw_loss(axes: Axes, *, curves: Sequence[Curve], dataset: Dataset) -> None:
    kept = _kept_losses(curves)
    kinds = list(dict.fromkeys(record.config["loss"]["name"] for record, _ in kept))
    ends = []
    windows = {_window(record, dataset) for record, _ in kept} - {1}
    lasting = [record.arrays["loss"] for record, _ in kept if _is_finite(record)]
    for record, style in kept:
        loss = record.arrays["loss"].astype(np.float64).reshape(-1)
        usable = np.isfinite(loss) & (loss > 0)
        steps = np.arange(1, len(loss) + 1)
        name = style["label"]
        if len(kinds) > 1 and name:
            name += f": {record.config['loss']['name']}"
        window = _window(record, dataset)
        if window > 1:
            look = {"color": style["color"], "linewidth": 0.5, "alpha": 0.35, "zorder": 1.5}
            axes.plot(steps[usable], loss[usable], **look)
            finite = loss[np.isfinite(loss)]
            means = np.lib.stride_tricks.sliding_window_view(finite, window).mean(axis=1)
            axes.plot(steps[window - 1 : len(finite)], means, **style | {"label": name})
        else:
            axes.plot(steps[usable], loss[usable], **style | {"label": name})
        validated = _validated(record, _SAME_SCORE.get(record.config["loss"]["name"]))
        if validated:
            axes.plot(*validated, **_dotted(style))
        if not _is_finite(record) and usable.any():
            last = int(np.flatnonzero(usable)[-1])
            ends.append((steps[last], loss[last], style["color"]))
    if any(record.named("val") for record, _ in kept):
        axes.plot([], [], **_dotted({"color": _GREY, "linewidth": 2.0, "zorder": 1}),
                  label="dotted: validation samples")  # fmt: skip
    if windows:
        label = f"faint: each step; lines: mean of {' or '.join(map(str, sorted(windows)))} steps"
        axes.plot([], [], color=_GREY, linewidth=0.5, label=label)
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


def _dotted(style: Mapping[str, Any]) -> dict[str, Any]:
    """Return the look of a run's curve on validation samples, beside that of its training loss."""
    width = 0.4 + 0.35 * style["linewidth"]
    look = {"color": style["color"], "linestyle": (0, (1, 1.5)), "linewidth": width}
    return look | {"marker": "o", "markersize": 2.2 * width, "zorder": style["zorder"] + 4}


def _draw_validation(axes: Axes, *, curves: Sequence[Curve], score: str) -> None:
    for record, style in curves:
        validated = _validated(record, score)
        if validated:
            axes.plot(*validated, **style)
    axes.locator_params(axis="x", integer=True)
    label = f"validation {_SCORE_LABELS.get(score, score)}"
    _finish(axes, xlabel="learning step", ylabel=label)
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
    low, high = everything.min(), everything.max()
    # Residuals that hardly differ, as those of a perfect fit, still need bins of some width.
    air = max(100 * np.spacing(max(abs(low), abs(high))), 1e-15)
    edges = np.histogram_bin_edges(everything, bins=30, range=(low - air, high + air))
    for _, _, residual, style in found:
        density, _ = np.histogram(residual, bins=edges, density=True)
        look = {key: style[key] for key in ("color", "linestyle", "linewidth", "zorder")}
        axes.stairs(density, edges, orientation="horizontal", **look)
    _finish(axes, xlabel="density\n(1 / units of y)", ylabel="")
    axes.tick_params(labelleft=False)


def _confusion(records: Sequence[RunRecord], dataset: Dataset, *, pairs: Sequence[Pair]) -> Figure:
    """Draw a confusion matrix a run, and say on how many samples the runs of each pair differ."""
    found = _classified(records, dataset)
    said = {id(record): classes for record, classes in found}
    named = dict(zip(map(id, records), names(records), strict=True))
    shown = found[:_PANELS]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    lines = [
        f"{named[id(a)]} and {named[id(b)]} disagree on "
        f"{np.count_nonzero(said[id(a)] != said[id(b)])} of {len(said[id(a)])} test samples"
        for a, b in pairs
        if id(a) in said and id(b) in said
    ]
    if len(lines) > _PANELS:
        lines[_PANELS:] = [f"and {len(lines) - _PANELS} more pairs"]
    if len(found) > len(shown):
        lines.append(f"{len(shown)} of {len(found)} runs are drawn")
    figure = _new(max(4.8, 4.0 * columns), 4.3 * rows + 0.2 * len(lines))
    for i, (record, classes) in enumerate(shown):
        axes = figure.add_subplot(rows, columns, i + 1)
        _draw_confusion(axes, said=classes, dataset=dataset)
        name, right = named[id(record)], axes.get_title(loc="left")
        between = ": " if len(name + right) < 38 else "\n"
        axes.set_title(f"{textwrap.fill(name, 40)}{between}{right}", fontsize=9, loc="left")
    if lines:
        text = "\n".join(textwrap.fill(line, 50 * columns + 10) for line in lines)
        figure.suptitle(text, fontsize=10)
    return figure


def _draw_confusion(axes: Axes, *, said: np.ndarray, dataset: Dataset) -> None:
    """Draw how many test samples of each class get which class; dark: a large part of its row."""
    truth, classes = dataset.arrays["y_test"][:, 0], int(dataset.classes or 0)
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, (truth, said), 1)
    share = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1.25)
    for row, column in zip(*np.nonzero(counts), strict=True) if classes <= _CELLS else ():
        wrong = "#a50f15" if row != column else _BLACK
        axes.text(
            column, row, str(counts[row, column]), ha="center", va="center",
            fontsize=9 if classes <= 10 else 6.5, weight="bold" if row != column else "normal",
            color="white" if share[row, column] > 0.6 else wrong,
        )  # fmt: skip
    labels = [
        re.sub(r"(.{13}).{2,}", r"\1…", str(label))
        for label in dataset.facts.get("labels", range(classes))
    ]
    if classes <= _CELLS and len(labels) == classes:
        long = max(map(len, labels)) > 3
        axes.set_xticks(
            range(classes), labels, rotation=40 if long else 0, ha="right" if long else "center",
            rotation_mode="anchor",
        )  # fmt: skip
        axes.set_yticks(range(classes), labels)
    right = int(np.trace(counts))
    axes.set_title(f"{right} of {len(truth)} right", fontsize=9, loc="left")
    _finish(axes, xlabel="predicted class", ylabel="true class (test samples)")


def _ulps(measured: Sequence[tuple[Pair, dict[str, np.ndarray]]], *, pairs: int) -> Figure:
    """Draw how far apart the runs of each pair are, one panel a pair."""
    shown = measured[:_PANELS]
    columns = 1 if len(shown) == 1 else 2
    rows = -(-len(shown) // columns)
    width, height = 6.2 if columns == 1 else 9.0, 4.2 if rows == 1 else 3.2 * rows
    figure = _new(width, height)
    runs = list({id(run): run for pair, _ in measured for run in pair}.values())
    named = dict(zip(map(id, runs), names(runs), strict=True))
    for i, ((a, b), found) in enumerate(shown):
        axes = figure.add_subplot(rows, columns, i + 1)
        _draw_ulps(axes, found, width=width / columns, height=height / rows)
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


def _draw_ulps(axes: Axes, found: Mapping[str, np.ndarray], *, width: float, height: float) -> None:
    """Draw how far each parameter is apart; `width` and `height` are the panel's, in inches."""
    order = sorted(found, key=lambda name: -found[name].max())
    kept = [name for name in found if name in order[: len(_PARAMETER_COLOURS)]]
    highest = 1.0
    for i, name in enumerate(kept):
        finite = np.isfinite(found[name])
        steps = np.arange(len(found[name]))
        highest = max(highest, found[name][finite].max(initial=0.0))
        most = found[name].max()
        largest = f"at most {most:{'.6g' if most < 1e6 else '.3g'}}" if most else "always 0"
        axes.plot(
            steps[finite], found[name][finite], color=_PARAMETER_COLOURS[i], linewidth=1.3,
            linestyle=_PARAMETER_STYLES[i % 3], label=f"{name}: {largest}", zorder=3 + i,
        )  # fmt: skip
    title = (
        f"{len(kept)} of {len(found)} parameters, the farthest" if len(kept) < len(found) else None
    )
    labels = axes.get_legend_handles_labels()[1]
    columns = 2 if len(kept) > 3 and 2 * (0.065 * max(map(len, labels)) + 0.5) < width else 1
    # Linear up to 1, so that 0 (the same bits) has its place; logarithmic above, up to a margin
    # that the legend fits into.
    scale = max(0.4, 0.08 * np.log10(highest))
    decades = scale + np.log10(highest)
    legend = 0.165 * (-(-len(kept) // columns) + bool(title) + 1) / (height - 0.8)
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
    _finish(axes, xlabel="learning step", ylabel="difference (ulps)")
    axes.legend(
        fontsize=8, frameon=False, loc="upper right", title=title, title_fontsize=8, ncols=columns
    )


def _draw_distance(axes: Axes, *, ladder: Ladder, title: str) -> None:
    # Without the start, which nothing was measured of.
    curves = {name: ladder.distances[name][1:] for name in _DISTANCES if name in ladder.distances}
    for order, (name, values) in enumerate(curves.items()):
        look, kept = dict(_DISTANCES[name]), np.isfinite(values)
        if not values.any():
            look["label"] += ": always the same bits"
        elif not kept.all():
            look["label"] += f": not finite from step {int(np.argmin(kept)) + 1} on"
        steps = np.arange(1, len(values) + 1)
        axes.plot(steps[kept], values[kept], **look, zorder=3 + order)
    found = ladder.finding
    if found is not None and found.step is not None:
        label = f"first finding ({found.kind}): {found.rung}, step {found.step}"
        axes.axvline(found.step, color="#a50f15", linewidth=1.2, dashes=(1, 1.5), label=label)
    _from_zero(axes, list(curves.values()), zero="same bits")
    axes.locator_params(axis="x", integer=True)
    _finish(axes, xlabel="learning step", ylabel="distance / norm of all parameters")
    growth = "" if ladder.growth is None else f"\n{textwrap.fill(ladder.growth.text, 75)}"
    _legend(axes, title=f"{_short(title)}{growth}")


def _draw_reference(axes: Axes, *, pair: Pair, ladder: Ladder, title: str) -> None:
    styles = {side: style for side, (_, style) in zip("ab", _curves(pair), strict=True)}
    for side, values in ladder.errors.items():
        kept = np.isfinite(values)
        last = f": {values[-1]:.3g} at the end, at most {values.max():.3g}"
        look = styles[side] | {"label": styles[side]["label"] + last}
        axes.plot(np.flatnonzero(kept), values[kept], **look)
    _from_zero(axes, list(ladder.errors.values()), zero="0")
    axes.locator_params(axis="x", integer=True)
    ylabel = "error (ulps of the norm of all parameters)"
    _finish(axes, xlabel="learning step", ylabel=ylabel)
    _legend(axes, title=f"{_short(title)}\nagainst {ladder.reference}")


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
    axes.axhline(0, color=_GREY, linewidth=0.6, zorder=1)


def _draw_ladder(axes: Axes, *, ladder: Ladder, title: str, most: int) -> None:
    """Draw distance over bound of each tensor on each rung; dark orange is far beyond."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    order = _tensors(ladder)
    own = {rung.tensor for rung in ladder.rungs}  # each rung has the cell that it is judged by
    shown = set(sorted(order, key=lambda tensor: tensor not in own)[:most])
    kept = {tensor: row for row, tensor in enumerate(t for t in order if t in shown)}
    cells = {
        (kept[tensor], column): float(over)
        for column, rung in enumerate(ladder.rungs)
        for tensor, over in rung.tensors.items()
        if tensor in kept
    }
    # Two hues that no eye confuses, and a step between them where the bound is.
    parts = [(0.0, "#f0f5fa"), (0.5, "#5b9bd0"), (0.5, "#fdae61"), (1.0, "#7f2704")]
    colours = LinearSegmentedColormap.from_list("over", parts)
    norm = LogNorm(_LEAST_OVER, _MOST_OVER, clip=True)
    grid = np.full((len(kept), len(ladder.rungs)), np.nan)
    for (row, column), over in cells.items():
        if np.isnan(over):
            axes.fill_between(
                [column - 0.5, column + 0.5], row - 0.5, row + 0.5, facecolor="#e4e4e4",
                edgecolor=_GREY, hatch="////", linewidth=0, zorder=2,
            )  # fmt: skip
            continue
        grid[row, column] = np.clip(over, _LEAST_OVER, _MOST_OVER)
        dark = over > 30
        axes.text(
            column, row, _times(over), ha="center", va="center", fontsize=7, zorder=4,
            color="white" if dark else _BLACK, weight="bold" if over > 1 else "normal",
        )  # fmt: skip
        if over > 1:
            axes.plot(
                np.array([-1, 1, 1, -1, -1]) * 0.48 + column,
                np.array([-1, -1, 1, 1, -1]) * 0.46 + row, color=_BLACK, linewidth=1.1, zorder=5,
            )  # fmt: skip
    drawn = axes.imshow(np.ma.masked_invalid(grid), cmap=colours, norm=norm, aspect="auto")
    labels = [f"{rung.name}\n{rung.verdict}" for rung in ladder.rungs]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(kept)), [re.sub(r"(.{15}).{3,}(.{9})", r"\1…\2", t) for t in kept])
    axes.tick_params(length=0, labelsize=7.5, labelbottom=False, labeltop=True)
    for edge in np.arange(len(kept) + 1) - 0.5:
        axes.axhline(edge, color="white", linewidth=1.5, zorder=3)
    for edge in np.arange(len(labels) + 1) - 0.5:
        axes.axvline(edge, color="white", linewidth=1.5, zorder=3)
    axes.spines[:].set_visible(False)
    figure = axes.get_figure(root=True)
    if figure is not None:
        bar = figure.colorbar(drawn, ax=axes, fraction=0.03, pad=0.01, extend="both")
        bar.set_label("largest distance / bound (1: at the bound)", fontsize=8)
        bar.ax.tick_params(labelsize=7.5)
        bar.ax.axhline(1, color=_BLACK, linewidth=1.5)
    rest = len(order) - len(kept)
    more = f"\n{len(kept)} of {len(order)} tensors, the farthest first" if rest else ""
    axes.set_title(f"{_short(title)}{more}", fontsize=9, loc="left")


def _tensors(ladder: Ladder) -> list[str]:
    """Return the tensors of a ladder, the farthest over its bound first."""
    farthest: dict[str, float] = {}
    for rung in ladder.rungs:
        for tensor, over in rung.tensors.items():
            farthest[tensor] = max(farthest.get(tensor, -1.0), -1.0 if np.isnan(over) else over)
    return sorted(farthest, key=lambda tensor: -farthest[tensor])


def _times(over: float) -> str:
    """Write distance over bound in at most five characters; ``=`` is no distance."""
    if over == 0:
        return "="
    if not np.isfinite(over):
        return "∞"
    if 0.001 <= over < 1000:
        return f"{over:.2g}" if over < 100 else f"{over:.0f}"
    return "<.001" if over < 1 else f"{over:.0e}".replace("e+0", "e").replace("e+", "e")


def _draw_counted(axes: Axes, *, found: Mapping[str, np.ndarray], title: str) -> None:
    """Draw a histogram of ulps whose bars are 0, 1, 2 to 3, 4 to 7, and so on."""
    binned = {name: _binned(apart) for name, apart in found.items()}
    bars = max(4, *(int(bins.max()) + 1 for bins in binned.values()))
    looks: list[dict[str, Any]] = [
        {"fill": True, "facecolor": "#a9cfe8", "edgecolor": "#56b4e9"},
        {"color": "#d55e00", "linewidth": 1.4, "linestyle": (0, (4, 1.5)), "zorder": 4},
        {"color": "#000000", "linewidth": 1.4, "zorder": 3},
    ]
    least = 1.0
    for (name, apart), look in zip(found.items(), looks, strict=False):
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
    _finish(axes, xlabel="ulps between the two runs, up to twice the number",
            ylabel="part of the parameters' numbers")  # fmt: skip
    _legend(axes, title=_short(title))


def _binned(apart: np.ndarray) -> np.ndarray:
    """Return 0 for 0, 1 for 1, 2 for 2 to 3, …; what is infinite is with the farthest."""
    near = np.where(np.isfinite(apart), np.maximum(apart, 1), 2.0**64)
    return np.where(apart == 0, 0, 1 + np.floor(np.log2(near))).astype(int)


# The look


def _new(
    width: float, height: float, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """Return an empty figure; sizes in inches."""
    from matplotlib.figure import Figure  # not at the top: half a second that most commands save

    return Figure(figsize=(width, height), layout=layout)


def _heading(record: RunRecord) -> str:
    values = record.config
    optimizer = values["optimizer"]
    parts = [record.label(), values["model"]["name"], values["loss"]["name"]]
    return ", ".join([*parts, f"{optimizer['name']} lr={optimizer['lr']:g}"])


def _short(title: str) -> str:
    """Return at most two lines; a pair of a large sweep differs from others in many settings."""
    return textwrap.fill(title, 75, max_lines=2, placeholder=" …")


def _finish(axes: Axes, *, xlabel: str, ylabel: str) -> None:
    axes.set_xlabel(xlabel, fontsize=10)
    axes.set_ylabel(ylabel, fontsize=10)
    axes.tick_params(which="both", labelsize=9)
    axes.yaxis.get_offset_text().set_horizontalalignment("right")  # else below a legend
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Axes, *, title: str | None = None) -> None:
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
        title=title, title_fontsize=9, alignment="left",
    )  # fmt: skip


def _plain_log(axes: Axes) -> None:
    """Write the ticks of a short logarithmic axis as plain numbers, 0.05 and not 5 × 10⁻²."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = axes.get_ylim()
    if low >= 1e-4 and high <= 1e4:
        subs = (1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,)
        short = high / low < 10  # powers of ten and their parts would be one or two ticks
        axes.yaxis.set_major_locator(MaxNLocator(6) if short else LogLocator(subs=subs))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
