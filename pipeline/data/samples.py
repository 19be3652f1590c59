"""The samples of a file, whole in memory: numbers, labels, and text as columns of 0 and 1.

Shape legend: n rows, k columns of one name, d columns of all features.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.config.types import ConfigError
from pipeline.data import cells
from pipeline.data.memory import check_room
from pipeline.data.prepare import numbered
from pipeline.data.tables import Table

MOST_CATEGORIES = 1000  # of one column; more is an identifier, or numbers with a slip among them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """All rows of a file that are used, before they are split.

    Attributes
    ----------
    x
        Shape ``(n, d)``, float64; NaN where a value is missing and is to be filled in.
    y
        Shape ``(n, outputs)``, float64; or class numbers of shape ``(n, 1)``, int64.
    names, targets
        What the columns of `x` and `y` are called.
    labels
        What the classes are called, or None for values.
    facts
        ``features`` and ``targets``, the names; ``categories`` by column, where there are some;
        of ``missing``, how many rows were dropped.
    """

    x: np.ndarray
    y: np.ndarray
    names: list[str]
    targets: list[str]
    labels: list[Any] | None
    facts: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Column:
    """What one name stands for: numbers of shape ``(n, k)``, or text of shape ``(n,)``."""

    name: str
    values: np.ndarray

    @property
    def is_text(self) -> bool:
        """Whether it is to be encoded."""
        return self.values.dtype.kind == "U"

    def find_gaps(self) -> np.ndarray:
        """Return the rows in which a value is missing, shape ``(n,)``."""
        missing = cells.find_missing(self.values)
        return missing if missing.ndim == 1 else np.logical_or.reduce(missing, axis=1)

    def take(self, rows: np.ndarray) -> _Column:
        """Return the column of some rows."""
        return _Column(self.name, self.values[rows])


def read_samples(
    table: Table,
    *,
    features: Sequence[str],
    target: Sequence[str],
    classes: bool,
    categories: str,
    missing: str,
    decimal: str,
) -> Samples:
    """Read a file's features and target, and leave out rows with gaps where that is asked for.

    Parameters
    ----------
    table
        The file, loaded.
    features, target
        Names of its columns.
    classes
        Whether the target is a label.
    categories
        ``onehot`` encodes columns of text, ``refuse`` refuses them.
    missing
        ``drop`` leaves out each row in which a feature or the target is missing; with ``mean`` and
        ``median`` a missing number is NaN; ``refuse`` refuses it.
    decimal
        The mark before the decimals of a number that is text.
    """
    drop = missing == "drop"
    columns = _read_features(
        table, features, onehot=categories == "onehot", missing=missing, decimal=decimal
    )
    if classes:
        targets, gaps = _read_labels(table, target[0], drop=drop)
    else:
        targets = _read_numbers(table, target, key="data.target", gaps=drop, decimal=decimal)
        gaps = np.logical_or.reduce([column.find_gaps() for column in targets])
    facts: dict[str, Any] = {}
    if drop:
        rows = ~np.logical_or.reduce([gaps, *(column.find_gaps() for column in columns)])
        if not rows.any():
            raise ConfigError("data.missing", "drop", "leaves no row; each has a missing value")
        facts["missing"] = {"dropped": int((~rows).sum())}
        columns, targets = ([c.take(rows) for c in each] for each in (columns, targets))
    x, names, encoded = _encode(columns)
    labels = None
    if classes:
        y, labels = numbered(targets[0].values, key="data.target", name=target[0])
        y, called = y[:, None], [target[0]]
    else:
        y, called, _ = _encode(targets)
    facts |= {"features": names, "targets": called} | ({"categories": encoded} if encoded else {})
    return Samples(x=x, y=y, names=names, targets=called, labels=labels, facts=facts)


def _read_raw(table: Table, names: Sequence[str], *, key: str, gaps: bool) -> list[np.ndarray]:
    """Return columns as they are in the file, the blocks of each one below the other."""
    blocks = [table.columns(i, names, key=key, gaps=gaps) for i in range(len(table.blocks))]
    return [np.concatenate(parts) for parts in zip(*blocks, strict=True)]


def _read_numbers(
    table: Table, names: Sequence[str], *, key: str, gaps: bool, decimal: str
) -> list[_Column]:
    """Return columns of numbers; a missing one is NaN with `gaps`, and refused without."""
    settings: dict[str, Any] = {"key": key, "gaps": gaps, "decimal": decimal, "first": 0}
    columns = []
    for name, raw in zip(names, _read_raw(table, names, key=key, gaps=gaps), strict=True):
        numbers = cells.read_numbers(raw, name=name, **settings)
        columns.append(_Column(name, numbers.reshape(len(numbers), -1)))
    return columns


def _read_features(
    table: Table, names: Sequence[str], *, onehot: bool, missing: str, decimal: str
) -> list[_Column]:
    """Return the features: numbers, and with `onehot` text."""
    key, gaps = "data.features", missing != "refuse"
    if not onehot:
        return _read_numbers(table, names, key=key, gaps=gaps, decimal=decimal)
    columns = []
    for name, raw in zip(names, _read_raw(table, names, key=key, gaps=gaps), strict=True):
        for called, values in _split_text(name, raw):
            if cells.holds_text(values, decimal=decimal):
                if missing != "drop":
                    _check_categories(called, values)
                columns.append(_Column(called, values))
                continue
            numbers = cells.read_numbers(
                values, key=key, name=called, first=0, decimal=decimal, gaps=gaps
            )
            columns.append(_Column(called, numbers.reshape(len(numbers), -1)))
    return columns


def _split_text(name: str, raw: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return each column of text by itself, with its name; numbers stay beside each other."""
    if raw.ndim == 1 or raw.dtype.kind != "U":
        return [(name, raw)]
    return [(_name_of(name, i, raw.shape[1]), raw[:, i]) for i in range(raw.shape[1])]


def _check_categories(name: str, values: np.ndarray) -> None:
    """Refuse text that is missing: it has no mean, and is no category."""
    gaps = np.flatnonzero(cells.find_missing(values))
    if len(gaps):
        text = str(values[gaps[0]])
        shown = f"is {text!r}, a missing category" if text.strip() else "has no value"
        problem = f"{shown}; data.missing=drop leaves the row out, or give it a name"
        raise cells.name_cell("data.features", name, int(gaps[0]), problem)


def _read_labels(table: Table, name: str, *, drop: bool) -> tuple[list[_Column], np.ndarray]:
    """Return the labels, and in which rows one is missing; what stands there means nothing."""
    (raw,) = _read_raw(table, [name], key="data.target", gaps=drop)
    gaps = np.logical_or.reduce(cells.find_missing(raw).reshape(len(raw), -1), axis=1)
    if drop and gaps.any() and not gaps.all():
        raw = raw.copy()
        raw[gaps] = raw[~gaps][0]
    if drop and gaps.all():
        raw = np.zeros(len(raw), dtype=np.int64)
    return [_Column(name, cells.read_labels(raw, name=name, first=0))], gaps


def _encode(columns: Sequence[_Column]) -> tuple[np.ndarray, list[str], dict[str, list[str]]]:
    """Return columns side by side, what each is called, and the categories of those of text.

    A column of text becomes one for each category, in sorted order: 1 in its rows, 0 in others.
    """
    found = {c.name: np.unique(c.values, return_inverse=True) for c in columns if c.is_text}
    rows, width = len(columns[0].values), 0
    for column in columns:
        width += len(found[column.name][0]) if column.is_text else column.values.shape[1]
    for name, (categories, _) in found.items():
        if len(categories) > MOST_CATEGORIES:
            problem = f"holds {len(categories)} categories; at most {MOST_CATEGORIES} are encoded"
            raise ConfigError("data.features", name, problem)
    if found:
        instead = "data.exclude leaves columns of many categories out"
        check_room(8 * rows * width, key="data.categories", value="onehot", instead=instead)
    parts: list[np.ndarray] = []
    names: list[str] = []
    for column in columns:
        if column.is_text:
            categories, numbers = found[column.name]
            parts.append(np.eye(len(categories))[numbers])
            names += [f"{column.name}={category}" for category in categories.tolist()]
        else:
            width = column.values.shape[1]
            parts.append(column.values)
            names += [_name_of(column.name, i, width) for i in range(width)]
    for name, count in Counter(names).items() if found else ():
        if count > 1:
            problem = f"makes a column {name}, which is the name of another one"
            raise ConfigError("data.categories", "onehot", problem)
    encoded = {name: categories.tolist() for name, (categories, _) in found.items()}
    return np.concatenate(parts, axis=1), names, encoded


def _name_of(name: str, column: int, width: int) -> str:
    """Return what one of `width` columns of a name is called."""
    return name if width == 1 else f"{name}[{column}]"
