"""The batches that a pair's file makes, as the samples of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.config.types import ConfigError
from pipeline.pairs.own.prepared import Field, describe_fields, pack

_EXACT = 2**24  # integers up to that are exact in float32, in which rows may travel


def take_batches(
    function: Callable[[np.random.Generator], Any], rng: np.random.Generator, *, count: int
) -> tuple[dict[str, np.ndarray], int, int]:
    """Return the arrays of some batches one below the other, and the rows of a batch.

    Parameters
    ----------
    function
        ``batches(rng)``: yields dictionaries of arrays with one row a sample.
    rng
        Handed to it.
    count
        How many batches are taken; it may end before.

    Returns
    -------
    arrays, rows, taken
        The arrays by name, how many rows each batch has, and how many batches there were.
    """
    batches: list[Mapping[str, np.ndarray]] = []
    for batch in _iterate(function, rng):
        checked = _check_batch(batch, before=batches[0] if batches else None)
        batches.append(checked)
        if len(batches) == count:
            break
    if not batches:
        raise ConfigError("data.name", "own", "batches(rng) yielded no batch")
    arrays = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    for name, array in arrays.items():
        if array.dtype.kind != "f" and np.abs(array.astype(np.float64)).max(initial=0) > _EXACT:
            problem = f"batches(rng): {name} has an integer beyond ±{_EXACT}"
            raise ConfigError("data.name", "own", problem)
    return arrays, len(next(iter(batches[0].values()))), len(batches)


_ROWS = 8  # of a batch that is drawn


def draw_inputs(
    rng: np.random.Generator, *, inputs: Mapping[str, Mapping[str, Any]]
) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches of random arrays as ``model.inputs`` describes them, as a pair's own would."""
    while True:
        batch = {}
        for name, each in inputs.items():
            shape, kind = (_ROWS, *each["shape"]), each.get("dtype", "float32")
            if kind == "bool":
                batch[name] = rng.integers(0, 2, shape).astype(bool)
            elif kind.startswith("int"):
                batch[name] = rng.integers(each["range"][0], each["range"][1], shape).astype(kind)
            elif each.get("range"):
                batch[name] = rng.uniform(each["range"][0], each["range"][1], shape)
            else:
                batch[name] = rng.standard_normal(shape)
        yield batch


def _iterate(function: Callable, rng: np.random.Generator) -> Iterator[Any]:
    """Yield what a pair's generator yields."""
    result = function(rng)
    if isinstance(result, Mapping) or not hasattr(result, "__iter__"):
        raise ConfigError("data.name", "own", "batches(rng) must yield dictionaries of arrays")
    yield from result


def _check_batch(batch: Any, *, before: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """Return a batch as arrays, or say what is wrong with it."""
    if not isinstance(batch, Mapping) or not batch:
        kind = type(batch).__name__
        raise ConfigError("data.name", "own", f"batches(rng) yielded a {kind}, no dictionary")
    arrays = {str(name): np.asarray(value) for name, value in batch.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub" or array.ndim == 0 or not len(array):
            problem = f"batches(rng): {name} is no array of numbers with a row for each sample"
            raise ConfigError("data.name", "own", problem)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ConfigError("data.name", "own", f"batches(rng): {name} is not finite")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ConfigError("data.name", "own", f"batches(rng): other numbers of rows: {lengths}")
    if before is not None:
        shapes = [
            {n: (a.shape, a.dtype.kind) for n, a in each.items()} for each in (before, arrays)
        ]
        if shapes[0] != shapes[1]:
            problem = "batches(rng): every batch must have the names, shapes and types of the first"
            raise ConfigError("data.name", "own", problem)
    return arrays


def split_fields(arrays: Mapping[str, np.ndarray]) -> tuple[list[Field], list[Field] | None]:
    """Return how rows of samples and of targets hold arrays.

    Empty where a row is the array itself: ``x`` alone, or ``y``, of floats with an axis beside the
    samples. None where there is no target.
    """
    x = {name: array for name, array in arrays.items() if name != "y"}
    if not x:
        raise ConfigError("data.name", "own", "batches(rng) has no array but y")
    y = {"y": arrays["y"]} if "y" in arrays else None
    fields = [] if [*x] == ["x"] and _is_plain(x["x"]) else describe_fields(x)
    if y is None:
        return fields, None
    return fields, [] if _is_plain(y["y"]) else describe_fields(y)


def _is_plain(array: np.ndarray) -> bool:
    """Whether an array is its own row: of floats, with an axis beside the samples."""
    return array.dtype.kind == "f" and array.ndim > 1


def to_rows(arrays: Mapping[str, np.ndarray], fields: list[Field], *, name: str) -> np.ndarray:
    """Return the samples or targets of some batches as rows, in float64."""
    return pack(arrays, fields) if fields else np.asarray(arrays[name], np.float64)
