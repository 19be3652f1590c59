"""A file of the user's own: named columns of a CSV, Parquet, .npz or .npy file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from pipeline.config.types import ConfigError, Count, Fraction, Strings
from pipeline.data import tables
from pipeline.data.columns import choose_columns
from pipeline.data.prepare import FILLS, Share, Stream, prepared
from pipeline.data.samples import read_samples
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
    categories: Literal["refuse", "onehot"],
    missing: Literal["refuse", "mean", "median", "drop"],
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
    made: dict[str, Any] = {
        "validation": validation,
        "test": test,
        "standardise": standardise,
        "standardise_target": standardise_target,
    }
    table = tables.opened(path, block=block, separator=_mark(separator), decimal=decimal)
    features, target = choose_columns(
        table, features=_texts(features), exclude=_texts(exclude), target=_texts(target)
    )
    if classes:
        _check_classes(target, standardise_target=standardise_target)
    wanted: dict[str, Any] = {"features": features, "target": target, "classes": classes}
    if source == "mmap":
        _check_streamed(table, categories=categories, missing=missing)
    tables.load(table, [*features, *target])
    if source == "mmap":
        arrays, facts, rows = streamed(stream, table, cap=cap, **wanted, **made)
        return arrays, facts | {"features": list(features), "targets": list(target)}, rows
    samples = read_samples(table, categories=categories, missing=missing, decimal=decimal, **wanted)
    arrays, facts = prepared(
        stream,
        samples.x,
        samples.y,
        names=samples.names,
        targets=samples.targets,
        labels=samples.labels,
        fill=missing if missing in FILLS else None,
        **made,
    )
    return arrays, samples.facts | facts, None


def _check_classes(target: tuple[str, ...], *, standardise_target: bool) -> None:
    """Refuse what a classification does not have."""
    if len(target) > 1:
        raise ConfigError("data.target", ",".join(target), "is several; classes have one")
    if standardise_target:
        raise ConfigError("data.standardise_target", "true", "does not go with data.task=classes")


def _check_streamed(table: tables.Table, *, categories: str, missing: str) -> None:
    """Refuse what is only done in memory; a streamed file is trained on as it is."""
    if table.path.suffix.lower() not in tables.STREAMED:
        kinds = " or ".join(tables.STREAMED)
        raise ConfigError("data.source", "mmap", f"needs a {kinds} file, not {table.path.name}")
    for key, value in (("categories", categories), ("missing", missing)):
        if value != "refuse":
            problem = "needs data.source=memory; a streamed file is read as it is"
            raise ConfigError(f"data.{key}", value, problem)
