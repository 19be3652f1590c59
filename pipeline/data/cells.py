"""What the cells of a column are worth: finite numbers, or class labels."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pipeline.config.types import ConfigError

# What programs write where there is no value, in small letters.
_MISSING = {"", "na", "n/a", "#n/a", "#na", "<na>", "nan", "-nan", "null"}
_DECIMAL_POINT = re.compile(r"\s*[-+]?[\d,]*\.\d+([eE][-+]?\d+)?\s*")
_DECIMAL_COMMA = re.compile(r"\s*[-+]?[\d.]*,\d+([eE][-+]?\d+)?\s*")


def name_cell(key: str, name: str, row: int, problem: str) -> ConfigError:
    """Say which cell is wrong; `row` counts from 0."""
    return ConfigError(key, name, f"data row {row + 1} (counted from 1) {problem}")


def unreadable(path: Path, error: Exception) -> ConfigError:
    """Return what to raise: in one line what a reader said about a damaged file."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ConfigError("data.path", path, f"cannot be read: {text}")


def read_numbers(
    values: np.ndarray,
    *,
    key: str,
    name: str,
    first: int,
    decimal: str = ".",
    gaps: bool = False,
) -> np.ndarray:
    """Return a column as finite float64, shape ``(n,)`` or ``(n, k)``.

    Parameters
    ----------
    values
        Numbers, or text that is read.
    key, name
        The setting that asks for the column, and what it is called.
    first
        Its first row, for messages.
    decimal
        The mark before the decimals of a number that is text.
    gaps
        Whether a missing value is NaN, and not refused.

    Raises
    ------
    ConfigError
        Naming the first cell that is text, is missing or is not finite.
    """
    if values.dtype.kind == "U":
        values = _parsed(values, key=key, name=name, first=first, decimal=decimal, gaps=gaps)
    if values.dtype.kind not in "biuf":
        raise ConfigError(key, name, f"holds {values.dtype}; must be numbers")
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float64, copy=False)
    fine = np.isfinite(numbers) | (np.isnan(numbers) & gaps)
    if not fine.all():
        row, *column = (int(i[0]) for i in np.nonzero(~fine))
        which = f"[{column[0]}]" if column else ""
        raise name_cell(
            key,
            name + which,
            first + row,
            f"is {numbers[(row, *column)]}; every value must be finite",
        )
    return numbers


def _parsed(
    values: np.ndarray, *, key: str, name: str, first: int, decimal: str, gaps: bool
) -> np.ndarray:
    """Read text as numbers."""
    numbers = np.empty(values.shape)
    for index, text in np.ndenumerate(values):
        if gaps and _is_missing(text):
            numbers[index] = np.nan
            continue
        try:
            numbers[index] = _number(text, decimal=decimal)
        except ValueError:
            problem = _describe_text(str(text), decimal=decimal)
            raise name_cell(key, name, first + index[0], problem) from None
    return numbers


def find_missing(values: np.ndarray) -> np.ndarray:
    """Return which cells have no value: those that are NaN, or text that stands for none."""
    if values.dtype.kind == "U":
        missing = [_is_missing(text) for text in values.reshape(-1).tolist()]
        return np.array(missing, dtype=bool).reshape(values.shape)
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=bool)


def holds_text(values: np.ndarray, *, decimal: str) -> bool:
    """Whether at least half of a column's cells with a value are text.

    One odd cell among numbers is no category, nor is a number with the other decimal mark: it is a
    slip that is to be named, as reading the column as numbers does.
    """
    if values.dtype.kind != "U":
        return False
    other = _DECIMAL_COMMA if decimal == "." else _DECIMAL_POINT
    numbers = texts = 0
    for text in values.reshape(-1).tolist():
        if _is_missing(text):
            continue
        try:
            _number(text, decimal=decimal)
            numbers += 1
        except ValueError:
            is_number = other.fullmatch(text) is not None
            numbers, texts = numbers + is_number, texts + (not is_number)
    return texts > 0 and texts >= numbers


def _is_missing(text: str) -> bool:
    """Whether text stands for no value."""
    return text.strip().lower() in _MISSING


def _number(text: str, *, decimal: str) -> float:
    """Read a number as Arrow does, which reads neither 1_000 nor, with decimal commas, 1.5."""
    if "_" in text or (decimal != "." and "." in text):
        raise ValueError(text)
    return float(text.replace(decimal, "."))


def _describe_text(text: str, *, decimal: str) -> str:
    """Say what is wrong with text that is no number."""
    if not text.strip():
        return "has no value"
    if decimal == "." and _DECIMAL_COMMA.fullmatch(text):
        return (
            f"holds {text!r}, a decimal comma; 'data.decimal=\",\"' reads it in a CSV file "
            "whose data.separator is no comma"
        )
    if decimal != "." and _DECIMAL_POINT.fullmatch(text):
        return f"holds {text!r}; with data.decimal={decimal} a number has no point"
    return f"holds the text {text!r}, no number"


def read_labels(values: np.ndarray, *, name: str, first: int) -> np.ndarray:
    """Return a column of class labels as int64 or text; whole floats count as integers.

    Raises
    ------
    ConfigError
        Naming the first cell that is no label.
    """
    key = "data.target"
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise ConfigError(key, name, "has several columns; the target of classes is one")
    kind = values.dtype.kind
    if kind == "U":
        missing = np.flatnonzero(find_missing(values))
        if len(missing):
            row = int(missing[0])
            text = str(values[row])
            problem = (
                f"is {text!r}, a missing label; data.missing=drop leaves the row out, or call the "
                "class otherwise"
            )
            raise name_cell(key, name, first + row, problem if text.strip() else "has no value")
        return values
    if kind == "f":
        numbers = read_numbers(values, key=key, name=name, first=first)
        bad = np.flatnonzero((numbers != np.trunc(numbers)) | (np.abs(numbers) > 2.0**53))
        if len(bad):
            raise name_cell(
                key, name, first + int(bad[0]),
                f"is {numbers[bad[0]]}; a class is an integer or text (data.task=regression?)",
            )  # fmt: skip
        return numbers.astype(np.int64)
    if kind not in "biu":
        raise ConfigError(key, name, f"holds {values.dtype}; a class is an integer or text")
    bad = np.flatnonzero(values > np.iinfo(np.int64).max)
    if len(bad):
        raise name_cell(
            key, name, first + int(bad[0]), f"is {values[bad[0]]}; too large for a class"
        )
    return values.astype(np.int64)
