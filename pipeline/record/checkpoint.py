"""Checkpoints: what an interrupted training needs to go on as if nothing had happened.

A folder with ``checkpoint.json``, one file with the state (parameters, optimizer slots, best
weights) and one file for each stretch of the record since the checkpoint before. Arrays are in
safetensors, so nothing is ever unpickled. ``checkpoint.json`` is written last, names the others
with their digests and carries a digest of itself: a crash leaves the checkpoint before it whole,
and whatever was altered is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import storage

FORMAT = 2  # format 1 had no digest of its index
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
    """Write a checkpoint; `rows` are those since the one before in the same folder.

    Raises
    ------
    ValueError
        If the checkpoint before is damaged, so that these rows continue nothing.
    """
    before = _read_index(folder)
    rows_name, state_name = _rows_name(epoch), _state_name(epoch)
    new_rows = {"file": rows_name, "digest": _write(folder / rows_name, rows)}
    new_state = {"file": state_name, "digest": _write(folder / state_name, state)}
    earlier = [] if before is None else before["rows"]
    index: dict[str, Any] = {
        "format": FORMAT,
        "epoch": epoch,
        "about": dict(about),
        "state": new_state,
        "rows": [*(part for part in earlier if part["file"] < rows_name), new_rows],
    }
    text = json.dumps(index | {"digest": digest_index(index)}).encode()
    storage.write_atomic(folder / _FILE, lambda file: file.write(text))
    if before is not None and before["state"]["file"] != state_name:
        (folder / before["state"]["file"]).unlink(missing_ok=True)


def load(folder: Path) -> Checkpoint | None:
    """Read a checkpoint; None where there is none.

    Raises
    ------
    ValueError
        If anything in it is damaged, or it was written by an older or a newer version; one line.
    """
    index = _read_index(folder)
    if index is None:
        return None
    try:
        parts = [_read(folder / part["file"], part["digest"]) for part in index["rows"]]
        if any(part.keys() != parts[0].keys() for part in parts):
            raise ValueError("its rows do not fit together")
        rows = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        state = _read(folder / index["state"]["file"], index["state"]["digest"])
    except Exception as error:  # safetensors has errors of its own
        raise _unreadable(folder, error) from None
    return Checkpoint(epoch=index["epoch"], about=index["about"], state=state, rows=rows)


def about(folder: Path) -> dict[str, Any] | None:
    """Return who made a checkpoint, without reading its arrays; None where there is none.

    Of one in an older format only ``run`` and ``folder``: it was made by other code.
    """
    with contextlib.suppress(ValueError):
        index = _parse_index(folder)
        if index is None:
            return None
        facts = dict(index["about"])
        if index["format"] < FORMAT:
            return {key: facts[key] for key in ("run", "folder") if key in facts}
        _check_index(folder, index)
        return facts | {"epoch": index["epoch"]}
    return None


def clear(folder: Path) -> None:
    """Remove a checkpoint, its index first."""
    with contextlib.suppress(OSError):
        (folder / _FILE).unlink()
    if folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.unlink(missing_ok=True)


def digest_index(index: Mapping[str, Any]) -> str:
    """SHA-256 of an index, but for the digest in it."""
    facts = {key: value for key, value in index.items() if key != "digest"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _rows_name(epoch: int) -> str:
    """Return the name of the file with the rows of a record that were written after an epoch."""
    return f"rows-{epoch:08d}.safetensors"


def _state_name(epoch: int) -> str:
    """Return the name of the file with the state after an epoch."""
    return f"state-{epoch:08d}.safetensors"


def _unreadable(folder: Path, error: object) -> ValueError:
    """Return the error that says why a folder holds no readable checkpoint, in one line."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ValueError(f"{folder} holds no readable checkpoint ({reason})")


def _read_index(folder: Path) -> dict[str, Any] | None:
    """Return the index, whole and of this format; None where there is none."""
    index = _parse_index(folder)
    if index is not None:
        _check_index(folder, index)
    return index


def _parse_index(folder: Path) -> dict[str, Any] | None:
    """Return an index of any format as it lies there; None where there is none."""
    try:
        index: dict[str, Any] = json.loads((folder / _FILE).read_text())
        _ = dict(index["about"]), index["format"] + 0
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unreadable(folder, error) from None
    return index


def _check_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Refuse an index of another format, an altered one, and files that do not follow in order.

    Names come from epochs, so no file lies outside the folder and no rows are there twice.
    """
    if index["format"] > FORMAT:
        raise ValueError(f"{folder} was written by a newer version (format {index['format']})")
    if index["format"] < FORMAT:
        raise ValueError(f"{folder} was made by other code")
    if index.get("digest") != digest_index(index):
        raise _unreadable(folder, f"{_FILE} was altered")
    try:
        epoch, names = index["epoch"], [part["file"] for part in index["rows"]]
        epochs = [int(name.removeprefix("rows-").removesuffix(".safetensors")) for name in names]
        in_order = epochs == sorted(set(epochs)) and epochs[0] > 0 and epochs[-1] == epoch
        named = names == [_rows_name(each) for each in epochs]
        fits = in_order and named and index["state"]["file"] == _state_name(epoch)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise _unreadable(folder, error) from None
    if not fits:
        raise _unreadable(folder, "its files do not follow each other")


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
    """Return the arrays of a file, extended precision included.

    Raises
    ------
    ValueError
        If the file is missing, or its SHA-256 is not `digest`.
    """
    from safetensors.numpy import load as unpacked

    if not path.is_file() or storage.file_digest(path) != digest:
        raise ValueError(f"{path} is missing or was altered")
    arrays = {}
    for name, array in unpacked(path.read_bytes()).items():
        if name.startswith("longdouble "):
            _, shape, name = name.split(" ", 2)
            sizes = [int(size) for size in shape.split(",") if size]
            array = np.frombuffer(array.tobytes(), np.longdouble).reshape(sizes)
        arrays[name] = array
    return arrays
