"""RunRecord: what a run was and did, as numbers and arrays, and its own files.

A record is a folder with ``record.json`` and one ``.npy`` file an array. ``record.json`` is written
last and holds the digest of every other file, so a record that is cut short or altered says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline import storage

FORMAT = 2  # of format 1, the digest does not cover the list of arrays, and may be missing
_MAPPED = 1 << 20  # arrays of more bytes stay in their file until they are looked at


@dataclasses.dataclass(kw_only=True)
class RunRecord:
    """One run: facts in `about`, arrays in `arrays`.

    Attributes
    ----------
    about
        ``config`` (nested values), ``backend``, ``data`` (digest, name, facts), ``versions``,
        ``time`` (seconds and microseconds), ``scores``, ``status``, ``message``, ``least_squares``.
    arrays
        ``loss``, ``lr`` and ``grad_norm`` of shape ``(steps,)``: entry ``k − 1`` belongs to update
        ``k``, and the loss is the one before it. ``param/<name>`` of shape ``(steps + 1, ...)``,
        row 0 is the start. ``grad/<name>`` of shape ``(steps, ...)``, before clipping and decay.
        ``slot/<slot>/<name>`` of the same shape, what the optimizer keeps, after each update.
        ``layer/<name>``, what the model showed of the first batch before update 1, and its
        ``output``. ``scalar/<name>``, what the update was given besides its arrays, such as the
        rate that it used. ``order/<name>``, fingerprints of each batch as the loop cut it, see
        `pipeline.data.batches.fingerprints`, with its ``step`` and ``epoch``. ``check/<name>``,
        CRC-32 of the parameters at the updates ``check/step``, where the parameters themselves are
        not kept.
        ``first/<name>`` and ``last/<name>``, the parameters at both ends, and ``best/<name>`` where
        a validation set was scored. ``val/<score>`` at the updates ``val/step``. ``seconds`` of
        each step. ``prediction``, on the test samples. All in the run's own precision but ``lr``,
        ``grad_norm``, ``val/...``, ``scalar/...`` and ``seconds``, which are float64.
    digests
        Of a record that was read, the SHA-256 of each array's file.
    """

    about: dict[str, Any]
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    digests: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def steps(self) -> int:
        """Number of updates that were made and kept."""
        return len(self.arrays.get("loss", ()))

    @property
    def backend(self) -> str:
        """The backend's name."""
        return str(self.about["config"]["backend"]["name"])

    @property
    def config(self) -> dict[str, Any]:
        """The composed config, as nested plain values."""
        return dict(self.about["config"])

    def named(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the arrays of one kind (``param``, ``grad``, ``first``, ``last``) by name."""
        start = f"{prefix}/"
        return {k[len(start) :]: v for k, v in self.arrays.items() if k.startswith(start)}

    def label(self) -> str:
        """Return a short name that tells this run from its neighbours in a picture."""
        loop = self.config["train"]["loop"]
        return self.backend if loop == "manual" else f"{self.backend} ({loop})"

    def save(self, folder: Path) -> None:
        """Write the record; a reader sees the old one or the new one, never a mixture.

        Arrays that replace others wait beside them as ``.npy.new`` until ``record.json``, which
        decides, is written: `load` takes the file that has the digest.

        Raises
        ------
        ValueError
            If the name of an array leads out of the folder.
        """
        replaces = (folder / "record.json").exists()
        digests, waiting = {}, []
        for name, array in self.arrays.items():
            path = _path_of(folder, name)
            if not _lies_in(array, path):
                goal = _waiting(path) if replaces else path
                storage.write_atomic(goal, partial(_write, array=array))
                waiting += [path] if replaces else []
                digests[name] = storage.file_digest(goal)
            else:
                digests[name] = storage.file_digest(path)
        facts = {"format": FORMAT, "arrays": digests, **self.about}
        text = json.dumps({"digest": _digest(facts), **facts}, indent=1)
        storage.write_atomic(folder / "record.json", lambda file: file.write(text.encode()))
        for path in waiting:
            _waiting(path).replace(path)

    @classmethod
    def load(cls, folder: Path) -> RunRecord:
        """Read a record; nothing is unpickled.

        Raises
        ------
        ValueError
            If the folder holds no record, one of a newer format, one whose files were altered, or
            one that names a file outside its folder.
        """
        path = folder / "record.json"
        try:
            about = json.loads(path.read_text())
            version, facts = int(about["format"]), about.pop("digest", None)
            digested = dict(about)
            digests = dict(about.pop("arrays"))
            del about["format"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder} holds no readable record ({error})") from None
        if version > FORMAT:
            raise ValueError(f"{folder} was written by a newer version (format {version})")
        unsigned = version == 1 and facts is None
        if not unsigned and facts != _digest(about if version == 1 else digested):
            raise ValueError(f"{path} was altered after the run wrote it")
        arrays = {}
        for name, digest in digests.items():
            file = _find_file(_path_of(folder, name), digest)
            large = file.stat().st_size > _MAPPED
            arrays[name] = np.load(file, mmap_mode="r" if large else None, allow_pickle=False)
        return cls(about=about, arrays=arrays, digests=digests)


def found_in(place: Path) -> Path | None:
    """Return the folder of a record, whole or cut short, that a path leads to; None if to none."""
    folders = (place, place / "record")
    whole = (folder for folder in folders if (folder / "record.json").is_file())
    begun = (folder for folder in folders if any(folder.glob("**/*.npy")))
    return next(whole, None) or next(begun, None)


def _path_of(folder: Path, name: str) -> Path:
    """Return the file of an array, which must lie in the record's folder, links followed."""
    path = folder / f"{name}.npy"
    if "\0" in name or not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{folder} names an array outside of it, {name!r}")
    return path


def _waiting(path: Path) -> Path:
    """Return where an array waits to replace another until ``record.json`` is written."""
    return path.with_name(f"{path.name}.new")


def _find_file(path: Path, digest: str) -> Path:
    """Return the file with the digest: an array's own, or the one that a crash left beside it.

    Its own is looked at twice, since a writer may put the other into its place meanwhile.
    """
    for file in (path, _waiting(path), path):
        with contextlib.suppress(OSError):
            if storage.file_digest(file) == digest:
                return file
    raise ValueError(f"{path} is missing or was altered after the run wrote it")


def _digest(about: Mapping[str, Any]) -> str:
    """SHA-256 of what a record says of itself, but for the run's id, which may come later."""
    facts = json.loads(json.dumps({key: about[key] for key in about if key != "run"}))
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _lies_in(array: np.ndarray, path: Path) -> bool:
    """Whether an array is what a file holds, whole."""
    if not isinstance(array, np.memmap) or Path(array.filename or "").resolve() != path.resolve():
        return False
    there = np.load(path, mmap_mode="r", allow_pickle=False)
    return (there.shape, there.dtype) == (array.shape, array.dtype)


def _write(file: BinaryIO, *, array: np.ndarray) -> None:
    """Write an array as .npy; one of Python objects is refused with a ValueError."""
    np.save(file, array, allow_pickle=False)
