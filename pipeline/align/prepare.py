"""What a pair that is not ours needs before a job: made once, in a process with both frameworks."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np

from pipeline import backends, data, identity, storage
from pipeline.config.schema import Config
from pipeline.config.types import ConfigError
from pipeline.data import Dataset
from pipeline.pairs.own.prepared import Draw, Prepared, Regroup, from_plain
from pipeline.pairs.own.source import brings, digest_code
from pipeline.pairs.pair import Layout, Place

FOLDER = Path("outputs/pairs")
_ROWS = 4  # of the samples that a map is proved with, where the data are not the pair's own


class PreparedJob(NamedTuple):
    """What a job of such a pair is made of beside its config.

    Attributes
    ----------
    prepared
        What both twins are given.
    first
        The first weights by neutral name, float64.
    dataset
        The samples.
    about
        What was seen of both models: the map and its proof, their structure and settings.
    folder
        Where all that is kept.
    """

    prepared: Prepared
    first: Mapping[str, np.ndarray]
    dataset: Dataset
    about: Mapping[str, Any]
    folder: Path


def prepare(settings: Config, dataset: Dataset | None) -> PreparedJob:
    """Return what a job of a pair that is not ours needs, from an earlier time where it is there.

    Parameters
    ----------
    settings
        The checked config.
    dataset
        The samples; None where they are the pair's own.

    Raises
    ------
    ConfigError
        If the pair's code raises or does not fit; it runs in a process of its own.
    """
    request = _describe(settings, dataset)
    key = identity.digest_texts({"request": json.dumps(request, sort_keys=True, default=str)})
    folder = FOLDER / key[:24]
    if not (folder / "about.json").is_file():
        lock = FOLDER / f".{key[:24]}.lock"
        FOLDER.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(lock):
                if not (folder / "about.json").is_file():
                    _make(folder, request, dataset)
        except ConfigError:  # nothing is left of a pair that is none
            lock.unlink(missing_ok=True)
            for empty in (FOLDER, FOLDER.parent):
                with contextlib.suppress(OSError):
                    empty.rmdir()
            raise
    model = settings.model.settings
    is_loss_own = brings(model, "loss", settings.loss.name)
    return _load(folder, dataset, is_loss_own=is_loss_own, run_dtype=settings.backend.dtype,
                 trains=model["train"])  # fmt: skip


def _describe(settings: Config, dataset: Dataset | None) -> dict[str, Any]:
    """Return everything that decides what is made, as JSON takes it."""
    model = settings.model.settings
    return {
        "model": dict(model),
        "init": settings.model.init,
        "map": None if model["map"] is None else Path(model["map"]).read_text(),
        "weights": None if model["weights"] is None else digest_weights(model["weights"]),
        "code": digest_code(model),
        "program": identity.code_digest(),
        "versions": {
            name: backends.environment(name, device="cpu") for name in ("tensorflow", "torch")
        },
        "seed": settings.seed,
        "threads": settings.backend.threads,
        "loss": settings.loss.name,
        "optimizer": settings.optimizer.name,
        "data": dict(settings.data.settings) if dataset is None else dataset.digest,
    }


def digest_weights(path: str) -> str:
    """Return the digest of a checkpoint."""
    try:
        return storage.file_digest(Path(path))
    except OSError as error:
        raise ConfigError("model.weights", path, f"cannot be read: {error.strerror}") from None


def _make(folder: Path, request: Mapping[str, Any], dataset: Dataset | None) -> None:
    """Let a process of its own make the folder."""
    room = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        (room / "request.json").write_text(json.dumps(request))
        if dataset is not None:
            rows = dataset.arrays.get("x_train", dataset.arrays["x_test"])[:_ROWS]
            np.save(room / "sample.npy", rows, allow_pickle=False)
        command = [sys.executable, "-m", "pipeline.align.worker", str(room)]
        ended = subprocess.run(command, capture_output=True, text=True, env=_environment())
        if (room / "error.json").is_file():
            raise ConfigError(*json.loads((room / "error.json").read_text()))
        if ended.returncode:
            lines = [line for line in ended.stderr.splitlines() if line.strip()]
            last = lines[-1] if lines else f"it ended with {ended.returncode}"
            raise ConfigError("model.name", "own", f"the pair could not be mapped: {last}")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(room, folder)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _environment() -> dict[str, str]:
    """Return the environment of the process, in which this package is found from anywhere."""
    places = [str(identity.PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places)),
            "CUDA_VISIBLE_DEVICES": "-1"}  # fmt: skip


def _load(
    folder: Path, dataset: Dataset | None, *, is_loss_own: bool, run_dtype: str, trains: bool
) -> PreparedJob:
    """Read what was made; a damaged folder is refused."""
    try:
        about = json.loads((folder / "about.json").read_text())
        with np.load(folder / "first.npz", allow_pickle=False) as file:
            first = {name: file[name] for name in about["order"]}
        sample = np.load(folder / "sample.npy", allow_pickle=False)
        if about["digest"] != storage.array_digest({**first, "sample": sample}):
            raise ValueError("its arrays are not those that were written")
        if dataset is None:
            dataset = data.load(folder / f"{about['data']}.npz")
    except (OSError, KeyError, ValueError) as error:
        problem = f"{folder} cannot be read ({error}); delete it to make it anew"
        raise ConfigError("model.name", "own", problem) from None
    places = {
        side: {name: _to_place(place) for name, place in each.items()}
        for side, each in about["places"].items()
    }
    prepared = Prepared(
        x=from_plain(about["x"]), y=None if about["y"] is None else from_plain(about["y"]),
        sample=sample, places=places, ignored=about["ignored"], brings_loss=is_loss_own,
        layers=about["layers"],
        draws=[
            Draw(tuple(shape), None if axes is None else tuple(axes))
            for shape, axes in about["draws"]
        ],
        regroups=[Regroup(tuple(paths), *rest) for paths, *rest in about["regroups"]],
        draw_order=about["draw_order"], run_dtype=run_dtype, trains=trains,
    )  # fmt: skip
    return PreparedJob(prepared, first, dataset, about, folder)


def _to_place(plain: Mapping[str, Any]) -> Place:
    """Return a place as `pipeline.align.worker` wrote it."""
    axes: Any = plain["axes"]
    if isinstance(axes, dict):
        axes = Layout(*(tuple(axes[name]) for name in Layout._fields))
    elif axes is not None:
        axes = tuple(axes)
    return Place(plain["path"], axes, plain["role"])
