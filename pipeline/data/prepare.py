"""What sets of measured samples share: splits by seed, standardisation, class numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from pipeline.config.types import ConfigError

Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Stream = Callable[[str], np.random.Generator]
FILLS: dict[str, Callable[[np.ndarray], Any]] = {"mean": np.mean, "median": np.median}
Made = tuple[dict[str, np.ndarray], dict[str, Any]]


class Moments:
    """Mean and scale of columns, gathered block by block; the scale divides by n, not by n − 1.

    Blocks are merged by the pairwise rule of T. Chan, G. Golub and R. LeVeque, "Updating formulae
    and a pairwise algorithm for computing sample variances" (1979), so that nothing cancels.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """Begin with no rows; `names` are those of the columns, for an error's text."""
        self.names = names
        self.n = 0
        self.mean = np.zeros(len(names))
        self.squares = np.zeros(len(names))
        self.low = np.full(len(names), np.inf)
        self.high = np.full(len(names), -np.inf)

    def add(self, values: np.ndarray) -> None:
        """Take in a block of shape ``(n, columns)``, n at least 1."""
        n = len(values)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = values.mean(axis=0)
            squares = np.square(values - mean).sum(axis=0)
            step = mean - self.mean
            self.squares += squares + np.square(step) * (self.n * n / (self.n + n))
            self.mean += step * (n / (self.n + n))
        self.n += n
        self.low = np.minimum(self.low, values.min(axis=0))
        self.high = np.maximum(self.high, values.max(axis=0))

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and scale; a constant column has its value as mean and keeps scale 1."""
        scale = np.sqrt(self.squares / self.n)
        constant = self.low == self.high
        bad = np.flatnonzero(~(np.isfinite(scale) & np.isfinite(self.mean)) & ~constant)
        if len(bad):
            raise ConfigError(
                "data.standardise", "true", f"column {self.names[bad[0]]} is too large to square"
            )
        keep = constant | (scale == 0)
        return np.where(constant, self.low, self.mean), np.where(keep, 1.0, scale)


def numbered(marks: np.ndarray, *, key: str, name: str) -> tuple[np.ndarray, list[Any]]:
    """Return class numbers 0..K−1 in the sorted order of the labels, and the labels.

    Raises
    ------
    ConfigError
        If there is only one class, or more than 10 000.
    """
    labels, numbers = np.unique(marks, return_inverse=True)
    check_labels(labels, key=key, name=name)
    return numbers.reshape(-1).astype(np.int64), labels.tolist()


def check_labels(labels: np.ndarray, *, key: str, name: str) -> None:
    """Refuse a target that makes no classification."""
    if len(labels) < 2:
        raise ConfigError(key, name, f"holds one class only, {labels[0]}")
    if len(labels) > 10_000:
        raise ConfigError(
            key, name, "holds more than 10000 classes; is data.task=regression meant?"
        )


def check_shares(*, validation: float, test: float) -> None:
    """Refuse fractions that leave nothing to train on."""
    if validation + test >= 1:
        raise ConfigError(
            "data.test", test, f"with data.validation={validation} leaves no training"
        )


def parts(
    rng: np.random.Generator,
    n: int,
    *,
    validation: float,
    test: float,
    classes: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return the rows of ``train``, ``val`` (where wanted) and ``test``: disjoint and exhaustive.

    With `classes` the split is stratified: rows are dealt at equal distances from a permutation
    sorted by class, so each split has every class's share of it to within one row.

    Raises
    ------
    ConfigError
        If a split would be empty.
    """
    check_shares(validation=validation, test=test)
    order = rng.permutation(n)
    remaining = order if classes is None else order[np.argsort(classes[order], kind="stable")]
    where = np.zeros(n, dtype=np.int8)
    for mark, key, share in ((1, "test", test), (2, "validation", validation)):
        count = round(n * share)
        if share and not count:
            raise ConfigError(f"data.{key}", share, f"of {n} rows is no row")
        if count >= len(remaining):
            raise ConfigError(f"data.{key}", share, f"of {n} rows leaves no row to train on")
        taken = np.diff(np.arange(len(remaining) + 1) * count // len(remaining)) > 0
        where[remaining[taken]] = mark
        remaining = remaining[~taken]
    rows = {"train": order[where[order] == 0], "test": order[where[order] == 1]}
    return rows | ({"val": order[where[order] == 2]} if validation else {})


def prepared(
    stream: Stream,
    x: np.ndarray,
    y: np.ndarray,
    *,
    names: Sequence[str],
    targets: Sequence[str],
    validation: float,
    test: float,
    standardise: bool,
    standardise_target: bool = False,
    labels: list[Any] | None = None,
    fill: str | None = None,
) -> Made:
    """Split and standardise samples; every statistic is fitted on the training split alone.

    Parameters
    ----------
    x, y
        All samples, shape ``(n, columns)``, float64; targets of shape ``(n, outputs)``, float64,
        or class numbers of shape ``(n, 1)``, int64.
    names, targets
        What the columns of `x` and `y` are called.
    labels
        What the classes are called, or None for values.
    fill
        Which of `FILLS` stands in place of NaN in `x`; None where there is none.

    Returns
    -------
    arrays, facts
        Splits by name; ``classes`` and ``labels`` of a classification; mean and scale where
        something was standardised (``standardised``, ``standardised_target``); what was filled in.
    """
    rows = parts(
        stream("data.split"), len(x), validation=validation, test=test,
        classes=None if labels is None else y[:, 0],
    )  # fmt: skip
    facts: dict[str, Any] = {}
    if labels is not None:
        check_train(np.bincount(y[rows["train"], 0], minlength=len(labels)), labels, test=test)
        facts |= {"classes": len(labels), "labels": labels}
    if fill is not None:
        x, facts["missing"] = fill_gaps(x, by=fill, train=rows["train"], names=names)
    for fact, wants, columns, values in (
        ("standardised", standardise, names, x),
        ("standardised_target", standardise_target, targets, y),
    ):
        if wants:
            moments = Moments(columns)
            moments.add(values[rows["train"]])
            facts[fact] = statistics(*moments.result())
    x = rescaled(x, facts.get("standardised"))
    y = rescaled(y, facts.get("standardised_target"))
    arrays: dict[str, np.ndarray] = {}
    for split, chosen in rows.items():
        arrays |= {f"x_{split}": x[chosen], f"y_{split}": y[chosen]}
    return arrays, facts


def fill_gaps(
    x: np.ndarray, *, by: str, train: np.ndarray, names: Sequence[str]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return samples with each NaN replaced by a statistic of its column, and what was replaced.

    Parameters
    ----------
    x
        Samples of shape ``(n, columns)``.
    by
        Which of `FILLS`, of those values of the column that are no NaN.
    train
        Rows that it is taken over.
    names
        What the columns are called.

    Returns
    -------
    x, about
        Samples, and for each column that had gaps, how many (``filled``) and by what (``values``).
    """
    counts: dict[str, int] = {}
    values: dict[str, float] = {}
    x = x.copy()
    for column in np.flatnonzero(np.isnan(x).any(axis=0)).tolist():
        name, gaps = names[column], np.isnan(x[:, column])
        known = x[train, column][~gaps[train]]
        if not len(known):
            raise ConfigError("data.missing", by, f"column {name} has no value in a training row")
        value = float(FILLS[by](known))
        if not np.isfinite(value):
            raise ConfigError("data.missing", by, f"column {name} is too large to add up")
        x[gaps, column] = value
        counts[name], values[name] = int(gaps.sum()), value
    return x, {"filled": counts, "values": values}


def statistics(mean: np.ndarray, scale: np.ndarray) -> dict[str, list[float]]:
    """Mean and scale as plain values, for the facts of a data set."""
    return {"mean": mean.tolist(), "scale": scale.tolist()}


def rescaled(values: np.ndarray, by: dict[str, list[float]] | None) -> np.ndarray:
    """``(values − mean)/scale``, or the values as they are."""
    return values if by is None else (values - np.array(by["mean"])) / np.array(by["scale"])


def check_train(counts: np.ndarray, labels: Sequence[Any], *, test: float) -> None:
    """Refuse a training split that misses a class."""
    for label, count in zip(labels, counts, strict=True):
        if not count:
            raise ConfigError(
                "data.test", test, f"with data.validation leaves no training row of class {label}"
            )
