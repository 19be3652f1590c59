"""What records hold that can be drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.data import Dataset
from pipeline.figures.settings import choose_colours, find_best, name_shortly, tell_best
from pipeline.figures.style import (
    MANY_RUNS,
    MARKERS,
    MOST_PLAIN_STEPS,
    OTHER_STYLE,
    SAME_SCORE,
    STYLES,
    Curve,
    Line,
)
from pipeline.record.record import RunRecord


def is_planar(dataset: Dataset) -> bool:
    """Whether the samples are points of a plane: one feature, one target that is no class."""
    in_memory = "x_train" in dataset.arrays and dataset.classes is None
    return in_memory and dataset.inputs == (1,) and dataset.outputs == 1


def style_curves(records: Sequence[RunRecord]) -> list[Curve]:
    """Give each run the keyword arguments of its line.

    The runs of one backend have a colour by what was swept. Of several backends a few runs of one
    label are told apart by markers, and carry their differing settings in the legend; of many runs,
    only the first of each label has a legend entry.
    """
    if choose_colours(records) is not None:
        return _colour_curves(records)
    many = len(records) > MANY_RUNS
    labels = [record.label() for record in records]
    curves = []
    for i, (record, name) in enumerate(zip(records, name_shortly(records), strict=True)):
        style = dict(STYLES.get(find_kind(record), OTHER_STYLE))
        before = labels[:i].count(labels[i])
        if many:
            style |= {"linewidth": style["linewidth"] / 2, "label": None if before else labels[i]}
        else:
            style["label"] = name
            if labels.count(labels[i]) > 1:
                style |= {"marker": MARKERS[before], "markevery": 0.15, "markersize": 5.5}
                style |= {"markerfacecolor": "white", "markeredgewidth": 1.2}
            if len(records) == 1:  # nothing to hide or to be hidden by
                style["linewidth"] = 2.0
        curves.append((record, style))
    return curves


def _colour_curves(records: Sequence[RunRecord]) -> list[Curve]:
    """Give each run of one backend the colour of its setting, and the best run a wide line."""
    colouring, best = choose_colours(records), find_best(records)
    assert colouring is not None
    curves, known = [], set()
    for record, name, colour in zip(records, name_shortly(records), colouring.colours, strict=True):
        look = {"color": colour, "linestyle": "-", "linewidth": 1.6, "zorder": 4, "label": None}
        if colouring.scale is None and str(colour) not in known:
            look["label"] = name
            known.add(str(colour))
        if record is best:
            look |= {"linewidth": 3.4, "zorder": 6, "label": tell_best(records)}
        curves.append((record, look))
    return curves


def find_kind(record: RunRecord) -> str:
    """Return what decides a run's look: its backend, or that Keras trained it by itself."""
    return "fit" if record.config["train"]["loop"] == "fit" else record.backend


def read_line(values: Mapping[str, Any] | None) -> Line | None:
    """Return slope and intercept, where the values are just that: one finite w, one finite b."""
    if not values or set(values) != {"w", "b"}:
        return None
    w, b = (np.asarray(values[name], dtype=np.float64).reshape(-1) for name in ("w", "b"))
    if w.size != 1 or b.size != 1 or not np.isfinite([w[0], b[0]]).all():
        return None
    return float(w[0]), float(b[0])


def find_optimum(curves: Sequence[Curve]) -> Line | None:
    """Return the least-squares line; the runs of one picture share their data, and so share it."""
    optima = (read_line(record.about.get("least_squares")) for record, _ in curves)
    return next((line for line in optima if line), None)


def list_lines(curves: Sequence[Curve], dataset: Dataset) -> list[tuple[Line, dict[str, Any]]]:
    """Return the learned lines, with their styles."""
    if not is_planar(dataset):
        return []
    lines = [(read_line(record.named("last")), style) for record, style in curves]
    return [(line, style) for line, style in lines if line]


def select_losses(curves: Sequence[Curve]) -> list[Curve]:
    """Return the runs of which a logarithmic axis can show at least one step."""
    return [
        (record, style)
        for record, style in curves
        if record.steps and (np.isfinite(loss := record.arrays["loss"]) & (loss > 0)).any()
    ]


def is_finite(record: RunRecord) -> bool:
    """Whether the loss stayed finite to the end."""
    return bool(np.isfinite(record.arrays["loss"]).all())


def mean_window(record: RunRecord, dataset: Dataset) -> int:
    """Return over how many steps a loss is averaged: an epoch's or more if it is long, else 1."""
    batch = record.config["train"].get("batch")
    if batch is None or record.steps <= MOST_PLAIN_STEPS:
        return 1
    epoch = -(-dataset.rows // batch) / record.config["optimizer"].get("accumulate", 1)
    if epoch <= 1:
        return 1
    return min(max(math.ceil(epoch), record.steps // 50), record.steps // 10)


def read_validation(record: RunRecord, score: str | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the steps at which a score of the validation set is finite, and the score there."""
    values = record.arrays.get(f"val/{score}")
    if values is None:
        return None
    finite = np.isfinite(values)
    return record.arrays["val/step"][finite], values[finite]


def list_other_scores(curves: Sequence[Curve]) -> list[str]:
    """Return the scores of the validation set that a run has and its loss's axis cannot show."""
    return list(
        dict.fromkeys(
            score
            for record, _ in curves
            for score, values in record.named("val").items()
            if np.isfinite(values).any()
            and score not in ("step", SAME_SCORE.get(record.config["loss"]["name"]))
        )
    )
