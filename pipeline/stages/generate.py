"""The stage ``generate``: the data set, written once under its content digest."""

from __future__ import annotations

from pathlib import Path

from pipeline import data
from pipeline.config.types import ConfigError


def generate(dataset: data.Dataset, *, folder: Path) -> Path:
    """Write the data set unless it is there already, and return its file; a streamed one has it."""
    try:
        return data.save(dataset, folder)
    except ValueError as error:
        raise ConfigError("data.name", dataset.name, str(error)) from None


def stored(dataset: data.Dataset, *, folder: Path) -> data.Dataset:
    """Read back what `generate` wrote for this configuration, checked against its digest.

    A streamed set stays as it is: making it has read its file whole.
    """
    if dataset.source is not None:
        return dataset
    path = folder / f"{dataset.digest}.npz"
    if not path.is_file():
        raise ConfigError("stages", "train", "its data is not there; add generate to the stages")
    try:
        return data.load(path)
    except ValueError as error:
        raise ConfigError("data.name", dataset.name, str(error)) from None
