"""Columns of a file by name, by range, or all but some."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline import data, seeds
from pipeline.config.signatures import check_settings
from pipeline.config.types import ConfigError
from pipeline.data import files
from pipeline.data.columns import choose_columns

SETTINGS = {
    "task": "regression", "source": "memory", "block": 2, "cap": 65536, "validation": 0,
    "test": 0.25, "standardise": False, "standardise_target": False, "separator": ",",
    "decimal": ".", "exclude": (),
    "categories": "refuse", "missing": "refuse",
}  # fmt: skip
NAMES = ["id", "age", "height", "weight", "name", "y"]


def made(path, features, target=("y",), **changes):
    settings = {"path": str(path), "features": features, "target": target, **SETTINGS, **changes}
    return data.make("file", settings=settings, stream=partial(seeds.stream, 0))


def refused(path, *args, **changes):
    with pytest.raises(ConfigError) as caught:
        made(path, *args, **changes)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def write(path, names=NAMES, rows=8):
    """Column c of row r holds 10·r + c, in any kind of file."""
    values = 10.0 * np.arange(rows)[:, None] + np.arange(len(names))
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez(path, **dict(zip(names, values.T, strict=True)))
    elif path.suffix == ".parquet":
        arrays = [pa.array(column) for column in values.T]
        parquet.write_table(pa.Table.from_arrays(arrays, names=names), path, row_group_size=2)
    else:
        lines = [",".join(names), *(",".join(map(str, row)) for row in values)]
        path.write_text("\n".join(lines) + "\n")
    return path


def columns(dataset):
    """Which columns the samples hold, and which the targets: the last digit of each number."""
    return (dataset.arrays["x_test"] % 10).astype(int).tolist()[0], (
        dataset.arrays["y_test"] % 10
    ).astype(int).tolist()[0]


WAYS = [(".csv", "memory"), (".parquet", "memory"), (".npz", "memory"), (".parquet", "mmap")]
CHOICES = [
    ({"features": ["age:weight"]}, [1, 2, 3], [5]),
    ({"features": ["height:height"]}, [2], [5]),
    ({"features": ["name", "age:height"]}, [4, 1, 2], [5]),
    ({"features": ["all"]}, [0, 1, 2, 3, 4], [5]),
    ({"features": ["all"], "exclude": ["id", "name"]}, [1, 2, 3], [5]),
    ({"features": ["all"], "exclude": ["height:name"]}, [0, 1], [5]),
    ({"features": ["id:y"], "exclude": ["y"]}, [0, 1, 2, 3, 4], [5]),
    ({"features": ["id", "age"], "exclude": ["age"]}, [0], [5]),
    ({"features": ["all"], "target": ["weight:y"]}, [0, 1, 2], [3, 4, 5]),
]


@pytest.mark.parametrize(("kind", "source"), WAYS)
@pytest.mark.parametrize(("choice", "features", "targets"), CHOICES)
def test_columns_are_those_between_and_in_order(tmp_path, kind, source, choice, features, targets):
    dataset = made(write(tmp_path / f"t{kind}"), source=source, **choice)
    assert columns(dataset) == (features, targets)
    assert dataset.facts["features"] == [NAMES[i] for i in features]
    assert dataset.facts["targets"] == [NAMES[i] for i in targets]


@pytest.mark.parametrize("source", ["memory", "mmap"])
def test_columns_of_an_npy_are_numbers(tmp_path, source):
    path = write(tmp_path / "t.npy")
    assert columns(made(path, ["0:3"], ["5"], source=source)) == ([0, 1, 2, 3], [5])
    assert columns(made(path, ["all"], ["0"], exclude=["2"], source=source)) == ([1, 3, 4, 5], [0])
    assert refused(path, ["0:6"], ["5"], source=source) == (
        "data.features=0:6: is no column of t.npy, nor a range first:last of two; it has "
        "0, 1, 2, 3, 4, 5"
    )


def test_a_choice_of_the_same_columns_is_the_same_data(tmp_path):
    path = write(tmp_path / "t.csv")
    listed = made(path, ["age", "height", "weight"])
    assert made(path, ["age:weight"]).digest == listed.digest
    assert made(path, ["all"], exclude=["id", "name"]).digest == listed.digest


def test_an_exact_name_wins(tmp_path):
    path = write(tmp_path / "t.csv", ["a", "b", "a:b", "all", "y"])
    assert columns(made(path, ["a:b"])) == ([2], [4])
    assert columns(made(path, ["all"])) == ([3], [4])
    assert columns(made(path, ["a:a:b"])) == ([0, 1, 2], [4])
    assert columns(made(path, ["a:b:all"])) == ([2, 3], [4])


def test_a_range_that_can_be_split_twice_is_refused(tmp_path):
    path = write(tmp_path / "t.csv", ["a", "b:c", "a:b", "c", "y"])
    says = "data.features=a:b:c: is more than one range of columns of t.csv"
    assert refused(path, ["a:b:c"]) == says


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"features": ["weight:age"]}, "data.features=weight:age: weight comes after age in t.csv"),
        ({"features": ["age:hight"]}, "data.features=age:hight: is no column of t.csv, nor a range first:last of two; it has id, age, height, weight, name, y"),
        ({"features": [":"]}, "data.features=:: is no column of t.csv, nor a range first:last of two; it has id, age, height, weight, name, y"),
        ({"features": ["all"], "exclude": ["ids"]}, "data.exclude=ids: is no column of t.csv; it has id, age, height, weight, name, y"),
        ({"features": ["all"], "exclude": ["all"]}, "data.exclude=all: is no column of t.csv; it has id, age, height, weight, name, y"),
        ({"features": ["all"], "target": ["all"]}, "data.target=all: is no column of t.csv; it has id, age, height, weight, name, y"),
        ({"features": ["all"], "target": ["id:y"]}, "data.features=all: t.csv has none but the target"),
        ({"features": ["all"], "exclude": ["id:name"]}, "data.exclude=id:name: leaves no feature"),
        ({"features": ["id:age", "age"]}, "data.features=age: is listed twice"),
        ({"features": ["all", "id"]}, "data.features=id: is listed twice"),
        ({"features": ["id:y"]}, "data.target=y: is also one of data.features"),
        ({"features": ["id"], "target": ["age:y"], "task": "classes"}, "data.target=age,height,weight,name,y: is several; classes have one"),
    ],
)  # fmt: skip
def test_what_cannot_be_chosen_is_refused_in_one_line(tmp_path, choice, says):
    assert refused(write(tmp_path / "t.csv"), **choice) == says


def test_two_columns_of_one_name_can_be_left_out(tmp_path):
    path = write(tmp_path / "t.csv", ["a", "b", "a", "y"])
    says = "data.features=a: is the name of two columns of t.csv"
    assert refused(path, ["all"]) == says
    assert columns(made(path, ["all"], exclude=["a"])) == ([1], [3])


def test_many_columns_are_chosen_at_once():
    """In one pass over the names: 200 000 of them, looked up one in another, would take minutes."""

    wide = SimpleNamespace(path=Path("t.npy"), names=[str(i) for i in range(200_000)])
    chosen = choose_columns(wide, features=["all"], exclude=["0:99"], target=["199999"])
    assert chosen == (tuple(wide.names[100:-1]), ("199999",))


def test_what_may_be_left_out_on_the_command_line():
    given = {"path": "t.npy", "features": "all", "target": 2, **SETTINGS}
    assert check_settings("data", files.file, given)["features"] == ("all",)
    for exclude, names in (([], ()), (3, ("3",)), (["a", 1], ("a", "1")), ("a:b", ("a:b",))):
        found = check_settings("data", files.file, given | {"exclude": exclude})
        assert found["exclude"] == names
    for bad in (None, [1.5], {}):
        with pytest.raises(ConfigError, match="data.exclude"):
            check_settings("data", files.file, given | {"exclude": bad})
