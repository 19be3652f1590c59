"""Pictures of one run, and of several laid over each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.data import Dataset
from pipeline.figures.curves import (
    is_planar,
    list_lines,
    list_other_scores,
    select_losses,
    style_curves,
)
from pipeline.figures.fit import (
    draw_confusion,
    draw_confusions,
    draw_fit,
    draw_histogram,
    draw_residuals,
    draw_samples,
    list_classified,
    list_residuals,
)
from pipeline.figures.losses import draw_loss, draw_validation
from pipeline.figures.parity import draw_all_ulps, measure_apart
from pipeline.figures.path import draw_path, list_paths
from pipeline.figures.settings import add_scale, group_by_settings, select_spread
from pipeline.figures.style import (
    Curve,
    Pair,
    add_legend,
    draw_alone,
    draw_each,
    make_heading,
    new_figure,
)
from pipeline.record.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_run(record: RunRecord, dataset: Dataset) -> dict[str, Figure]:
    """Draw one run: ``fit``, ``loss``, ``validation``, ``path`` and ``residuals``.

    ``samples`` is there of points of a plane through which no line was learned. A figure that makes
    no sense for the model or the data, or for which the record holds too little, is left out: the
    line needs one feature and one target, the path two scalars at every step, the residuals
    predictions. Of classes there is ``confusion`` instead of residuals.
    """

    def draw_data(axes: Axes) -> None:
        draw_samples(axes, dataset)
        add_legend(axes)

    drawings = _overlay([record], dataset)
    if is_planar(dataset) and "fit" not in drawings:
        drawings = {"samples": partial(draw_alone, draw_data, size=(6.2, 4.2))} | drawings
    return draw_each(drawings)


def draw_overview(record: RunRecord, dataset: Dataset) -> Figure:
    """Draw one run in one figure: its loss, and its line, residuals or confusion."""
    curves = style_curves([record])
    drawings: list[Callable[[Axes], None]] = []
    if select_losses(curves):
        drawings.append(partial(draw_loss, curves=curves, dataset=dataset))
    if list_lines(curves, dataset):
        drawings.append(partial(draw_fit, curves=curves, dataset=dataset))
    elif list_residuals(curves, dataset):
        drawings.append(partial(draw_residuals, curves=curves, dataset=dataset))
    for _, classes in list_classified([record], dataset):
        drawings.append(partial(draw_confusion, predicted=classes, dataset=dataset))
    columns = max(1, len(drawings))
    wide, high = 4.6 * columns, 4.2
    fixed = dataset.classes is None  # their names may be long
    # To measure every label takes half as long as to draw it all.
    figure = new_figure(wide, high, layout=None if fixed else "constrained")
    if fixed:
        figure.subplots_adjust(
            left=1.05 / wide, right=1 - 0.2 / wide, bottom=0.55 / high,
            wspace=1.25 * columns / (wide - 1.25 * columns),
        )  # fmt: skip
    for i, draw in enumerate(drawings):
        draw(figure.add_subplot(1, columns, i + 1))
    if fixed:
        legends = [axes.get_legend() for axes in figure.axes]
        above = max((legend.get_window_extent().height for legend in legends if legend), default=0)
        figure.subplots_adjust(top=1 - (0.4 + above / figure.dpi) / high)
        for axes in figure.axes:
            axes.locator_params(axis="x", nbins=6)
    if not drawings:
        figure.text(0.5, 0.5, "the run kept nothing to draw", ha="center", fontsize=10)
    figure.suptitle(make_heading(record), fontsize=10)
    return figure


def draw_comparison(
    records: Sequence[RunRecord], dataset: Dataset | None, *, pairs: Sequence[Pair]
) -> dict[str, Figure]:
    """Draw all runs over each other, in the figures of `draw_run` but ``samples``, and ``ulps``.

    Of many settings the best one and evenly spread ones are drawn.

    Parameters
    ----------
    records
        The runs. One that lacks what a figure needs is left out of that figure.
    dataset
        What all of them were trained on; without it there is the figure ``ulps`` alone.
    pairs
        Runs whose parameters are compared step by step in the figure ``ulps``, and whose predicted
        classes in ``confusion``.
    """
    drawings = {} if dataset is None else _overlay(records, dataset, pairs=pairs)
    measured = [(pair, apart) for pair in pairs if (apart := measure_apart(*pair))]
    if measured:
        drawings["ulps"] = partial(draw_all_ulps, measured, pairs=len(pairs))
    return draw_each(drawings)


def _overlay(
    records: Sequence[RunRecord], dataset: Dataset, *, pairs: Sequence[Pair] = ()
) -> dict[str, Callable[[], Figure]]:
    """Return what draws the figures that one run and many runs have in common."""
    chosen = select_spread(records)
    curves = [curve for curve in style_curves(records) if any(curve[0] is run for run in chosen)]
    drawings: dict[str, Callable[[], Figure]] = {}
    both: dict[str, Any] = {"curves": curves, "dataset": dataset}
    if list_lines(curves, dataset):
        drawings["fit"] = partial(draw_alone, partial(draw_fit, **both), size=(6.2, 4.4))
    if select_losses(curves):
        drawings["loss"] = partial(draw_alone, partial(draw_loss, **both), size=(6.2, 4.2))
    scores = list_other_scores(curves)
    if scores:
        drawings["validation"] = partial(_draw_validations, curves, scores)
    if list_paths(curves, dataset):
        drawings["path"] = partial(draw_alone, partial(draw_path, **both), size=(6.2, 4.8))
    if list_residuals(curves, dataset):
        drawings["residuals"] = partial(_draw_all_residuals, curves, dataset)
    drawings = {
        name: partial(_tell_settings, draw, records=records, chosen=chosen)
        for name, draw in drawings.items()
    }
    if list_classified(records, dataset):
        drawings["confusion"] = partial(draw_confusions, records, dataset, pairs=pairs)
    return drawings


def _tell_settings(
    draw: Callable[[], Figure], *, records: Sequence[RunRecord], chosen: Sequence[RunRecord]
) -> Figure:
    """Draw, and put the scale of the colours beside it and above it how many settings there are."""
    figure = draw()
    add_scale(figure, list(figure.axes), records)
    cells = [group_by_settings(runs) for runs in (chosen, records)]
    if len(cells[0]) < len(cells[1]):
        text = f"{len(cells[0])} of {len(cells[1])} settings: the best and evenly spread ones"
        figure.suptitle(text, fontsize=9)
    return figure


def _draw_validations(curves: Sequence[Curve], scores: Sequence[str]) -> Figure:
    """Draw a panel for each score of the validation set."""
    figure = new_figure(max(6.2, 4.4 * len(scores)), 3.6)
    for i, score in enumerate(scores):
        axes = figure.add_subplot(1, len(scores), i + 1)
        draw_validation(axes, curves=curves, score=score)
    return figure


def _draw_all_residuals(curves: Sequence[Curve], dataset: Dataset) -> Figure:
    """Draw the residuals beside their histogram."""
    figure = new_figure(7.2, 4.2)
    left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [3, 1]})
    draw_residuals(left, curves=curves, dataset=dataset)
    draw_histogram(right, curves=curves, dataset=dataset)
    return figure
