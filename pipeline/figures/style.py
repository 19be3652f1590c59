"""Colours, labels and frames that all pictures share."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.parity.verdict import Ladder
from pipeline.record.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


Pair = tuple[RunRecord, RunRecord]


Judged = tuple[Pair, Ladder]


Curve = tuple[RunRecord, dict[str, Any]]


Line = tuple[float, float]


DPI = 200


# Two frameworks usually agree so well that one curve hides the other: a wide bright line below a
# narrow dark dashed one shows both, in grey and to colour-blind eyes too.
STYLES: dict[str, dict[str, Any]] = {
    "torch": {"color": "#22bfe0", "linestyle": "-", "linewidth": 5.0, "zorder": 3},
    "tensorflow": {"color": "#a50f15", "linestyle": (0, (4, 2.5)), "linewidth": 1.8, "zorder": 5},
    "fit": {"color": "#3f007d", "linestyle": (0, (1, 1.4)), "linewidth": 2.4, "zorder": 6},
}


OTHER_STYLE = {"color": "#7a7a7a", "linestyle": "-.", "linewidth": 3.2, "zorder": 4}


# The same for dots: a small one in the middle of a large one. Areas in points².
DOT_SIZES = {"torch": 24.0, "tensorflow": 5.0, "fit": 7.0}


OTHER_DOT_SIZE = 11.0


# Okabe and Ito's colours, in an order that also steps through the greys.
PARAMETER_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#000000", "#56b4e9", "#d55e00")


PARAMETER_STYLES = ("-", (0, (4, 1.5)), ":")


MARKERS = "os^DvPph"


BLACK, GREY = "#000000", "#8a8a8a"


MANY_RUNS = 8  # more runs than this in one picture are drawn thin, with one legend entry a label


MOST_DOTS = 5000


MOST_PLAIN_STEPS = 400  # a minibatch loss of more steps than this is drawn as a running mean


MOST_PANELS = 6


MOST_MULTIPLES = 12  # settings of a sweep that are drawn: the best and evenly spread ones


MOST_TENSORS = 30  # rows of a heat map; of several, half as many


LEAST_OVER, MOST_OVER = 1e-3, 1e3  # where the colours of a heat map end


MOST_SAMPLED = 1_000_000


FEW_NUMBERS = 50  # fewer make no histogram


MOST_CLASSES = 20  # up to this many classes, a confusion matrix has its counts written in


LOSS_LABELS = {
    "mse": "mean squared error (units of y²)",
    "mae": "mean absolute error (units of y)",
    "huber": "Huber loss",
    "cross_entropy": "cross-entropy (nats)",
    "bce": "binary cross-entropy (nats)",
}


SCORE_LABELS = {
    "mse": LOSS_LABELS["mse"],
    "mae": LOSS_LABELS["mae"],
    "r2": "R²",
    "accuracy": "accuracy",
    "log_loss": "log loss (nats)",
}


# The score that a loss becomes on other samples; it can share the loss's axis.
SAME_SCORE = {"mse": "mse", "mae": "mae", "cross_entropy": "log_loss", "bce": "log_loss"}


# The least that a loss can be on average when the targets carry normal noise of deviation σ.
IRREDUCIBLE = {
    "mse": ("σ²", lambda noise: noise**2),
    "mae": ("σ·√(2/π)", lambda noise: noise * np.sqrt(2 / np.pi)),
}


def draw_each(drawings: Mapping[str, Callable[[], Figure]]) -> dict[str, Figure]:
    """Return the figures by name; one that cannot be drawn is a warning, and the others stay."""
    figures = {}
    for name, draw in drawings.items():
        try:
            figures[name] = draw()
        except Exception as error:  # a picture is not worth a run
            warn_of_picture(name, error)
    return figures


def warn_of_picture(name: str, error: Exception) -> None:
    """Say on stderr which picture is missing, and why."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    print(f"twingrad: warning: no picture {name!r} ({reason})", file=sys.stderr)


def draw_alone(draw: Callable[[Axes], None], *, size: tuple[float, float]) -> Figure:
    """Return a figure of a size in inches with one drawing."""
    figure = new_figure(*size)
    draw(figure.add_subplot())
    return figure


def draw_panels(
    drawings: Sequence[Callable[[Axes], None]], *, of: int, size: tuple[float, float]
) -> Figure:
    """Put drawings into panels of a size in inches, and say how many there would be."""
    shown = drawings[:MOST_PANELS]
    columns = 1 if len(shown) == 1 else 2
    rows = -(-len(shown) // columns)
    figure = new_figure(size[0] * columns, size[1] * rows)
    for i, draw in enumerate(shown):
        draw(figure.add_subplot(rows, columns, i + 1))
    if of > len(shown):
        unmeasured = of - len(drawings)
        text = f"{len(shown)} of {of} pairs, the worst verdicts first; {of - len(shown)} left out"
        text += f" ({unmeasured} of them for want of numbers)" if unmeasured else ""
        figure.suptitle(text, fontsize=10)
    return figure


def make_dotted(style: Mapping[str, Any]) -> dict[str, Any]:
    """Return the look of a run's curve on validation samples, beside that of its training loss."""
    width = 0.4 + 0.35 * style["linewidth"]
    look = {"color": style["color"], "linestyle": (0, (1, 1.5)), "linewidth": width}
    return look | {"marker": "o", "markersize": 2.2 * width, "zorder": style["zorder"] + 4}


def new_figure(
    width: float, height: float, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """Return an empty figure; sizes in inches."""
    from matplotlib.figure import Figure  # not at the top: half a second that most commands save

    return Figure(figsize=(width, height), layout=layout)


def make_heading(record: RunRecord) -> str:
    """Return the line above a run's figures: label, model, loss, optimizer and learning rate."""
    values = record.config
    optimizer = values["optimizer"]
    parts = [record.label(), values["model"]["name"], values["loss"]["name"]]
    return ", ".join([*parts, f"{optimizer['name']} lr={optimizer['lr']:.3g}"])


def shorten_title(title: str) -> str:
    """Return at most two lines; a pair of a large sweep differs from others in many settings."""
    return textwrap.fill(title, 75, max_lines=2, placeholder=" …")


def label_axes(axes: Axes, *, xlabel: str, ylabel: str) -> None:
    """Label both axes and give them the project's look, without lines at the top and right."""
    axes.set_xlabel(xlabel, fontsize=10)
    axes.set_ylabel(ylabel, fontsize=10)
    axes.tick_params(which="both", labelsize=9)
    axes.yaxis.get_offset_text().set_horizontalalignment("right")  # else below a legend
    axes.spines[["top", "right"]].set_visible(False)


def add_legend(axes: Axes, *, title: str | None = None) -> None:
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


def use_plain_log(axis: Axis, *, most: int = 6) -> None:
    """Write the ticks of a short logarithmic axis as plain numbers, 0.05 and not 5 × 10⁻².

    There are about as many as `most`, so that none lies on another.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_minor_formatter(NullFormatter())
    if high / low < 10:  # powers of ten and their parts would be one or two ticks
        axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10]))
    else:
        few = high / low < 1e3 and most > 4
        subs = (1.0, 2.0, 5.0) if few else (1.0,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=20 if few else most + 1))
    if (low >= 1e-4 and high <= 1e4) or high / low < 10:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def mark_single_points(axes: Axes) -> None:
    """Give each line of one point a marker, without which it would not be seen."""
    for line in axes.lines:
        values = np.asarray(line.get_ydata(), dtype=np.float64)
        if np.isfinite(values).sum() == 1 and line.get_marker() in ("None", "", None):
            line.set_marker("o")
