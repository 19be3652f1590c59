"""A data set that stays in its file: which blocks are trained on, and how their rows are read.

Shape legend: r rows of a block, d features, t targets.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.config.types import ConfigError
from pipeline.data import cells, tables
from pipeline.data.prepare import (
    Moments,
    Stream,
    check_labels,
    check_shares,
    check_train,
    rescaled,
    statistics,
)
from pipeline.data.tables import Table

_PIECE = 1 << 19  # bytes read and standardised at once, so that they stay in the cache


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """The training samples of a file, read block by block; not the file, nor its other samples.

    Attributes
    ----------
    table
        The file.
    features, target
        Columns of the samples and of their targets.
    blocks
        Numbers of the file's blocks that are trained on, in the order of the file.
    labels
        Class labels in sorted order, or None where targets are values.
    moments, target_moments
        ``mean`` and ``scale`` of what is standardised, or None.
    digest
        SHA-256 over the file's bytes and what was made of them.
    state
        Length and time of change of the file when its digest was taken.
    """

    table: Table
    features: tuple[str, ...]
    target: tuple[str, ...]
    blocks: tuple[int, ...]
    labels: np.ndarray | None
    moments: dict[str, list[float]] | None
    target_moments: dict[str, list[float]] | None
    digest: str
    state: tuple[int, int]

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self.table.path

    @property
    def rows(self) -> int:
        """Number of training samples."""
        return sum(self.table.blocks[block] for block in self.blocks)

    @property
    def inputs(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return (len(self.features),)

    @property
    def outputs(self) -> int:
        """Number of target columns."""
        return len(self.target)

    def length(self, block: int) -> int:
        """Return the number of rows of a block."""
        return self.table.blocks[block]

    def read(self, block: int, *, out: np.ndarray, order: np.ndarray | None = None) -> np.ndarray:
        """Read one block: its samples into `out`, its targets returned.

        Parameters
        ----------
        block
            One of `blocks`.
        out
            Shape ``(r, d)``, of any precision; standardising is done in float64 before.
        order
            Rows in the order wanted, a permutation of ``range(r)``; None for that of the file.

        Returns
        -------
        np.ndarray
            Shape ``(r, t)``, float64; or class numbers of shape ``(r, 1)``, int64.

        Raises
        ------
        RuntimeError
            If the file was changed or removed since its digest was taken.
        """
        if tables.unchanged(self.path) != self.state:
            raise RuntimeError(f"{self.path} was changed or removed while it was trained on")
        done = out if order is None else self._scratch(out.dtype)[: len(out)]
        targets, start = [], 0
        for part, columns, y in self._pieces(block):
            end = start + len(part)
            _fill(done[start:end], part, columns=columns, tiles=self._tiles)
            targets.append(y)
            start = end
        y = np.concatenate(targets)
        if order is not None:
            np.take(done, order, axis=0, out=out, mode="clip")
            y = y[order]
        if self.labels is not None:
            return np.searchsorted(self.labels, y).astype(np.int64)
        return rescaled(y.astype(np.float64, copy=False), self.target_moments)  # an .npy's as well

    def _pieces(self, block: int) -> Iterator[tuple[np.ndarray, slice | np.ndarray, np.ndarray]]:
        """Yield a block's numbers piece by piece, which columns are features, and the targets."""
        table = self.table
        if isinstance(table, tables.Npy):
            columns = _span([int(name) for name in self.features])
            beside = _span([int(name) for name in self.target])
            for part in table.pieces(block, self._step(table.width)):
                yield part, columns, np.array(part[:, beside])
            return
        matrix = _numbers(table.columns(block, self.features, key="data.features"))
        labels = table.columns(block, self.target, key="data.target")
        y = _numbers(labels) if self.labels is None else labels[0][:, None]
        step = self._step(matrix.shape[1])
        for start in range(0, len(matrix), step):
            yield matrix[start : start + step], slice(None), y[start : start + step]

    def _scratch(self, dtype: np.dtype) -> np.ndarray:
        """Return memory for the longest block; the same at every call."""
        rows = max(self.table.blocks)
        if len(self._memory) < rows or self._memory.dtype != dtype:
            self.__dict__["_memory"] = np.empty((rows, len(self.features)), dtype)
        return self._memory

    @functools.cached_property
    def _memory(self) -> np.ndarray:
        """Room for the longest block, empty until `_scratch` has made it."""
        return np.empty((0, 0))

    def _step(self, width: int) -> int:
        """Return the rows of a piece; where nothing is standardised, those of the longest block."""
        return max(self.table.blocks) if self.moments is None else max(1, _PIECE // (8 * width))

    @functools.cached_property
    def _tiles(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Mean and scale for each row of a piece, and room for one: faster than broadcasts."""
        if self.moments is None:
            return None
        table = self.table
        width = len(self.features)
        columns: slice | np.ndarray = slice(None)
        if isinstance(table, tables.Npy) and not _narrow(table.width, width):
            width, columns = table.width, _span([int(name) for name in self.features])
        mean, scale = np.zeros(width), np.ones(width)
        mean[columns], scale[columns] = self.moments["mean"], self.moments["scale"]
        rows = self._step(table.width if isinstance(table, tables.Npy) else width)
        return np.tile(mean, (rows, 1)), np.tile(scale, (rows, 1)), np.empty((rows, width))


def _numbers(columns: list[np.ndarray]) -> np.ndarray:
    """Return columns that were looked at before side by side; text is read, each by itself."""
    return np.stack([column.astype(np.float64, copy=False) for column in columns], axis=1)


def _span(columns: list[int]) -> slice | np.ndarray:
    """Return columns as a slice, which needs no copy, where they lie beside each other."""
    if columns == list(range(columns[0], columns[0] + len(columns))):
        return slice(columns[0], columns[0] + len(columns))
    return np.array(columns)


def _narrow(width: int, features: int) -> bool:
    """Whether so few columns are features that the others are better left out at once."""
    return width > 2 * features


def _fill(
    out: np.ndarray,
    part: np.ndarray,
    *,
    columns: slice | np.ndarray,
    tiles: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
) -> None:
    """Write columns of some rows to `out`, standardised and in its precision."""
    if _narrow(part.shape[1], out.shape[1]):
        part, columns = part[:, columns], slice(None)
    if tiles is not None:
        mean, scale, room = (tile[: len(part)] for tile in tiles)
        part = np.divide(np.subtract(part, mean, out=room), scale, out=room)
    np.copyto(out, part[:, columns], casting="same_kind")


def streamed(
    stream: Stream,
    table: Table,
    *,
    features: tuple[str, ...],
    target: tuple[str, ...],
    classes: bool,
    cap: int,
    validation: float,
    test: float,
    standardise: bool,
    standardise_target: bool,
) -> tuple[dict[str, np.ndarray], dict[str, Any], Source]:
    """Split a file by whole blocks, look through it once, and keep all but training in memory.

    Every value is checked, means and scales are gathered over the training rows, and labels over
    all rows, in one pass.
    """
    state = tables.unchanged(table.path)
    chosen = _blocks(stream("data.split"), table, cap=cap, validation=validation, test=test)
    moments, target_moments = Moments(features), Moments(target)
    trained, seen = set(chosen["train"]), _Labels(target[0])
    kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    first = 0
    for block, rows in enumerate(table.blocks):
        x, y = _checked(table, block, first, features=features, target=target, classes=classes)
        if classes:
            seen.add(y, trained=block in trained)
        if block not in trained:
            kept[block] = x, y
        else:
            if standardise:
                moments.add(x)
            if standardise_target:
                target_moments.add(y)
        first += rows

    facts: dict[str, Any] = {}
    if classes:
        labels = seen.all()
        check_labels(labels, key="data.target", name=target[0])
        check_train(np.isin(labels, seen.trained()), labels.tolist(), test=test)
        facts |= {"classes": len(labels), "labels": labels.tolist()}
    if standardise:
        facts["standardised"] = statistics(*moments.result())
    if standardise_target:
        facts["standardised_target"] = statistics(*target_moments.result())
    source = Source(
        table=table,
        features=features,
        target=target,
        blocks=chosen["train"],
        labels=labels if classes else None,
        digest=_digest(
            table, features=features, target=target, classes=classes, chosen=chosen, facts=facts
        ),
        state=state,
        moments=facts.get("standardised"),
        target_moments=facts.get("standardised_target"),
    )
    arrays: dict[str, np.ndarray] = {}
    for split in ("val", "test"):
        arrays |= _join_blocks([kept.pop(block) for block in chosen.get(split, ())], split, source)
    return arrays, facts, source


def _join_blocks(
    blocks: Sequence[tuple[np.ndarray, np.ndarray]], split: str, source: Source
) -> dict[str, np.ndarray]:
    """Return a split's samples and targets as they are scored, ``x_<split>`` and ``y_<split>``.

    They are standardised as the training samples are, and labels become class numbers.
    """
    if not blocks:
        return {}
    x, y = (np.concatenate(column) for column in zip(*blocks, strict=True))
    x, y = rescaled(x, source.moments), rescaled(y, source.target_moments)
    if source.labels is not None:
        y = np.searchsorted(source.labels, y).astype(np.int64)[:, None]
    return {f"x_{split}": x, f"y_{split}": y}


class _Labels:
    """Class labels met so far, and those of them that are trained on."""

    def __init__(self, name: str) -> None:
        """Begin with no labels; `name` is that of the target's column, for an error's text."""
        self.name = name
        self.found: dict[Any, bool] = {}
        self.kind: np.dtype = np.dtype(np.int64)

    def add(self, marks: np.ndarray, *, trained: bool) -> None:
        """Add the labels of some rows, and whether those rows are trained on.

        Raises
        ------
        ConfigError
            If there are more labels than a classification can have.
        """
        self.kind = np.promote_types(self.kind, marks.dtype) if self.found else marks.dtype
        for label in np.unique(marks).tolist():
            self.found[label] = self.found.get(label, False) or trained
        if len(self.found) > 10_000:
            check_labels(self.all(), key="data.target", name=self.name)

    def all(self) -> np.ndarray:
        """Return all labels in sorted order."""
        return np.array(sorted(self.found), dtype=self.kind)

    def trained(self) -> np.ndarray:
        """Return the labels that occur among the rows that are trained on, unsorted."""
        return np.array([label for label, trained in self.found.items() if trained], self.kind)


def _blocks(
    rng: np.random.Generator, table: Table, *, cap: int, validation: float, test: float
) -> dict[str, tuple[int, ...]]:
    """Choose whole blocks for each split, from a permutation of them.

    The test and the validation set get at least one block, and further ones as long as they stay
    within their fraction of the rows and within `cap` rows.
    """
    check_shares(validation=validation, test=test)
    rows, total = table.blocks, sum(table.blocks)
    wanted = 2 + bool(validation)
    if len(rows) < wanted:
        unit = "data.block" if isinstance(table, tables.Npy) else "its row groups"
        raise ConfigError(
            "data.source", "mmap",
            f"{table.path.name} has {len(rows)} block(s) for {wanted} sets; make {unit} smaller",
        )  # fmt: skip
    remaining = rng.permutation(len(rows)).tolist()
    chosen = {}
    for split, share in (("test", test), ("val", validation)):
        if not share:
            continue
        wanted -= 1
        taken = [remaining.pop(0)]
        count = rows[taken[0]]
        if count > cap:
            raise ConfigError("data.cap", cap, f"is less than one block of {count} rows")
        while len(remaining) > wanted and count + rows[remaining[0]] <= min(cap, share * total):
            taken.append(remaining.pop(0))
            count += rows[taken[-1]]
        chosen[split] = tuple(sorted(taken))
    return chosen | {"train": tuple(sorted(remaining))}


def _checked(
    table: Table,
    block: int,
    first: int,
    *,
    features: Sequence[str],
    target: Sequence[str],
    classes: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a block's samples in float64 and its targets or labels, every value looked at."""
    if isinstance(table, tables.Npy):
        matrix = table.matrix(block)
        x = matrix[:, _span([int(name) for name in features])].astype(np.float64)
        y = matrix[:, [int(name) for name in target]]
        if np.isfinite(x).all() and np.isfinite(y).all():  # at once: much faster
            return x, cells.read_labels(y, name=target[0], first=first) if classes else y.astype(
                float
            )
    raw_columns = table.columns(block, features, key="data.features")
    columns = [
        cells.read_numbers(values, key="data.features", name=name, first=first)
        for name, values in zip(features, raw_columns, strict=True)
    ]
    x, raw_columns = np.stack(columns, axis=1), table.columns(block, target, key="data.target")
    if classes:
        return x, cells.read_labels(raw_columns[0], name=target[0], first=first)
    columns = [
        cells.read_numbers(values, key="data.target", name=name, first=first)
        for name, values in zip(target, raw_columns, strict=True)
    ]
    return x, np.stack(columns, axis=1)


def _digest(table: Table, *, chosen: dict[str, tuple[int, ...]], **made: Any) -> str:
    """SHA-256 over the file's bytes and over what decides which numbers come out of it."""
    about = json.dumps({"rows": table.blocks, "chosen": chosen, **made}, sort_keys=True)
    whole = hashlib.sha256(about.encode())
    whole.update(storage.file_digest(table.path).encode())
    return whole.hexdigest()
