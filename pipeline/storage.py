"""Files that are whole or absent, and digests of what is in them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that a reader, a crash or a full disk never meets half of it.

    Parameters
    ----------
    path
        Where the file shall be; its folder is made.
    write
        Called with the open binary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with half.open("xb") as file:  # not `tempfile`, whose files are private whatever the umask
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def count_memory() -> int:
    """Return how many bytes of memory this machine has; what is in use counts too."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def is_full(error: BaseException) -> bool:
    """Whether an error, or the store behind it, says that a disk is full."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return True
    if isinstance(error, OSError) and re.search(r"\d+ requested and \d+ written", str(error)):
        return True  # NumPy's way to say it
    return any(words in str(error) for words in ("disk is full", "No space left on device"))


@contextlib.contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Say of a full disk what did not fit; the half of a record that did makes room again."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        if path.name == "record" and not (path / "record.json").exists():
            shutil.rmtree(path, ignore_errors=True)
        named = error.filename or path
        raise OSError(errno.ENOSPC, "the disk is full", str(named)) from None


def array_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of arrays, in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name}|{array.dtype.str}|{arrays[name].shape}|".encode())
        total.update(array.data if array.size else b"")
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(root: Path, pattern: str = "*.py") -> str:
    """SHA-256 over the relative names and bytes of all files below a folder that match."""
    total = hashlib.sha256()
    for path in sorted(root.rglob(pattern)):
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()
