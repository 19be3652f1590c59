"""Missing values and categories of a file: what is made of them, against numbers made by hand."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline import data, seeds
from pipeline.config.types import ConfigError
from pipeline.data import memory

SETTINGS = {
    "task": "regression", "source": "memory", "block": 3, "cap": 65536, "validation": 0.1,
    "test": 0.2, "standardise": False, "standardise_target": False, "separator": ",",
    "decimal": ".", "exclude": (), "categories": "refuse", "missing": "refuse",
}  # fmt: skip
SPLITS = ("train", "val", "test")


def made(path, features, target=("y",), seed=0, **changes):
    settings = {"path": str(path), "features": features, "target": target, **SETTINGS, **changes}
    return data.make("file", settings=settings, stream=partial(seeds.stream, seed))


def refused(path, *args, **changes):
    with pytest.raises(ConfigError) as caught:
        made(path, *args, **changes)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text.replace(str(path), path.name)


def csv(path, columns):
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def together(dataset, kind):
    return np.concatenate([dataset.arrays[f"{kind}_{s}"] for s in SPLITS])


def numbered(rows=20, **columns):
    """Columns a and y, where y is the row's number, and others."""
    return {"a": [f"{i % 7}.5" for i in range(rows)], **columns, "y": list(range(rows))}


def gappy(gap, rows=20):
    """A column b whose rows 3, 8 and 13 are missing; the others hold the square of their number."""
    return [gap if i % 5 == 3 and i < 15 else float(i * i) for i in range(rows)]


def write_gaps(path):
    """Rows 3, 8 and 13 of b missing as each kind of file says it."""
    if path.suffix == ".csv":
        return csv(path, numbered(b=gappy("")))
    a, b, y = np.arange(20) % 7 + 0.5, np.array(gappy(np.nan)), np.arange(20.0)
    if path.suffix == ".npz":
        np.savez(path, a=a, b=b, y=y)
    else:
        columns = {"a": a, "b": pa.array(gappy(None)), "y": y}
        parquet.write_table(pa.table(columns), path, row_group_size=6)
    return path


GAPS = [3, 8, 13]


@pytest.mark.parametrize("kind", [".csv", ".npz", ".parquet"])
@pytest.mark.parametrize(("how", "statistic"), [("mean", np.mean), ("median", np.median)])
def test_gaps_are_filled_from_the_training_rows_alone(tmp_path, kind, how, statistic):
    dataset = made(write_gaps(tmp_path / f"t{kind}"), ["a", "b"], missing=how)
    train = dataset.arrays["y_train"][:, 0].astype(int)
    value = float(statistic([i * i for i in train if i not in GAPS]))
    for split in SPLITS:
        for (a, b), (y,) in zip(dataset.arrays[f"x_{split}"], dataset.arrays[f"y_{split}"], strict=True):  # fmt: skip
            assert a == y % 7 + 0.5
            assert b == (value if y in GAPS else y * y)
    assert dataset.facts["missing"] == {"filled": {"b": 3}, "values": {"b": value}}
    assert value != float(statistic([i * i for i in range(20) if i not in GAPS]))


@pytest.mark.parametrize("kind", [".csv", ".npz", ".parquet"])
def test_rows_with_gaps_are_dropped_before_the_split(tmp_path, kind):
    dataset = made(write_gaps(tmp_path / f"t{kind}"), ["a", "b"], missing="drop")
    rest = [i for i in range(20) if i not in GAPS]
    assert sorted(together(dataset, "y")[:, 0]) == rest
    np.testing.assert_array_equal(together(dataset, "x")[:, 1], together(dataset, "y")[:, 0] ** 2)
    assert dataset.facts["missing"] == {"dropped": 3}
    np.savez(tmp_path / "less.npz", a=np.array(rest) % 7 + 0.5, b=np.square(rest) * 1.0, y=rest)
    assert dataset.digest == made(tmp_path / "less.npz", ["a", "b"]).digest


def test_a_file_without_gaps_is_the_same_however_they_are_treated(tmp_path):
    path = csv(tmp_path / "t.csv", numbered())
    digests = {
        made(path, ["a"], missing=how).digest for how in ("refuse", "mean", "median", "drop")
    }
    assert len(digests) == 1
    assert made(path, ["a"], missing="mean").facts["missing"] == {"filled": {}, "values": {}}
    assert made(path, ["a"], missing="drop").facts["missing"] == {"dropped": 0}
    assert "missing" not in made(path, ["a"]).facts


@pytest.mark.parametrize("gap", ["", "NA", "nan", "NaN", "null", "n/a", " "])
def test_every_word_for_no_value_is_a_gap(tmp_path, gap):
    path = csv(tmp_path / "t.csv", numbered(b=gappy(gap)))
    assert made(path, ["a", "b"], missing="drop").facts["missing"] == {"dropped": 3}
    assert made(path, ["a", "b"], missing="mean").facts["missing"]["filled"] == {"b": 3}


def test_arrays_of_several_columns_are_filled_each_by_its_own(tmp_path):
    x = np.arange(40.0).reshape(20, 2)
    x[4, 0] = x[9, 1] = np.nan
    np.savez(tmp_path / "t.npz", x=x, y=np.arange(20.0))
    dataset = made(tmp_path / "t.npz", ["x"], missing="median")
    assert dataset.facts["missing"]["filled"] == {"x[0]": 1, "x[1]": 1}
    train = dataset.arrays["y_train"][:, 0].astype(int)
    for column, row in ((0, 4), (1, 9)):
        value = float(np.median([2 * i + column for i in train if i != row]))
        filled = together(dataset, "x")[together(dataset, "y")[:, 0] == row, column]
        assert filled == [value]


def test_statistics_of_standardising_count_what_was_filled_in(tmp_path):
    path = csv(tmp_path / "t.csv", numbered(b=gappy("")))
    raw = made(path, ["b"], missing="mean")
    scaled = made(path, ["b"], missing="mean", standardise=True)
    train = raw.arrays["x_train"]
    wanted = (raw.arrays["x_test"] - train.mean()) / train.std()
    np.testing.assert_allclose(scaled.arrays["x_test"], wanted, rtol=1e-13)


@pytest.mark.parametrize("kind", [".csv", ".parquet"])
@pytest.mark.parametrize("labels", [["no", "yes"], [10, 3]])
def test_rows_without_a_label_are_dropped_and_never_filled(tmp_path, kind, labels):
    marks = [None if i in (2, 11) else labels[i % 2] for i in range(20)]
    if kind == ".csv":
        words = ["" if mark is None else mark for mark in marks]
        path = csv(tmp_path / "t.csv", {"a": list(range(20)), "y": words})
    else:
        path = tmp_path / "t.parquet"
        columns = {"a": np.arange(20.0), "y": pa.array(marks)}
        parquet.write_table(pa.table(columns), path, row_group_size=6)
    dataset = made(path, ["a"], task="classes", missing="drop", validation=0)
    assert dataset.facts["labels"] == sorted(labels)
    assert dataset.facts["missing"] == {"dropped": 2}
    for split in ("train", "test"):
        for (a,), (y,) in zip(dataset.arrays[f"x_{split}"], dataset.arrays[f"y_{split}"], strict=True):  # fmt: skip
            assert a not in (2, 11)
            assert sorted(labels)[y] == labels[int(a) % 2]
    for how in ("mean", "median", "refuse"):
        text = refused(path, ["a"], task="classes", missing=how)
        assert text == "data.target=y: data row 3 (counted from 1) has no value"


@pytest.mark.parametrize(
    ("columns", "features", "how", "says"),
    [
        ({"b": gappy("inf")}, ["b"], "mean", "data.features=b: data row 4 (counted from 1) is inf; every value must be finite"),
        ({"b": gappy("inf")}, ["b"], "drop", "data.features=b: data row 4 (counted from 1) is inf; every value must be finite"),
        ({"b": [*gappy("")[:15], "much", *"1234"]}, ["b"], "drop", "data.features=b: data row 16 (counted from 1) holds the text 'much', no number"),
        ({"b": [""] * 20}, ["b"], "mean", "data.missing=mean: column b has no value in a training row"),
        ({"b": [""] * 20}, ["b"], "drop", "data.missing=drop: leaves no row; each has a missing value"),
        ({"b": ["1e308"] * 19 + [""]}, ["b"], "mean", "data.missing=mean: column b is too large to add up"),
        ({"y": ["", *range(19)]}, ["a"], "mean", "data.target=y: data row 1 (counted from 1) has no value"),
        ({"y": ["", *range(19)]}, ["a"], "median", "data.target=y: data row 1 (counted from 1) has no value"),
        ({"y": [""] * 20}, ["a"], "drop", "data.missing=drop: leaves no row; each has a missing value"),
    ],
)  # fmt: skip
def test_what_cannot_be_filled_is_one_line(tmp_path, columns, features, how, says):
    path = csv(tmp_path / "t.csv", numbered() | columns)
    assert refused(path, features, missing=how) == says


def test_no_row_left_of_labels_is_one_line(tmp_path):
    path = csv(tmp_path / "t.csv", {"a": list(range(20)), "y": ["NA"] * 19 + ["x"]})
    says = "data.target=y: holds one class only, x"
    assert refused(path, ["a"], task="classes", missing="drop") == says
    path = csv(tmp_path / "t.csv", {"a": list(range(20)), "y": ["NA"] * 20})
    says = "data.missing=drop: leaves no row; each has a missing value"
    assert refused(path, ["a"], task="classes", missing="drop") == says


@pytest.mark.parametrize("setting", [{"missing": "mean"}, {"missing": "drop"}, {"categories": "onehot"}])  # fmt: skip
def test_a_streamed_file_is_read_as_it_is(tmp_path, setting):
    np.save(tmp_path / "t.npy", np.ones((20, 2)))
    ((key, value),) = setting.items()
    assert refused(tmp_path / "t.npy", ["0"], ["1"], source="mmap", **setting) == (
        f"data.{key}={value}: needs data.source=memory; a streamed file is read as it is"
    )


COLOURS = ["red", "blue", "green", "red"]


def write_colours(path, colours=None):
    """A column of text between two of numbers; y is the row's number."""
    colours = colours or COLOURS * 5
    rows = len(colours)
    columns = {"a": np.arange(rows) + 0.5, "kind": np.array(colours), "flag": np.arange(rows) % 2 == 0, "y": np.arange(rows)}  # fmt: skip
    if path.suffix == ".csv":
        return csv(path, columns | {"flag": ["true" if f else "false" for f in columns["flag"]]})
    if path.suffix == ".npz":
        np.savez(path, **columns)
    else:
        kinds = pa.array(colours).dictionary_encode() if "dictionary" in path.name else colours
        table = pa.table({**columns, "kind": kinds})
        parquet.write_table(table, path, row_group_size=7)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.npz", "t.parquet", "dictionary.parquet"])
def test_text_becomes_a_column_for_each_category_in_sorted_order(tmp_path, name):
    dataset = made(write_colours(tmp_path / name), ["a", "kind", "flag"], categories="onehot")
    wanted = {"red": [0, 0, 1], "blue": [1, 0, 0], "green": [0, 1, 0]}
    for x, (y,) in zip(together(dataset, "x"), together(dataset, "y"), strict=True):
        colour = COLOURS[int(y) % 4]
        np.testing.assert_array_equal(x, [y + 0.5, *wanted[colour], y % 2 == 0])
    assert dataset.inputs == (5,)
    assert dataset.facts["features"] == ["a", "kind=blue", "kind=green", "kind=red", "flag"]
    assert dataset.facts["categories"] == {"kind": ["blue", "green", "red"]}


def test_categories_are_those_of_all_rows_so_every_seed_has_the_same_columns(tmp_path):
    """Also one that is in a single row, which may not be one to train on."""
    path = write_colours(tmp_path / "t.csv", ["rare", *(COLOURS * 5)])
    found = [made(path, ["kind"], categories="onehot", seed=seed) for seed in range(8)]
    assert {tuple(d.facts["categories"]["kind"]) for d in found} == {("blue", "green", "rare", "red")}  # fmt: skip
    assert {float(d.arrays["x_train"][:, 2].sum()) for d in found} == {0, 1}


def test_numbers_as_text_stay_numbers(tmp_path):
    np.savez(tmp_path / "t.npz", a=np.array([f"{i}.5" for i in range(20)]), y=np.arange(20))
    dataset = made(tmp_path / "t.npz", ["a"], categories="onehot")
    np.testing.assert_array_equal(together(dataset, "x"), together(dataset, "y") + 0.5)
    assert "categories" not in dataset.facts


def test_columns_of_one_array_are_encoded_each_by_itself(tmp_path):
    x = np.array([[COLOURS[i % 4], str(i), "ab"[i % 2]] for i in range(20)])
    np.savez(tmp_path / "t.npz", x=x, y=np.arange(20))
    dataset = made(tmp_path / "t.npz", ["x"], categories="onehot")
    assert dataset.facts["features"] == ["x[0]=blue", "x[0]=green", "x[0]=red", "x[1]", "x[2]=a", "x[2]=b"]  # fmt: skip
    for row, (y,) in zip(together(dataset, "x"), together(dataset, "y"), strict=True):
        colour = [c == COLOURS[int(y) % 4] for c in ("blue", "green", "red")]
        np.testing.assert_array_equal(row, [*colour, y, y % 2 == 0, y % 2 == 1])


def test_a_missing_category_is_refused_or_its_row_is_dropped(tmp_path):
    for gap, shown in (("", "has no value"), ("NA", "is 'NA', a missing category")):
        path = write_colours(tmp_path / "t.csv", [*(COLOURS * 5), gap])
        for how in ("refuse", "mean", "median"):
            assert refused(path, ["kind"], categories="onehot", missing=how) == (
                f"data.features=kind: data row 21 (counted from 1) {shown}; data.missing=drop "
                "leaves the row out, or give it a name"
            )
        dropped = made(path, ["kind"], categories="onehot", missing="drop")
        assert dropped.facts["categories"] == {"kind": ["blue", "green", "red"]}
        assert dropped.facts["missing"] == {"dropped": 1}
        full = made(write_colours(tmp_path / "full.csv"), ["kind"], categories="onehot")
        assert dropped.digest == full.digest


def test_a_category_that_only_dropped_rows_have_makes_no_column(tmp_path):
    columns = numbered(b=gappy(""), kind=["gone" if i == 3 else "ab"[i % 2] for i in range(20)])
    path = csv(tmp_path / "t.csv", columns)
    dataset = made(path, ["b", "kind"], categories="onehot", missing="drop")
    assert dataset.facts["features"] == ["b", "kind=a", "kind=b"]


def test_gaps_beside_categories_are_filled(tmp_path):
    columns = numbered(b=gappy(""), kind=["ab"[i % 2] for i in range(20)])
    path = csv(tmp_path / "t.csv", columns)
    dataset = made(path, ["kind", "b"], categories="onehot", missing="mean")
    assert dataset.facts["missing"]["filled"] == {"b": 3}
    assert np.isfinite(together(dataset, "x")).all()


def test_text_is_refused_unless_it_is_asked_for(tmp_path):
    path = write_colours(tmp_path / "t.csv")
    assert refused(path, ["kind"]) == (
        "data.features=kind: data row 1 (counted from 1) holds the text 'red', no number"
    )
    assert refused(path, ["a"], ["kind"], categories="onehot") == (
        "data.target=kind: data row 1 (counted from 1) holds the text 'red', no number"
    )


def test_numbers_with_the_other_decimal_mark_are_no_categories(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a;y\n" + "1,5;2\n" * 9 + "1.500;2\n")
    text = refused(path, ["a"], separator=";", decimal=",", categories="onehot")
    assert text.endswith("data row 10 (counted from 1) holds '1.500'; with data.decimal=, a number has no point")  # fmt: skip
    text = refused(path, ["a"], separator=";", categories="onehot")
    assert "data row 1 (counted from 1) holds '1,5', a decimal comma" in text


@pytest.mark.parametrize(
    ("numbers", "texts", "encoded"), [(19, 1, False), (11, 9, False), (10, 10, True)]
)
def test_an_odd_cell_among_numbers_is_named_and_no_category(tmp_path, numbers, texts, encoded):
    columns = {"a": [*map(str, range(numbers)), *["?"] * texts], "y": range(20)}
    path = csv(tmp_path / "t.csv", columns)
    if encoded:
        assert "a=?" in made(path, ["a"], categories="onehot").facts["features"]
        return
    for missing in ("refuse", "mean"):
        assert refused(path, ["a"], categories="onehot", missing=missing) == (
            f"data.features=a: data row {numbers + 1} (counted from 1) holds the text '?', no number"
        )


def test_an_encoded_column_has_no_name_of_another(tmp_path):
    columns = {"kind": ["red", "blue"] * 10, "kind=red": range(20), "y": range(20)}
    path = csv(tmp_path / "t.csv", columns)
    assert refused(path, ["kind", "kind=red"], categories="onehot") == (
        "data.categories=onehot: makes a column kind=red, which is the name of another one"
    )


def test_too_many_categories_are_one_line(tmp_path, monkeypatch):
    names = [f"n{i}" for i in range(1001)]
    path = write_colours(tmp_path / "t.npz", names)
    assert refused(path, ["kind"], categories="onehot") == (
        "data.features=kind: holds 1001 categories; at most 1000 are encoded"
    )
    path = write_colours(tmp_path / "t.npz", names[:1000])
    assert made(path, ["kind"], categories="onehot").inputs == (1000,)
    monkeypatch.setattr(memory, "measure_memory", lambda: 2.0**24)
    assert refused(path, ["kind"], categories="onehot") == (
        "data.categories=onehot: needs about 0.0224 GiB of memory, of 0.0156; data.exclude leaves "
        "columns of many categories out"
    )
