"""What is made once of a pair that is not ours: how its batches are read, and its map."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.pairs.pair import Place


class Field(NamedTuple):
    """One array of a batch, as the columns of a matrix hold it.

    Attributes
    ----------
    name
        Its key in the batch.
    shape
        Of one sample.
    kind
        ``float`` has the precision of the run; ``int32``, ``int64`` and ``bool`` stay that.
    """

    name: str
    shape: tuple[int, ...]
    kind: str

    @property
    def width(self) -> int:
        """Columns that it takes."""
        return int(np.prod(self.shape, dtype=int))


class Draw(NamedTuple):
    """The random numbers that one dropout draws.

    Attributes
    ----------
    shape
        Of one sample, as TensorFlow draws them.
    axes
        The order in which those axes, behind the samples', stand in PyTorch; None for the same.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...] | None


class Regroup(NamedTuple):
    """Parameters of the PyTorch model that are held in parts here, or together.

    Attributes
    ----------
    paths
        Of one parameter that is held in parts, or of several that are held together.
    parts
        Equal parts along axis 0 of the one; 1 of several.
    stacked
        Whether several stand side by side along a new last axis, and not in a row along axis 0.
    """

    paths: tuple[str, ...]
    parts: int = 1
    stacked: bool = False

    @property
    def labels(self) -> list[str]:
        """What the parameters are called beside the first one, without dots."""
        parent = self.paths[0].rpartition(".")[0].rpartition(".")[0]
        first = self.paths[0].rpartition(".")[2]
        own = self.paths[0].rpartition(".")[0]
        others = [
            path.removeprefix(f"{own}.").removeprefix(f"{parent}.").replace(".", "/")
            for path in self.paths[1:]
        ]
        return [first, *others]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """What both sides of such a pair know beside their settings.

    Attributes
    ----------
    x, y
        The arrays that one row of samples and of targets holds; empty where a row is the array
        ``x`` or ``y`` itself. Without a target `y` is None.
    sample
        Some rows of samples, for models that make their variables when they are first called.
    places
        By side and neutral name, where each parameter lives.
    ignored
        By side, the paths of floating tensors that have no partner and are left as they are.
    brings_loss
        Whether the pair's own loss is the one that is trained with.
    layers
        By side and neutral name, the layers whose results are compared: a module's path in PyTorch,
        and in TensorFlow which of all layers it is.
    draws
        The random numbers that a training pass of one batch draws for dropout, in PyTorch's order.
    draw_order
        For each of TensorFlow's the number of PyTorch's that it takes.
    regroups
        Parameters of the PyTorch model that are held in parts, or together.
    trains
        Whether training is judged; without it both models stay in evaluation mode.
    run_dtype
        The precision of the run; the ladder makes copies of its models in others.
    """

    x: Sequence[Field] = ()
    y: Sequence[Field] | None = ()
    sample: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((1, 1)))
    places: Mapping[str, Mapping[str, Place]] = dataclasses.field(default_factory=dict)
    ignored: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    brings_loss: bool = False
    layers: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    draws: Sequence[Draw] = ()
    draw_order: Sequence[int] = ()
    regroups: Sequence[Regroup] = ()
    trains: bool = True
    run_dtype: str = "float32"


def pack(batch: Mapping[str, np.ndarray], fields: Sequence[Field]) -> np.ndarray:
    """Return the arrays of a batch side by side, as a matrix of shape ``(n, columns)``, float64."""
    rows = len(next(iter(batch.values())))
    parts = [np.asarray(batch[f.name], np.float64).reshape(rows, f.width) for f in fields]
    return np.concatenate(parts, axis=1)


def unpack(rows: np.ndarray, fields: Sequence[Field], *, name: str) -> dict[str, np.ndarray]:
    """Return the arrays that rows hold, floats in their precision; the inverse of `pack`."""
    if not fields:
        return {name: rows}
    arrays, start = {}, 0
    for field in fields:
        part = rows[:, start : start + field.width].reshape(len(rows), *field.shape)
        arrays[field.name] = part if field.kind == "float" else part.astype(field.kind)
        start += field.width
    return arrays


def describe_fields(batch: Mapping[str, np.ndarray]) -> list[Field]:
    """Return the fields of a batch's arrays, in their order."""
    kinds = {"f": "float", "b": "bool"}
    return [
        Field(name, tuple(array.shape[1:]), kinds.get(array.dtype.kind, integer_kind(array)))
        for name, array in batch.items()
    ]


def integer_kind(array: np.ndarray) -> str:
    """Return the type of an integer array in both frameworks."""
    return "int32" if array.dtype.itemsize <= 4 else "int64"


def to_plain(fields: Sequence[Field]) -> list[Any]:
    """Return fields as JSON takes them."""
    return [[field.name, list(field.shape), field.kind] for field in fields]


def from_plain(plain: Sequence[Any]) -> list[Field]:
    """Return the fields that `to_plain` wrote."""
    return [Field(name, tuple(shape), kind) for name, shape, kind in plain]
