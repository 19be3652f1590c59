"""Checkpoints: what an interrupted training needs to go on as if nothing had happened.

A folder with ``checkpoint.json``, one file with the state (parameters, optimizer slots, best
weights) and one file for each stretch of the record since the checkpoint before. Arrays are in
safetensors, so nothing is ever unpickled. ``checkpoint.json`` is written last and names the others
with their digests: a crash leaves the checkpoint before it whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import storage

FORMAT = 1
HOME = Path("outputs/checkpoints")
_FILE = "checkpoint.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A training after some whole epochs.

    Attributes
    ----------
    epoch
        How many epochs are done.
    about
        Plain values: who made it (``run``, ``config``, ``code``, ``data``), and what the training
        stage counts (validation curves, checksums, patience).
    state
        ``param/<name>``, ``slot/<slot>/<name>``, ``first/<name>`` and ``best/<name>``.
    rows
        What the record has so far, a row an update, and the fingerprints of the batches.
    """

    epoch: int
    about: Mapping[str, Any]
    state: Mapping[str, np.ndarray]
    rows: Mapping[str, np.ndarray]

    def named(self, kind: str) -> dict[str, np.ndarray]:
        """Return the arrays of one kind of the state by name."""
        start = f"{kind}/"
        return {k[len(start) :]: v for k, v in self.state.items() if k.startswith(start)}


def save(
    folder: Path,
    *,
    epoch: int,
    about: Mapping[str, Any],
    state: Mapping[str, np.ndarray],
    rows: Mapping[str, np.ndarray],
) -> None:
    """Write a checkpoint; `rows` are those since the one before in the same folder."""
    old = _index(folder) or {"rows": []}
    part = {"file": f"rows-{epoch:08d}.safetensors"}
    part["digest"] = _write(folder / part["file"], rows)
    now = {"file": f"state-{epoch:08d}.safetensors"}
    now["digest"] = _write(folder / now["file"], state)
    kept = [each for each in old["rows"] if each["file"] < part["file"]]
    index = {"format": FORMAT, "epoch": epoch, "about": dict(about), "state": now,
             "rows": [*kept, part]}  # fmt: skip
    text = json.dumps(index).encode()
    storage.write_atomic(folder / _FILE, lambda file: file.write(text))
    if "state" in old and old["state"]["file"] != now["file"]:
        (folder / old["state"]["file"]).unlink(missing_ok=True)


def load(folder: Path) -> Checkpoint | None:
    """Read a checkpoint; None where there is none.

    Raises
    ------
    ValueError
        If it is damaged or was written by a newer version.
    """
    index = _index(folder)
    if index is None:
        return None
    if index["format"] > FORMAT:
        raise ValueError(f"{folder} was written by a newer version (format {index['format']})")
    parts = [_read(folder / each["file"], each["digest"]) for each in index["rows"]]
    rows = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    state = _read(folder / index["state"]["file"], index["state"]["digest"])
    return Checkpoint(epoch=index["epoch"], about=index["about"], state=state, rows=rows)


def about(folder: Path) -> dict[str, Any] | None:
    """Return who made a checkpoint, without reading its arrays; None where there is none."""
    with contextlib.suppress(ValueError):
        index = _index(folder)
        return None if index is None else dict(index["about"])
    return None


def clear(folder: Path) -> None:
    """Remove a checkpoint, its index first."""
    (folder / _FILE).unlink(missing_ok=True)
    for path in folder.glob("*.safetensors"):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _index(folder: Path) -> dict[str, Any] | None:
    try:
        index: dict[str, Any] = json.loads((folder / _FILE).read_text())
        _ = index["format"], index["epoch"], index["about"], index["state"], index["rows"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} holds no readable checkpoint ({error})") from None
    return index


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Write arrays, and return the file's digest; extended precision goes as its bytes."""
    from safetensors.numpy import save as packed

    plain = {}
    for name, array in arrays.items():
        array = np.asarray(array)
        if array.dtype.itemsize > 8:
            flat = np.frombuffer(array.tobytes(), np.uint8)
            plain[f"longdouble {','.join(map(str, array.shape))} {name}"] = flat
        else:
            plain[name] = np.array(array, order="C")
    data = packed(plain)
    storage.write_atomic(path, lambda file: file.write(data))
    return storage.file_digest(path)


def _read(path: Path, digest: str) -> dict[str, np.ndarray]:
    from safetensors.numpy import load as unpacked

    if not path.is_file() or storage.file_digest(path) != digest:
        raise ValueError(f"{path} is missing or was altered")
    found = {}
    for name, array in unpacked(path.read_bytes()).items():
        if name.startswith("longdouble "):
            _, shape, name = name.split(" ", 2)
            sizes = [int(size) for size in shape.split(",") if size]
            array = np.frombuffer(array.tobytes(), np.longdouble).reshape(sizes)
        found[name] = array
    return found
