"""Columns that Arrow reads: CSV and Parquet files; see `pipeline.data.tables.Table`."""

from __future__ import annotations

import codecs
import gzip
from collections.abc import Callable, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.types import ConfigError
from pipeline.data.cells import name_cell, unreadable
from pipeline.data.memory import measure_memory

# Marks between columns, what each is called, and the setting that reads it.
_SEPARATORS = {
    ";": (
        "semicolons",
        """'data.separator=";"' reads it, with 'data.decimal=","' where numbers have commas""",
    ),
    "\t": ("tabs", "data.separator=tab reads it"),
    "|": ("bars", """'data.separator="|"' reads it"""),
    ",": ("commas", """'data.separator=","' reads it"""),
}


class _Arrow:
    """What CSV and Parquet share: columns that come from Arrow."""

    path: Path
    names: list[str]
    blocks: list[int]

    def _plain(self, column: Any, name: str, *, key: str, first: int, gaps: bool) -> np.ndarray:
        """Turn a column into NumPy's numbers or text.

        A missing value is NaN or the empty text with `gaps`, and refused without.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        if column.null_count and not gaps:
            row = pc.index(pc.is_null(column), True).as_py()
            raise name_cell(key, name, first + row, "has no value")
        kind = column.type
        if pa.types.is_dictionary(kind):
            column = column.cast(kind.value_type)
            kind = column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return np.array([text or "" for text in column.to_pylist()], dtype=np.str_)
        if pa.types.is_decimal(kind) or pa.types.is_null(kind):
            column = column.cast(pa.float64())
        elif pa.types.is_boolean(kind) and column.null_count:
            column = column.cast(pa.int8())
        elif not (
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        ):
            raise ConfigError(key, name, f"holds {kind}; must be numbers or text")
        values: np.ndarray = column.to_numpy()
        return values


class Csv(_Arrow):
    """Values with a mark between them, below a header, packed or not; one block, in memory."""

    def __init__(self, path: Path, *, packed: bool, separator: str, decimal: str) -> None:
        """Read the header, and look through the text once.

        Raises
        ------
        ConfigError
            If the file is empty, no UTF-8 or has no rows, or if other marks separate its columns.
        """
        from pyarrow import csv

        self.path, self._packed = path, packed
        self._separator, self._decimal = separator, decimal
        with self._open() as file:
            begin, more = file.read(1 << 20), file.read(1)
        lines = [line for line in begin.splitlines() if line.strip()]
        if not lines:
            raise ConfigError("data.path", path, "is empty; a header of names is needed")
        if begin.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ConfigError("data.path", path, "is UTF-16; save it as UTF-8")
        self._check_text(header=lines[0])
        if len(lines) == 1 and not more:
            raise ConfigError("data.path", path, "has no rows")
        with self._read(csv.open_csv) as file:
            self.names = file.schema.names

    def load(self, names: Sequence[str]) -> None:
        """Read the columns of these names.

        Raises
        ------
        ConfigError
            If a row has too few or too many values.
        """
        from pyarrow import csv

        convert = csv.ConvertOptions(include_columns=list(names), decimal_point=self._decimal)
        self._found = self._read(csv.read_csv, convert_options=convert)
        self.blocks = [self._found.num_rows]

    def columns(
        self, block: int, names: Sequence[str], *, key: str, gaps: bool = False
    ) -> list[np.ndarray]:
        """Return the columns of these names."""
        return [self._plain(self._found[name], name, key=key, first=0, gaps=gaps) for name in names]

    def _open(self) -> gzip.GzipFile | BufferedReader:
        """Open the text, unpacked."""
        return gzip.open(self.path) if self._packed else self.path.open("rb")

    def _read(self, reader: Callable[..., Any], **options: Any) -> Any:
        """Return what one of Arrow's readers makes of the text; a row that is too long is named."""
        import pyarrow as pa
        from pyarrow import csv

        ragged: list[Any] = []

        def refuse(row: Any) -> str:
            ragged.append(row)
            return "error"

        try:
            return reader(
                pa.input_stream(str(self.path), compression="gzip" if self._packed else None),
                read_options=csv.ReadOptions(use_threads=False),
                parse_options=csv.ParseOptions(
                    delimiter=self._separator, invalid_row_handler=refuse
                ),
                **options,
            )
        except Exception:
            if not ragged:
                raise
            row = ragged[0]
            raise name_cell(
                "data.path", str(self.path), row.number - 2,
                f"has {row.actual_columns} values, the header {row.expected_columns}",
            ) from None  # fmt: skip

    def _check_text(self, *, header: bytes) -> None:
        """Refuse text that is no UTF-8, unpacks beyond memory or has another mark in its header.

        The reader itself decodes no more than names and ragged rows, and says it in many lines.
        """
        decode = codecs.getincrementaldecoder("utf-8")().decode
        line, size, most = 1, 0, measure_memory()
        with self._open() as file:
            for text in iter(lambda: file.read(1 << 20), b""):
                size += len(text)
                if self._packed and size > most:
                    problem = f"unpacks to more than the memory of {most / 2**30:.3g} GiB"
                    raise ConfigError("data.path", self.path, problem)
                try:
                    decode(text)
                except UnicodeDecodeError as error:
                    line += error.object.count(b"\n", 0, error.start)
                    problem = f"is no UTF-8 in line {line}; save it as UTF-8"
                    raise ConfigError("data.path", self.path, problem) from None
                line += text.count(b"\n")
        if self._separator.encode() in header:
            return
        for mark, (name, remedy) in _SEPARATORS.items():
            if mark.encode() in header:
                problem = f"has {name} between its columns; {remedy}"
                raise ConfigError("data.path", self.path, problem)


class Parquet(_Arrow):
    """Columns in row groups; a row group is a block."""

    def __init__(self, path: Path) -> None:
        """Read the schema and the sizes of the row groups; those without rows are left out."""
        from pyarrow import parquet

        self.path = path
        self._file = parquet.ParquetFile(
            path, memory_map=False, pre_buffer=False, page_checksum_verification=True
        )
        self.names = self._file.schema_arrow.names
        about = self._file.metadata
        groups = range(about.num_row_groups)
        self._groups = [i for i in groups if about.row_group(i).num_rows]
        self.blocks = [about.row_group(i).num_rows for i in self._groups]

    def load(self, names: Sequence[str]) -> None:
        """Do nothing: row groups are read when they are asked for."""

    def columns(
        self, block: int, names: Sequence[str], *, key: str, gaps: bool = False
    ) -> list[np.ndarray]:
        """Return columns of a row group."""
        try:
            part = self._file.read_row_group(
                self._groups[block], columns=list(names), use_threads=False
            )
        except (ValueError, OSError) as error:
            raise unreadable(self.path, error) from None
        first = sum(self.blocks[:block])
        return [self._plain(part[name], name, key=key, first=first, gaps=gaps) for name in names]
