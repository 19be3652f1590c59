"""A file of the user's own, read in memory: the right numbers, or one line that says what is wrong."""

from __future__ import annotations

import io
import pickle
import tracemalloc
import zipfile
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from pipeline import data, seeds
from pipeline.config.signatures import check_settings
from pipeline.config.types import ConfigError
from pipeline.data import files, memory

ROWS = 40
SETTINGS = {
    "task": "regression", "source": "memory", "block": 8192, "cap": 65536, "validation": 0.1,
    "test": 0.2, "standardise": False, "standardise_target": False, "separator": ",", "decimal": ".", "exclude": (),
    "categories": "refuse", "missing": "refuse",
}  # fmt: skip


def made(path, features=("a", "b"), target=("y",), seed=0, **changes):
    settings = {"path": str(path), "features": features, "target": target, **SETTINGS, **changes}
    return data.make("file", settings=settings, stream=partial(seeds.stream, seed))


def refused(path, *args, **changes):
    with pytest.raises(ConfigError) as caught:
        made(path, *args, **changes)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text.replace(str(path), path.name)


def table(rows=ROWS, seed=0):
    """Three numbers a row, no two alike, and a label that follows from them."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, rows)) * [[1.0], [1e3]]
    return {"a": a, "b": b, "y": 2 * a - b, "kind": np.where(a > 0, "up", "down")}


def csv(path, columns, *, header=True):
    lines = [",".join(columns)] if header else []
    lines += [",".join(map(str, row)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    return path


def write(path, columns):
    """The same columns in any of the kinds of file; an .npy has the numbers, in order of columns."""
    kind = path.suffix.lower()
    if kind == ".csv":
        return csv(path, columns)
    if kind == ".parquet":
        parquet.write_table(pa.table(columns), path, row_group_size=7)
    elif kind == ".npz":
        np.savez(path, **columns)
    else:
        np.save(path, np.stack([c for c in columns.values() if c.dtype.kind != "U"], axis=1))
    return path


KINDS = [".csv", ".parquet", ".npz", ".npy"]
WAYS = [(k, "memory") for k in KINDS[1:]] + [(k, "mmap") for k in (".parquet", ".npy")]
NAMES = {".npy": (("0", "1"), ("2",))}


def together(dataset, kind):
    return np.concatenate([dataset.arrays[f"{kind}_{s}"] for s in ("train", "val", "test")])


def sort(rows):
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_holds_the_numbers_to_the_last_bit(tmp_path, kind):
    """Python prints a double so that reading it gives the same double, so CSV is exact as well."""
    columns = table()
    dataset = made(write(tmp_path / f"t{kind}", columns), *NAMES.get(kind, ()))
    found = np.hstack([together(dataset, "x"), together(dataset, "y")])
    wanted = np.stack([columns[name] for name in "aby"], axis=1)
    np.testing.assert_array_equal(sort(found), sort(wanted))
    assert {a.dtype for a in dataset.arrays.values()} == {np.dtype(np.float64)}
    assert (dataset.inputs, dataset.outputs, dataset.classes, dataset.source) == (
        (2,),
        1,
        None,
        None,
    )
    assert [len(dataset.arrays[f"x_{s}"]) for s in ("train", "val", "test")] == [28, 4, 8]


def test_every_kind_makes_the_same_set(tmp_path):
    """Kind of file, block length and what else is in the file do not reach the digest."""
    columns = table()
    found = {
        made(write(tmp_path / f"t{kind}", columns), *NAMES.get(kind, ()), block=block).digest
        for kind in KINDS
        for block in (7, 8192)
    }
    more = {"other": np.arange(ROWS), **columns}
    found.add(made(write(tmp_path / "more.parquet", more)).digest)
    assert len(found) == 1
    assert made(tmp_path / "t.csv", seed=1).digest not in found
    assert made(tmp_path / "t.csv", features=("b", "a")).digest not in found


def test_standardised_by_the_training_rows_alone(tmp_path):
    path = write(tmp_path / "t.npz", table())
    raw, scaled = made(path), made(path, standardise=True, standardise_target=True)
    for kind, fact in (("x", "standardised"), ("y", "standardised_target")):
        train = raw.arrays[f"{kind}_train"]
        mean, scale = np.array(scaled.facts[fact]["mean"]), np.array(scaled.facts[fact]["scale"])
        np.testing.assert_allclose(mean, train.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(scale, train.std(axis=0), rtol=1e-12)
        for split in ("train", "val", "test"):
            wanted = (raw.arrays[f"{kind}_{split}"] - mean) / scale
            np.testing.assert_array_equal(scaled.arrays[f"{kind}_{split}"], wanted)


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (["no", "yes", "maybe"], ["maybe", "no", "yes"]),
        ([10, 9, -1], [-1, 9, 10]),
        ([1.0, 3.0, 2.0], [1, 2, 3]),
    ],
)
def test_classes_are_numbered_in_sorted_order(tmp_path, kind, labels, wanted):
    which = np.arange(ROWS) % 3
    columns = {"a": np.arange(float(ROWS)), "b": np.ones(ROWS), "y": np.array(labels)[which]}
    dataset = made(write(tmp_path / f"t{kind}", columns), task="classes")
    assert (dataset.classes, dataset.facts["labels"]) == (3, wanted)
    assert dataset.arrays["y_train"].dtype == np.int64
    for row, number in zip(together(dataset, "x"), together(dataset, "y")[:, 0], strict=True):
        assert wanted[number] == labels[which[int(row[0])]]


def test_arrays_of_several_columns_stand_side_by_side(tmp_path):
    rng = np.random.default_rng(0)
    x, z, y = rng.normal(size=(ROWS, 3)), rng.normal(size=ROWS), rng.normal(size=(ROWS, 2))
    np.savez(tmp_path / "t.npz", x=x, z=z, y=y)
    dataset = made(tmp_path / "t.npz", ("x", "z"), ("y",))
    found = np.hstack([together(dataset, "x"), together(dataset, "y")])
    np.testing.assert_array_equal(sort(found), sort(np.c_[x, z, y]))
    assert (dataset.inputs, dataset.outputs) == ((4,), 2)


@pytest.mark.parametrize("dtype", ["<i2", ">i8", "u1", "?", "<f4", ">f8", "<f2"])
@pytest.mark.parametrize("source", ["memory", "mmap"])
def test_numbers_of_every_kind_and_byte_order(tmp_path, dtype, source):
    values = (np.arange(3.0 * ROWS).reshape(ROWS, 3) % 5).astype(dtype)
    np.save(tmp_path / "t.npy", values)
    dataset = made(tmp_path / "t.npy", *NAMES[".npy"], source=source, block=3)
    if source == "mmap":
        x = np.empty((3, 2))
        y = dataset.source.read(dataset.source.blocks[0], out=x)
        first = 3 * dataset.source.blocks[0]
        np.testing.assert_array_equal(np.hstack([x, y]), values[first : first + 3].astype(float))
    else:
        found = np.hstack([together(dataset, "x"), together(dataset, "y")])
        np.testing.assert_array_equal(sort(found), sort(values.astype(float)))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=10, max_size=30))
def test_any_finite_double_survives_a_csv(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    columns = {"a": np.array(values), "y": np.arange(len(values))}
    dataset = made(csv(path, columns), ("a",))
    order = together(dataset, "y")[:, 0].astype(int)
    np.testing.assert_array_equal(together(dataset, "x")[:, 0], np.array(values)[order])


def test_names_on_the_command_line():
    """One name needs no list, and a column's number is its name."""
    given = {"path": "t.npy", "features": [0, "1"], "target": 2, **SETTINGS}
    found = check_settings("data", files.file, given)
    assert (found["features"], found["target"]) == (("0", "1"), ("2",))
    assert check_settings("data", files.file, given | {"target": "y"})["target"] == ("y",)
    for bad in ([], [1.5], None, [True]):
        with pytest.raises(ConfigError, match="data.target"):
            check_settings("data", files.file, given | {"target": bad})


SPOILT = [
    ("a", 4, "much", "data.features=a: data row 5 (counted from 1) holds the text 'much', no number"),
    ("b", 39, "inf", "data.features=b: data row 40 (counted from 1) is inf; every value must be finite"),
    ("b", 0, "nan", "data.features=b: data row 1 (counted from 1) has no value"),
    ("a", 4, "1_000", "data.features=a: data row 5 (counted from 1) holds the text '1_000', no number"),
    ("a", 9, "", "data.features=a: data row 10 (counted from 1) has no value"),
    ("y", 6, "", "data.target=y: data row 7 (counted from 1) has no value"),
    ("y", 6, "2024-01-01", "data.target=y: data row 7 (counted from 1) holds the text '2024-01-01', no number"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "text", "says"), SPOILT)
def test_a_bad_cell_of_a_csv_is_named(tmp_path, name, row, text, says):
    columns = {key: values.astype(object) for key, values in table().items()}
    columns[name][row] = text
    assert refused(csv(tmp_path / "t.csv", columns)) == says


@pytest.mark.parametrize(("kind", "source"), WAYS)
@pytest.mark.parametrize(("bad", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_a_number_that_is_not_finite_is_named(tmp_path, kind, source, bad, shown):
    for name, row in (("b", 17), ("y", 38)):
        columns = table()
        columns[name][row] = bad
        path = write(tmp_path / f"t{kind}", columns)
        key = "data.target" if name == "y" else "data.features"
        called = {"b": "1", "y": "2"}[name] if kind == ".npy" else name
        assert refused(path, *NAMES.get(kind, ()), source=source, block=7) == (
            f"{key}={called}: data row {row + 1} (counted from 1) is {shown}; every value must be finite"
        )


@pytest.mark.parametrize("source", ["memory", "mmap"])
def test_a_missing_value_of_a_parquet_is_named(tmp_path, source):
    columns = {name: pa.array(values) for name, values in table().items()}
    columns["b"] = pa.array([None if i == 23 else float(i) for i in range(ROWS)])
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=7)
    text = refused(tmp_path / "t.parquet", source=source)
    assert text == "data.features=b: data row 24 (counted from 1) has no value"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["features", "target"])
def test_a_missing_column_is_named_with_those_there_are(tmp_path, kind, name):
    path = write(tmp_path / f"t{kind}", table())
    names = dict(zip(("features", "target"), NAMES.get(kind, (("a", "b"), ("y",))), strict=True))
    names[name] = ("7",)
    there = "0, 1, 2" if kind == ".npy" else "a, b, y, kind"
    assert refused(path, **names) == f"data.{name}=7: is no column of t{kind}; it has {there}"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"features": ("a", "b", "a")}, "data.features=a: is listed twice"),
        ({"target": ("y", "y")}, "data.target=y: is listed twice"),
        ({"target": ("a",)}, "data.target=a: is also one of data.features"),
        ({"target": ("y", "kind"), "task": "classes"}, "data.target=y,kind: is several; classes have one"),
        ({"target": ("kind",)}, "data.target=kind: data row 1 (counted from 1) holds the text 'up', no number"),
        ({"task": "classes"}, "data.target=y: data row 1 (counted from 1) is {y}; a class is an integer or text (data.task=regression?)"),
        ({"target": ("kind",), "task": "classes", "standardise_target": True}, "data.standardise_target=true: does not go with data.task=classes"),
        ({"validation": 0.5, "test": 0.5}, "data.test=0.5: with data.validation=0.5 leaves no training"),
        ({"test": 0.001}, "data.test=0.001: of 40 rows is no row"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", KINDS[:3])
def test_what_does_not_fit_together_is_refused(tmp_path, kind, changes, says):
    columns = table()
    says = says.format(y=float(columns["y"][0]))
    assert refused(write(tmp_path / f"t{kind}", columns), **changes) == says


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["memory", "mmap"])
def test_one_class_only_is_refused(tmp_path, kind, source):
    columns = table() | {"y": np.full(ROWS, 3)}
    changes = {"source": source, "block": 7} if kind in (".npy", ".parquet") else {}
    text = refused(
        write(tmp_path / f"t{kind}", columns), *NAMES.get(kind, ()), task="classes", **changes
    )
    assert text == f"data.target={'2' if kind == '.npy' else 'y'}: holds one class only, 3"


@pytest.mark.parametrize("kind", [".parquet", ".npz"])
def test_a_label_beyond_64_bits_is_refused(tmp_path, kind):
    """Not turned into a negative one."""
    columns = table() | {"y": np.array([1, 2**63] * (ROWS // 2), np.uint64)}
    text = refused(write(tmp_path / f"t{kind}", columns), task="classes")
    assert text == f"data.target=y: data row 2 (counted from 1) is {2**63}; too large for a class"


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows(tmp_path, kind):
    columns = {name: values[:0] for name, values in table().items()}
    path = write(tmp_path / f"t{kind}", columns)
    assert refused(path, *NAMES.get(kind, ())) == f"data.path=t{kind}: has no rows"


def test_two_columns_of_one_name(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,a,y\n" + "1,2,3,4\n" * 9)
    assert refused(path) == "data.features=a: is the name of two columns of t.csv"
    assert made(path, features=("b",)).inputs == (1,)
    both = pa.Table.from_arrays([pa.array(np.ones(9))] * 3, names=["a", "y", "y"])
    parquet.write_table(both, tmp_path / "t.parquet")
    assert (
        refused(tmp_path / "t.parquet", ("a",))
        == "data.target=y: is the name of two columns of t.parquet"
    )


def test_a_csv_that_is_none(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("")
    assert refused(path) == "data.path=t.csv: is empty; a header of names is needed"
    path.write_text("\n\n")
    assert refused(path) == "data.path=t.csv: is empty; a header of names is needed"
    path.write_text("a,b,y")
    assert refused(path) == "data.path=t.csv: has no rows"
    path.write_text("a,b,y\n" + "1,2,3\n" * 9, encoding="utf-16")
    assert refused(path) == "data.path=t.csv: is UTF-16; save it as UTF-8"
    path.write_text("a,b,y\n1,2,3\n1,2\n1,2,3\n")
    assert (
        refused(path) == "data.path=t.csv: data row 2 (counted from 1) has 2 values, the header 3"
    )
    path.write_text("a;b;y\n1;2;3\n")
    assert (
        refused(path)
        == "data.path=t.csv: has semicolons between its columns; 'data.separator=\";\"' reads it, with 'data.decimal=\",\"' where numbers have commas"
    )
    path.write_text("a,b,y\n" + "2024-01-01,2,3\n" * 9)
    assert refused(path) == "data.features=a: holds date32[day]; must be numbers or text"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a,b,y\n" + b"1,2,\xff\xfe\n" * 9, 2),
        ("größe,b,y\n1,2,3\n".encode("latin-1"), 1),
        ("a,b,y\n1,2,3\n1,é\n".encode("latin-1"), 3),  # ragged as well
        (b"a,b,y\n" + b"1,2,3\n" * 300_000 + b"1,2,\xe9\n", 300_002),
    ],
)
def test_a_csv_that_is_no_utf8_is_one_line(tmp_path, capfd, content, line):
    (tmp_path / "t.csv").write_bytes(content)
    says = f"data.path=t.csv: is no UTF-8 in line {line}; save it as UTF-8"
    assert refused(tmp_path / "t.csv") == says
    assert capfd.readouterr() == ("", "")


def test_letters_that_lie_across_two_blocks_are_utf8(tmp_path):
    text = "a,b,y,ö\n" + ("1,2,3,é\n" + "4,5,7,ü\n" * 2) * 60_000
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    assert made(tmp_path / "t.csv").inputs == (2,)


def test_separators_and_decimal_commas_are_named(tmp_path):
    path = tmp_path / "t.csv"
    for text, name in (("a;b;y\n1,5;2,5;3\n", "semicolons"), ("a\tb\ty\n1\t2\t3\n", "tabs")):
        path.write_text(text)
        assert refused(path).startswith(f"data.path=t.csv: has {name} between its columns")
    for cell in ("1,5", "-1.000,5", "1,5e3", ",5"):
        path.write_text(f'a,b,y\n1,2,3\n"{cell}",2,3\n')
        assert refused(path) == (f"data.features=a: data row 2 (counted from 1) holds '{cell}', "
                                 "a decimal comma; 'data.decimal=\",\"' reads it in a CSV file whose data.separator is no comma")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("label", ["NA", " n/a", "NaN", "null", "#N/A", "<NA>"])
def test_a_missing_label_is_no_class(tmp_path, kind, label):
    columns = table()
    columns["kind"] = columns["kind"].astype("U8")
    columns["kind"][11] = label
    path = write(tmp_path / f"t{kind}", columns)
    assert refused(path, target=("kind",), task="classes") == (
        f"data.target=kind: data row 12 (counted from 1) is {label!r}, a missing label; data.missing=drop "
        "leaves the row out, or call the class otherwise"
    )


def _declare(path, shape):
    """An .npz whose array `b` says that it is of some shape, with nothing behind."""
    np.savez(path, a=np.ones(ROWS), y=np.ones(ROWS))
    header = io.BytesIO()
    about = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b.npy", header.getvalue())


def test_an_npz_that_declares_more_than_it_has_is_refused_before_memory_is_taken(tmp_path):
    for shape in ((2**28,), (2**40,), (2**20, 2**20)):
        _declare(tmp_path / "t.npz", shape)
        tracemalloc.start()
        text = refused(tmp_path / "t.npz")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert text.startswith("data.path=t.npz: array b is cut off: it should have ")
        assert most < 2**22


def test_an_npz_that_unpacks_to_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "t.npz"
    np.savez_compressed(path, **{name: np.zeros(2**21) for name in "aby"}, other=np.zeros(2**22))
    monkeypatch.setattr(memory, "measure_memory", lambda: 2.0**27)
    tracemalloc.start()
    text = refused(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert text == (
        "data.path=t.npz: needs about 0.141 GiB of memory, of 0.125; a .npy or .parquet file can "
        "be streamed (data.source=mmap)"
    )
    assert most < 2**22


def test_a_home_that_is_none_and_a_name_that_is_too_long(tmp_path):
    says = "data.path=~nosuchuser/x.csv: there is no such user's home folder"
    with pytest.raises(ConfigError, match=f"^{says}$"):
        made("~nosuchuser/x.csv")
    assert refused(tmp_path / f"{'x' * 5000}.csv").endswith("there is no such file")


def test_a_ragged_row_far_into_a_csv_is_named(tmp_path):
    """Beyond the first megabyte, which the reader takes in as one block."""
    path = tmp_path / "t.csv"
    path.write_text("a,b,y\n" + "1,2,3\n" * 300_000 + "1,2,3,4\n" + "1,2,3\n")
    assert "data row 300001 (counted from 1) has 4 values, the header 3" in refused(path)


@pytest.mark.parametrize("name", ["t.txt", "t", "t.gz", "t.npy.gz", "t.npy.zip"])
def test_an_unknown_kind_of_file(tmp_path, name):
    path = tmp_path / name
    path.write_text("a,b,y\n1,2,3\n")
    assert (
        refused(path)
        == f"data.path={name}: unknown kind of file; must end in .csv, .csv.gz, .npy, .npz, .parquet"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_file(tmp_path, kind):
    assert refused(tmp_path / f"t{kind}") == f"data.path=t{kind}: there is no such file"
    (tmp_path / f"t{kind}").mkdir()
    assert refused(tmp_path / f"t{kind}") == f"data.path=t{kind}: there is no such file"


def _half(content):
    return content[: len(content) // 2]


def _no_head(content):
    return b"no data " + content[8:]


def _body(content):
    """Zeros over the first half, behind the first bytes: the middle of the numbers."""
    return content[:8] + bytes(len(content) // 2) + content[8 + len(content) // 2 :]


@pytest.mark.parametrize(("kind", "source"), WAYS)
@pytest.mark.parametrize("damage", [_half, _no_head, _body, lambda _: b"", lambda _: b"x" * 9])
def test_a_damaged_file_is_refused(tmp_path, kind, damage, source):
    path = write(tmp_path / f"t{kind}", table(200))
    path.write_bytes(damage(path.read_bytes()))
    text = refused(path, *NAMES.get(kind, ()), source=source, block=20)
    assert text.startswith(f"data.path=t{kind}: ")
    assert "cannot be read" in text or "is cut off: it should have" in text


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.ones(9), "has shape (9,); must be rows × columns"),
        (np.ones((9, 2, 2)), "has shape (9, 2, 2); must be rows × columns"),
        (np.ones((9, 0)), "has shape (9, 0); must be rows × columns"),
        (np.ones((9, 3), complex), "holds complex128; must be numbers"),
        (np.full((9, 3), "1"), "holds <U1; must be numbers"),
        (np.zeros((9, 3), [("a", "f8")]), "holds [('a', '<f8')]; must be numbers"),
        (np.asfortranarray(np.ones((9, 3))), "lies column by column; save it with numpy.ascontiguousarray"),
    ],
)  # fmt: skip
def test_an_npy_of_another_shape_or_kind(tmp_path, array, says):
    np.save(tmp_path / "t.npy", array)
    assert refused(tmp_path / "t.npy", *NAMES[".npy"]) == f"data.path=t.npy: {says}"


@pytest.mark.parametrize(
    ("b", "says"),
    [
        (np.ones(ROWS - 1), "data.path=t.npz: array b has 39 rows, a has 40"),
        (np.ones((ROWS, 2, 2)), "data.path=t.npz: array b has shape (40, 2, 2); must be (n,) or (n, k)"),
        (np.ones((ROWS, 0)), "data.path=t.npz: array b has shape (40, 0); must be (n,) or (n, k)"),
        (np.float64(1), "data.path=t.npz: array b has shape (); must be (n,) or (n, k)"),
        (np.ones(ROWS, complex), "data.features=b: holds complex128; must be numbers"),
    ],
)  # fmt: skip
def test_an_npz_of_other_shapes_or_kinds(tmp_path, b, says):
    np.savez(tmp_path / "t.npz", **(table() | {"b": b}))
    assert refused(tmp_path / "t.npz") == says


def test_an_archive_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("a", "text")
        archive.writestr("y", "text")
    text = refused(tmp_path / "t.npz", ("a",))
    assert text == "data.path=t.npz: what is called a is no array"


@pytest.mark.parametrize(
    ("kind", "source"), [(".npy", "memory"), (".npy", "mmap"), (".npz", "memory")]
)
def test_nothing_is_unpickled(tmp_path, kind, source):
    exploded = tmp_path / "exploded"

    class Bomb:
        def __reduce__(self):
            return (open, (str(exploded), "w"))

    path, bomb = tmp_path / f"t{kind}", np.array([[Bomb()] * 3] * ROWS, dtype=object)
    if kind == ".npy":
        np.save(path, bomb, allow_pickle=True)
        what, content = "holds", path.read_bytes()
    else:
        np.savez(path, **(table() | {"b": bomb}))
        what = "array b holds"
        with zipfile.ZipFile(path) as archive:
            content = archive.read("b.npy")
    text = refused(path, *NAMES.get(kind, ()), source=source, block=7)
    assert text == f"data.path=t{kind}: {what} Python objects (pickle); they are not read"
    assert not exploded.exists()
    if kind == ".npz":  # beside the bomb, not touching it
        made(path, features=("a",))
        assert not exploded.exists()
    pickle.loads(content[content.index(b"\n") + 1 :])  # the bomb is live: pickle would set it off
    assert exploded.exists()


def test_a_pickle_by_another_name_is_refused(tmp_path):
    """np.load without care would unpickle whatever is neither an .npy nor an archive."""
    exploded = tmp_path / "exploded"

    class Bomb:
        def __reduce__(self):
            return (open, (str(exploded), "w"))

    for kind in KINDS:
        path = tmp_path / f"t{kind}"
        path.write_bytes(pickle.dumps(Bomb()))
        refused(path, *NAMES.get(kind, ()))
    assert not exploded.exists()
