"""Files of named columns, read block by block: CSV, Parquet, .npz and .npy; nothing is unpickled.

Rows are counted from 1 in every message, and a header is not a row.
"""

from __future__ import annotations

import contextlib
import functools
import math
import mmap
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from pipeline.config.types import ConfigError
from pipeline.data.arrow import Csv, Parquet
from pipeline.data.cells import unreadable
from pipeline.data.memory import check_room

KINDS = (".csv", ".csv.gz", ".npy", ".npz", ".parquet")
PLAIN = (".csv", ".csv.gz")
STREAMED = (".npy", ".parquet")
_LARGE = 1 << 21  # bytes of a large page


class Table(Protocol):
    """A file of columns.

    Attributes
    ----------
    path
        The file.
    names
        What its columns are called.
    blocks
        Rows of each block; a block is what is read at once. Known after `load`.
    """

    path: Path
    names: list[str]
    blocks: list[int]

    def load(self, names: Sequence[str]) -> None:
        """Make ready all columns that will be asked for; they are there, each once."""

    def columns(
        self, block: int, names: Sequence[str], *, key: str, gaps: bool = False
    ) -> list[np.ndarray]:
        """Return columns of a block as they are: numbers of any kind, or text.

        A name may stand for several columns where the file says so: then shape ``(n, k)``. `key`
        is the setting that asks for them, for messages. With `gaps` a missing value is NaN or the
        empty text, where it could be refused.
        """


def opened(path: str, *, block: int, separator: str, decimal: str) -> Table:
    """Open a file by the end of its name; its columns are known, but not loaded.

    Raises
    ------
    ConfigError
        If it is not there, cannot be read, is of no known kind or has no columns.
    """
    try:
        where = Path(path).expanduser()
    except RuntimeError:
        raise ConfigError("data.path", path, "there is no such user's home folder") from None
    kind = _kind_of(where)
    if kind not in KINDS:
        raise ConfigError(
            "data.path", path, f"unknown kind of file; must end in {', '.join(KINDS)}"
        )
    _check_marks(where, separator=separator, decimal=decimal)
    if not os.path.isfile(where):  # of a name that is too long, too, it says no
        raise ConfigError("data.path", path, "there is no such file")
    with _reading(where):
        if kind in PLAIN:
            return Csv(where, packed=kind == ".csv.gz", separator=separator, decimal=decimal)
        if kind == ".parquet":
            return Parquet(where)
        return Npz(where) if kind == ".npz" else Npy(where, block=block)


def load(table: Table, names: Sequence[str]) -> None:
    """Make ready the columns that will be asked for, or say why they cannot be read."""
    with _reading(table.path):
        table.load(names)
    if not sum(table.blocks):
        raise ConfigError("data.path", table.path, "has no rows")


def _check_marks(path: Path, *, separator: str, decimal: str) -> None:
    """Refuse marks that are one, or that are given for a file that has none."""
    if _kind_of(path) in PLAIN:
        if separator == decimal:
            raise ConfigError("data.decimal", decimal, "is data.separator as well")
        return
    for key, value, usual in (("separator", separator, ","), ("decimal", decimal, ".")):
        if value != usual:
            raise ConfigError(f"data.{key}", value, f"is of CSV files, not of {path.name}")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say in one line what is wrong with a file; every reader has errors of its own."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise unreadable(path, error) from None


def _kind_of(path: Path) -> str:
    """Return the end of a file's name that says its kind, in small letters."""
    return ".csv.gz" if path.name.lower().endswith(".csv.gz") else path.suffix.lower()


class Npy:
    """A two-dimensional array on disk, its columns named "0", "1", …; a memory map.

    The pages of a map count as the process's own memory until they are dropped, so those of a block
    are dropped when the next is asked for.
    """

    def __init__(self, path: Path, *, block: int) -> None:
        """Read the header; `block` is the number of rows of a block.

        Raises
        ------
        ConfigError
            If the array is not one of numbers with two axes, stored row by row, or is cut off.
        """
        try:
            with path.open("rb") as file:
                shape, fortran, self.dtype = _header(file)
                self.start = file.tell()
        except ValueError as error:
            raise ConfigError("data.path", path, f"cannot be read: {error}") from None
        if self.dtype.hasobject:
            raise ConfigError("data.path", path, "holds Python objects (pickle); they are not read")
        if len(shape) != 2 or not shape[1]:
            raise ConfigError("data.path", path, f"has shape {shape}; must be rows × columns")
        if self.dtype.kind not in "biuf":
            raise ConfigError("data.path", path, f"holds {self.dtype}; must be numbers")
        if fortran and shape[1] > 1:
            raise ConfigError(
                "data.path", path, "lies column by column; save it with numpy.ascontiguousarray"
            )
        self.path, (rows, self.width) = path, shape
        need = self.start + rows * self.width * self.dtype.itemsize
        if path.stat().st_size < need:
            raise ConfigError("data.path", path, f"is cut off: it should have {need} bytes")
        self.names = [str(i) for i in range(self.width)]
        self.size = block
        self._used = (0, 1)  # bytes
        self.blocks = [min(block, rows - start) for start in range(0, rows, block)]

    def load(self, names: Sequence[str]) -> None:
        """Do nothing: rows are read from the file when they are asked for."""

    def pieces(self, block: int, step: int) -> Iterator[np.ndarray]:
        """Yield all columns of a block, `step` rows at a time, to be copied from and let go."""
        rows = self.matrix(block)
        for start in range(0, len(rows), step):
            yield rows[start : start + step]

    def matrix(self, block: int) -> np.ndarray:
        """Return all columns of a block: the pages of the file, not a copy."""
        start = self.start + block * self.size * self.width * self.dtype.itemsize
        count = self.blocks[block] * self.width
        end = start + count * self.dtype.itemsize
        if os.stat(self.path).st_size < end:  # touching a page that is gone would end the process
            raise OSError(f"{self.path} became shorter while it was read")
        self._drop()
        self._used = start, end
        values = np.frombuffer(self._pages, self.dtype, count, start)
        return values.reshape(-1, self.width)

    @functools.cached_property
    def _pages(self) -> mmap.mmap:
        """The memory map of the whole file, made when it is first asked for."""
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _drop(self) -> None:
        """Let go of the block used last; arrays of it stay valid, and are read again if need be.

        And of what the system mapped around it: up to a large page on either side.
        """
        if hasattr(mmap, "MADV_DONTNEED"):
            start, end = max(0, self._used[0] - _LARGE), self._used[1] + _LARGE
            start -= start % mmap.PAGESIZE
            length = min(end, len(self._pages)) - start
            self._pages.madvise(mmap.MADV_DONTNEED, start, length)

    def columns(
        self, block: int, names: Sequence[str], *, key: str, gaps: bool = False
    ) -> list[np.ndarray]:
        """Return columns of a block."""
        rows = self.matrix(block)
        return [rows[:, int(name)].copy() for name in names]


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read shape, order and dtype of an .npy file, and stop where its numbers begin."""
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"version {version} of the format")
    return read[version](file)


class Npz:
    """Arrays by name, each of one column ``(n,)`` or of several ``(n, k)``; one block."""

    def __init__(self, path: Path) -> None:
        """List the arrays of an archive; raises ValueError if the file is none."""
        self.path = path
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no .npz archive")
        with np.load(path, allow_pickle=False) as file:
            self.names = list(file.files)

    def load(self, names: Sequence[str]) -> None:
        """Read the arrays of these names, and no other.

        Raises
        ------
        ConfigError
            If an array cannot be used, or two have different numbers of rows.
        """
        self._check_sizes(names)
        with np.load(self.path, allow_pickle=False) as file:
            self._found = {name: self._read(file, name) for name in names}
        lengths = {name: len(values) for name, values in self._found.items()}
        for name, length in lengths.items():
            if length != next(iter(lengths.values())):
                first = next(iter(lengths))
                raise ConfigError(
                    "data.path",
                    self.path,
                    f"array {name} has {length} rows, {first} has {lengths[first]}",
                )
        self.blocks = [next(iter(lengths.values()), 1)]

    def _check_sizes(self, names: Sequence[str]) -> None:
        """Refuse arrays that are cut off or too large, by their headers, before any is read.

        In memory they are at least float64.
        """
        total = 0
        with zipfile.ZipFile(self.path) as archive:
            there = {member.filename: member for member in archive.infolist()}
            for name in names:
                member = there.get(f"{name}.npy")
                if member is None:
                    continue
                with archive.open(member) as file:
                    shape, _, dtype = _header(file)
                    start = file.tell()
                count = math.prod(shape)
                need = start + count * dtype.itemsize
                if member.file_size < need and not dtype.hasobject:
                    problem = f"array {name} is cut off: it should have {need} bytes"
                    raise ConfigError("data.path", self.path, problem)
                total += count * max(dtype.itemsize, 8)
        streamed = "a .npy or .parquet file can be streamed (data.source=mmap)"
        check_room(total, key="data.path", value=self.path, instead=streamed)

    def _read(self, file: Any, name: str) -> np.ndarray:
        """Return an array of the archive, bytes as text; raise `ConfigError` if it is unusable."""
        try:
            values: np.ndarray = file[name]
        except ValueError as error:
            if "allow_pickle" in str(error):
                raise ConfigError(
                    "data.path", self.path,
                    f"array {name} holds Python objects (pickle); they are not read",
                ) from None  # fmt: skip
            raise
        if not isinstance(values, np.ndarray):
            raise ConfigError("data.path", self.path, f"what is called {name} is no array")
        if values.ndim not in (1, 2) or 0 in values.shape[1:]:
            raise ConfigError(
                "data.path", self.path,
                f"array {name} has shape {values.shape}; must be (n,) or (n, k)",
            )  # fmt: skip
        return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values

    def columns(
        self, block: int, names: Sequence[str], *, key: str, gaps: bool = False
    ) -> list[np.ndarray]:
        """Return the arrays of these names."""
        return [self._found[name] for name in names]


def unchanged(path: Path) -> tuple[int, int]:
    """Return what shows that a file is still the same one: its length and time of change.

    Of a file that is gone, the length is −1.
    """
    try:
        about = os.stat(path)
    except FileNotFoundError:
        return -1, 0
    return about.st_size, about.st_mtime_ns
