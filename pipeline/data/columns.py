"""Which columns of a file are features, and which its target: by name, range, or all but some.

A name that a column has stands for that column alone, also where it could be read otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.config.types import ConfigError
from pipeline.data.tables import Table

_SHOWN = 50  # names in a message


def choose_columns(
    table: Table, *, features: Sequence[str], exclude: Sequence[str], target: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the features and of the target, each a column of the file.

    Parameters
    ----------
    table
        The file.
    features
        Names; ``first:last``, those from one column to another in the file's order; ``all``, each
        column that is no target.
    exclude
        Names and ranges that are taken away from the features.
    target
        Names and ranges.

    Raises
    ------
    ConfigError
        If one of them is not there, is named twice or is both, or if no feature is left.
    """
    targets = _expand(table, target, key="data.target", all_columns=None)
    predicted = set(targets)
    others = [name for name in table.names if name not in predicted]
    left_out = set(_expand(table, exclude, key="data.exclude", all_columns=None))
    named = _expand(table, features, key="data.features", all_columns=others)
    if not named:
        raise ConfigError("data.features", "all", f"{table.path.name} has none but the target")
    chosen = [name for name in named if name not in left_out]
    if not chosen:
        raise ConfigError("data.exclude", ",".join(exclude), "leaves no feature")
    _check_once(table, chosen, key="data.features")
    _check_once(table, targets, key="data.target")
    both = [name for name in chosen if name in predicted]
    if both:
        raise ConfigError("data.target", both[0], "is also one of data.features")
    return tuple(chosen), tuple(targets)


def _expand(
    table: Table, wanted: Sequence[str], *, key: str, all_columns: Sequence[str] | None
) -> list[str]:
    """Return the names that each word stands for; ``all`` is one where `all_columns` are given."""
    there = set(table.names)
    names: list[str] = []
    for word in wanted:
        if word in there:
            names.append(word)
        elif word == "all" and all_columns is not None:
            names += all_columns
        else:
            names += _read_range(table, word, key=key)
    return names


def _read_range(table: Table, word: str, *, key: str) -> list[str]:
    """Return the names from one column to another, both included, in the file's order.

    A column's own name may have a colon: the range is split where both sides are columns.
    """
    file, names = table.path.name, table.names
    splits = [(word[:i], word[i + 1 :]) for i, letter in enumerate(word) if letter == ":"]
    ends = [(first, last) for first, last in splits if first in names and last in names]
    if not ends:
        shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        range_too = ", nor a range first:last of two" if splits else ""
        raise ConfigError(key, word, f"is no column of {file}{range_too}; it has {shown}")
    if len(ends) > 1:
        raise ConfigError(key, word, f"is more than one range of columns of {file}")
    first, last = (names.index(name) for name in ends[0])
    if first > last:
        raise ConfigError(key, word, f"{ends[0][0]} comes after {ends[0][1]} in {file}")
    return names[first : last + 1]


def _check_once(table: Table, wanted: Sequence[str], *, key: str) -> None:
    """Refuse a name that two columns have, or that is listed twice."""
    columns, listed = Counter(table.names), Counter(wanted)
    for name in wanted:
        if columns[name] > 1:
            raise ConfigError(key, name, f"is the name of two columns of {table.path.name}")
        if listed[name] > 1:
            raise ConfigError(key, name, "is listed twice")
