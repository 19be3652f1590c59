"""A file of the user's own: named columns of a CSV, Parquet, .npz or .npy file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from pipeline.config.types import ConfigError, Count, Fraction, Strings
from pipeline.data import cells, tables
from pipeline.data.columns import choose_columns
from pipeline.data.prepare import Share, Stream, numbered, prepared
from pipeline.data.streams import Source, streamed


def _texts(names: Any) -> Any:
    """Take one name for a list of it, and a column's number for its name."""
    names = [names] if isinstance(names, str | int) else names
    listed = isinstance(names, list | tuple)
    return [str(n) if type(n) is int else n for n in names] if listed else names


def _mark(text: Any) -> Any:
    """Take a tab by its name, and refuse what cannot stand between columns."""
    mark = "\t" if text in ("tab", r"\t") else text
    if isinstance(mark, str) and (len(mark) != 1 or not mark.isascii() or mark in '"\r\n'):
        raise PydanticCustomError("mark", "must be one ASCII character, such as ; or |, or tab")
    return mark


Filename = Annotated[str, Field(min_length=1)]
Columns = Annotated[Strings, BeforeValidator(_texts), Field(min_length=1)]
Excluded = Annotated[Strings, BeforeValidator(_texts), Field()]
Separator = Annotated[str, BeforeValidator(_mark), Field(min_length=1)]


def file(
    stream: Stream,
    *,
    path: Filename,
    features: Columns,
    target: Columns,
    task: Literal["regression", "classes"],
    source: Literal["memory", "mmap"],
    block: Count,
    cap: Count,
    validation: Fraction,
    test: Share,
    standardise: bool,
    standardise_target: bool,
    separator: Separator,
    decimal: Literal[".", ","],
    exclude: Excluded,
) -> tuple[dict[str, np.ndarray], dict[str, Any], Source | None]:
    """Samples of a file, split by the seed; with ``mmap`` the training samples stay in the file.

    Labels of classes are integers or text, and numbered from 0 in sorted order. In memory a split
    is made of rows, and stratified by class; streamed, it is made of whole blocks.

    Raises
    ------
    ConfigError
        Naming column and row (rows counted from 1, the header not being one) of the first value
        that cannot be trained on, or what else is wrong with the file.
    """
    classes = task == "classes"
    if classes and standardise_target:
        raise ConfigError("data.standardise_target", "true", "does not go with data.task=classes")
    table = tables.opened(path, block=block, separator=_mark(separator), decimal=decimal)
    features, target = choose_columns(
        table, features=_texts(features), exclude=_texts(exclude), target=_texts(target)
    )
    if classes and len(target) > 1:
        raise ConfigError("data.target", ",".join(target), "is several; classes have one")
    if source == "mmap":
        if table.path.suffix.lower() not in tables.STREAMED:
            kinds = " or ".join(tables.STREAMED)
            raise ConfigError("data.source", "mmap", f"needs a {kinds} file, not {table.path.name}")
        tables.load(table, [*features, *target])
        arrays, facts, streamed_source = streamed(
            stream,
            table,
            features=features,
            target=target,
            classes=classes,
            cap=cap,
            validation=validation,
            test=test,
            standardise=standardise,
            standardise_target=standardise_target,
        )
        about = {"features": list(features), "targets": list(target)}
        return arrays, facts | about, streamed_source
    tables.load(table, [*features, *target])
    x, names = _matrix(table, features, key="data.features", decimal=decimal)
    labels = None
    if classes:
        y, labels = numbered(_marks(table, target[0]), key="data.target", name=target[0])
        y, targets = y[:, None], [target[0]]
    else:
        y, targets = _matrix(table, target, key="data.target", decimal=decimal)
    arrays, facts = prepared(
        stream,
        x,
        y,
        names=names,
        targets=targets,
        validation=validation,
        test=test,
        standardise=standardise,
        standardise_target=standardise_target,
        labels=labels,
    )
    return arrays, facts | {"features": names, "targets": targets}, None


def _matrix(
    table: tables.Table, wanted: tuple[str, ...], *, key: str, decimal: str
) -> tuple[np.ndarray, list[str]]:
    """Return columns side by side in float64, shape ``(n, columns)``, and what each is called."""
    blocks, names, first = [], [], 0
    for block, rows in enumerate(table.blocks):
        raw_columns = table.columns(block, wanted, key=key)
        columns = [
            cells.read_numbers(values, key=key, name=name, first=first, decimal=decimal).reshape(
                rows, -1
            )
            for name, values in zip(wanted, raw_columns, strict=True)
        ]
        blocks.append(np.concatenate(columns, axis=1))
        first += rows
    for name, values in zip(wanted, columns, strict=True):
        names += (
            [name] if values.shape[1] == 1 else [f"{name}[{i}]" for i in range(values.shape[1])]
        )
    return np.concatenate(blocks), names


def _marks(table: tables.Table, name: str) -> np.ndarray:
    """Return a column of class labels."""
    blocks, first = [], 0
    for block, rows in enumerate(table.blocks):
        (values,) = table.columns(block, [name], key="data.target")
        blocks.append(cells.read_labels(values, name=name, first=first))
        first += rows
    return np.concatenate(blocks)
