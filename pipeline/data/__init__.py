"""Data sets as NumPy arrays, split for training and scoring; no tensors and no framework."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.config.signatures import choose_option, list_functions
from pipeline.config.types import ConfigError
from pipeline.data import files, images, own, real, synthetic
from pipeline.data.streams import Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """The samples of one run, in float64; a backend casts them to its own precision.

    Attributes
    ----------
    name
        The option of the group ``data``.
    arrays
        ``x_train`` and ``x_test`` of shape ``(n, *features)``, ``y_train`` and ``y_test`` of shape
        ``(n, outputs)``, float64; of classes, numbers 0..K−1 of shape ``(n, 1)``, int64. ``x_val``
        and ``y_val`` where there is a validation set. The others are never trained on.
    facts
        What is known about the samples, where something is: ``truth`` (parameter name to true
        value), ``noise`` (standard deviation of the targets' noise), ``classes`` (how many) and
        ``labels``, ``standardised`` (``mean`` and ``scale`` of the training samples), ``features``
        and ``targets`` (what the columns of a file are called), ``categories`` (by column) and
        ``missing`` (how many rows were ``dropped``, how many values ``filled`` and by which
        ``values``).
    source
        The training samples where they stay in a file; then `arrays` has no ``x_train``.
    """

    name: str
    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
    source: Source | None = None

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the arrays' content; where they lie and how they are packed does not count.

        Taken once: the arrays of a data set are not written to.
        """
        if self.source is not None:
            return self.source.digest
        return storage.array_digest(self.arrays)

    @property
    def classes(self) -> int | None:
        """Number of classes, or None where the targets are values."""
        return self.facts.get("classes")

    @property
    def rows(self) -> int:
        """Number of training samples."""
        return len(self.arrays["x_train"]) if self.source is None else self.source.rows

    @property
    def inputs(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.arrays["x_train"].shape[1:] if self.source is None else self.source.inputs

    @property
    def outputs(self) -> int:
        """Number of target columns."""
        return int(self.arrays["y_test"].shape[1])


def maker(name: str) -> Callable[..., Any]:
    """Return the function that makes the data set of that name.

    It returns arrays and facts; one that may leave its samples in a file also returns the source.
    """
    choices: dict[str, Callable[..., Any]] = {}
    for module in (synthetic, real, files, images, own):
        choices |= list_functions(module)
    function: Callable[..., Any] = choose_option("data.name", name, choices)
    return function


def make(name: str, *, settings: Mapping[str, Any], stream: Callable) -> Dataset:
    """Make a data set: in memory, but for the training samples of a streamed file.

    Parameters
    ----------
    name
        An option of the group ``data``.
    settings
        What its function takes.
    stream
        Maps the name of a random stream to its generator.
    """
    check_memory(settings)
    with np.errstate(over="ignore", invalid="ignore"):  # numbers too large are refused in one line
        arrays, facts, *source = maker(name)(stream, **settings)
    return Dataset(name=name, arrays=arrays, facts=facts, source=source[0] if source else None)


def check_memory(settings: Mapping[str, Any]) -> None:
    """Refuse samples by the numbers asked for that this machine's memory cannot hold.

    ``rows · (features + 1) · 8`` bytes at least, and so much again for the noise.
    """
    numbers = {key: settings[key] for key in ("n", "n_val", "n_test") if key in settings}
    rows = sum(number for number in numbers.values() if isinstance(number, int))
    needed = 2 * rows * (int(settings.get("d", 1)) + 1) * 8
    if needed > storage.count_memory():
        key = max(numbers, key=numbers.__getitem__)
        raise ConfigError(
            f"data.{key}", numbers[key], f"samples of {needed:.3g} bytes do not fit into memory"
        )


def save(dataset: Dataset, folder: Path) -> Path:
    """Write a data set once, as ``<digest>.npz``; an intact file that is there is left alone.

    A streamed set is not written: its own file is what is returned.
    """
    if dataset.source is not None:
        return dataset.source.path
    path = folder / f"{dataset.digest}.npz"
    if path.exists():
        load(path)
        return path
    buffer = io.BytesIO()
    about = np.frombuffer(json.dumps(dict(dataset.facts), sort_keys=True).encode(), dtype=np.uint8)
    np.savez(buffer, **dataset.arrays, name=np.array(dataset.name), facts=about)  # type: ignore[arg-type]
    storage.write_atomic(path, lambda file: file.write(buffer.getbuffer()))
    return path


def load(path: Path) -> Dataset:
    """Read a data set and check its content against the digest in its name; never unpickles.

    Raises
    ------
    ValueError
        If the file is damaged or is not what its name says.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        name = str(arrays.pop("name"))
        facts = json.loads(arrays.pop("facts").tobytes())
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it to remake it") from None
    dataset = Dataset(name=name, arrays=arrays, facts=facts)
    if dataset.digest != path.stem:
        raise ValueError(f"{path} holds other data than its name says; delete it to remake it")
    return dataset
