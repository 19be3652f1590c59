"""CSV files as programs write them: packed, with other marks between columns and before decimals."""

from __future__ import annotations

import gzip
from functools import partial

import numpy as np
import pytest

from pipeline import data, seeds
from pipeline.config.signatures import check_settings
from pipeline.config.types import ConfigError
from pipeline.data import arrow, files

SETTINGS = {
    "features": ("a", "b"), "target": ("y",), "task": "regression", "source": "memory",
    "block": 8192, "cap": 65536, "validation": 0, "test": 0.2, "standardise": False,
    "standardise_target": False, "separator": ",", "decimal": ".", "exclude": (),
    "categories": "refuse", "missing": "refuse",
}  # fmt: skip
ROWS = [(1.5, -2.25, 3.0), (0.5, 1e-3, 4.0), (1e5, 2.0, 5.0), (7.0, 8.0, 6.0), (9.0, 1.0, 7.0)]


def made(path, **changes):
    settings = {"path": str(path), **SETTINGS, **changes}
    return data.make("file", settings=settings, stream=partial(seeds.stream, 0))


def refused(path, **changes):
    with pytest.raises(ConfigError) as caught:
        made(path, **changes)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text.replace(str(path), path.name)


def written(separator=",", decimal="."):
    """The rows as text: no cell is quoted."""
    lines = [separator.join("aby")]
    lines += [separator.join(f"{v:g}".replace(".", decimal) for v in row) for row in ROWS]
    return ("\n".join(lines) + "\n").encode()


def rows_of(dataset):
    """All samples with their targets, sorted by target."""
    arrays = dataset.arrays
    rows = np.vstack([np.hstack([arrays[f"x_{s}"], arrays[f"y_{s}"]]) for s in ("train", "test")])
    return rows[np.argsort(rows[:, -1])]


@pytest.mark.parametrize(
    ("given", "separator", "decimal"),
    [(",", ",", "."), (";", ";", "."), (";", ";", ","), ("tab", "\t", ","), (r"\t", "\t", "."),
     ("\t", "\t", "."), ("|", "|", ","), (" ", " ", ",")],
)  # fmt: skip
def test_every_separator_and_decimal_mark_gives_the_same_numbers(
    tmp_path, given, separator, decimal
):
    path = tmp_path / "t.csv"
    path.write_bytes(written(separator, decimal))
    found = made(path, separator=given, decimal=decimal)
    np.testing.assert_array_equal(rows_of(found), ROWS)
    (tmp_path / "plain.csv").write_bytes(written())
    assert found.digest == made(tmp_path / "plain.csv").digest


@pytest.mark.parametrize("name", ["t.csv.gz", "T.CSV.GZ"])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_packed_csv_is_the_csv(tmp_path, name, parts):
    """Also one that is two archives, one behind the other, as `cat` makes them."""
    text = written()
    cut = text.index(b"\n") + 1 if parts == 2 else len(text)
    (tmp_path / name).write_bytes(gzip.compress(text[:cut]) + gzip.compress(text[cut:]))
    (tmp_path / "t.csv").write_bytes(text)
    np.testing.assert_array_equal(rows_of(made(tmp_path / name)), ROWS)
    assert made(tmp_path / name).digest == made(tmp_path / "t.csv").digest


@pytest.mark.parametrize(
    "damage",
    [lambda c: c[: len(c) // 2], lambda c: b"no archive", lambda c: c[:20] + b"\0" * 9 + c[29:]],
)
def test_a_damaged_archive_is_one_line(tmp_path, damage):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(damage(gzip.compress(written())))
    assert refused(path).startswith("data.path=t.csv.gz: cannot be read: ")


def test_what_unpacks_beyond_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "measure_memory", lambda: 2.0**22)
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"a,b,y\n" + b"1,2,3\n" * 2**20))
    assert refused(path) == "data.path=t.csv.gz: unpacks to more than the memory of 0.00391 GiB"


def test_a_packed_csv_is_not_streamed(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(written()))
    says = "data.source=mmap: needs a .npy or .parquet file, not t.csv.gz"
    assert refused(path, source="mmap") == says


@pytest.mark.parametrize(
    ("separator", "says"),
    [
        ("\t", "has tabs between its columns; data.separator=tab reads it"),
        ("|", """has bars between its columns; 'data.separator="|"' reads it"""),
        (";", """has semicolons between its columns; 'data.separator=";"' reads it, with 'data.decimal=","' where numbers have commas"""),
    ],
)  # fmt: skip
def test_another_separator_is_named_with_the_setting_that_reads_it(tmp_path, separator, says):
    (tmp_path / "t.csv").write_bytes(written(separator))
    assert refused(tmp_path / "t.csv") == f"data.path=t.csv: {says}"
    np.testing.assert_array_equal(rows_of(made(tmp_path / "t.csv", separator=separator)), ROWS)
    (tmp_path / "t.csv").write_bytes(written())
    says = """has commas between its columns; 'data.separator=","' reads it"""
    assert refused(tmp_path / "t.csv", separator=separator) == f"data.path=t.csv: {says}"


def test_a_number_with_the_other_decimal_mark_is_refused(tmp_path):
    """1.500 beside decimal commas is a thousand and a half to one reader and 1.5 to another."""
    path = tmp_path / "t.csv"
    path.write_text("a;b;y\n1,5;2;3\n1.500;2;3\n")
    assert refused(path, separator=";", decimal=",") == (
        "data.features=a: data row 2 (counted from 1) holds '1.500'; with data.decimal=, a number "
        "has no point"
    )
    path.write_text("a;b;y\n1,5;2;3\nmuch;2;3\n")
    assert refused(path, separator=";", decimal=",") == (
        "data.features=a: data row 2 (counted from 1) holds the text 'much', no number"
    )
    path.write_text("a;b;y\n1;2;3\n1,5;2;3\n")
    assert refused(path, separator=";") == (
        "data.features=a: data row 2 (counted from 1) holds '1,5', a decimal comma; "
        "'data.decimal=\",\"' reads it in a CSV file whose data.separator is no comma"
    )


def test_a_wrong_mark_is_one_line(tmp_path):
    given = {"path": "t.csv", **SETTINGS}
    for mark in ("", ";;", "é", '"', "\n"):
        with pytest.raises(ConfigError) as caught:
            check_settings("data", files.file, given | {"separator": mark})
        says = f"data.separator={mark}: must be one ASCII character, such as ; or |, or tab"
        assert str(caught.value) == says.replace("\n", " ")
    with pytest.raises(ConfigError, match="data.decimal=;"):
        check_settings("data", files.file, given | {"decimal": ";"})
    path = tmp_path / "t.csv"
    path.write_bytes(written())
    assert refused(path, decimal=",") == "data.decimal=,: is data.separator as well"


@pytest.mark.parametrize("kind", [".npy", ".npz", ".parquet"])
def test_marks_are_of_csv_files(tmp_path, kind):
    path = tmp_path / f"t{kind}"
    path.write_bytes(b"")
    assert refused(path, separator=";") == f"data.separator=;: is of CSV files, not of t{kind}"
    assert refused(path, decimal=",") == f"data.decimal=,: is of CSV files, not of t{kind}"
