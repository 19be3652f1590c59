"""Data sets as NumPy arrays, split for training and scoring; no tensors and no framework."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import config, storage
from pipeline.data import synthetic


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """The samples of one run, in float64; a backend casts them to its own precision.

    Attributes
    ----------
    name
        The option of the group ``data``.
    arrays
        ``x_train`` and ``x_test`` of shape ``(n, *features)``, ``y_train`` and ``y_test`` of shape
        ``(n, outputs)``. The test samples are never trained on.
    facts
        What is known about the process, where something is: ``truth`` (parameter name to true
        value) and ``noise`` (standard deviation of the targets' noise).
    """

    name: str
    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the arrays' content; where they lie and how they are packed does not count."""
        return storage.array_digest(self.arrays)

    @property
    def inputs(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.arrays["x_train"].shape[1:]

    @property
    def outputs(self) -> int:
        """Number of target columns."""
        return int(self.arrays["y_train"].shape[1])


def maker(name: str) -> Callable[..., tuple[dict[str, np.ndarray], dict[str, Any]]]:
    """Return the function that makes the data set of that name."""
    found: Callable[..., Any] = config.choose("data.name", name, config.functions(synthetic))
    return found


def make(name: str, *, settings: Mapping[str, Any], stream: Callable) -> Dataset:
    """Make a data set in memory.

    Parameters
    ----------
    name
        An option of the group ``data``.
    settings
        What its function takes.
    stream
        Maps the name of a random stream to its generator.
    """
    arrays, facts = maker(name)(stream, **settings)
    return Dataset(name=name, arrays=arrays, facts=facts)


def save(dataset: Dataset, folder: Path) -> Path:
    """Write a data set once, as ``<digest>.npz``; an intact file that is there is left alone."""
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
