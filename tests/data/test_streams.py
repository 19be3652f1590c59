"""A file that stays on disk while it is trained on: every row once, and the numbers of memory."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from pipeline import data, seeds
from pipeline.config.types import ConfigError
from pipeline.data import batches

ROWS, BLOCK = 230, 16
KINDS = [".npy", ".parquet"]


def matrix(rows=ROWS):
    """Columns: the row's own number, two features and a target, none near zero mean."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, rows)) * [[1.0], [30.0]] + [[5.0], [1e4]]
    return np.stack([np.arange(float(rows)), a, b, 2 * a - b + 7], axis=1)


def write(path, values, *, block=BLOCK, labels=None):
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        columns = {str(i): column for i, column in enumerate(values.T)}
        if labels is not None:
            columns["kind"] = labels
        parquet.write_table(pa.table(columns), path, row_group_size=block)
    return path


def made(path, seed=0, **changes):
    settings = {
        "path": str(path), "features": ("0", "1", "2"), "target": ("3",), "task": "regression",
        "source": "mmap", "block": BLOCK, "cap": 65536, "validation": 0.1, "test": 0.2,
        "standardise": False, "standardise_target": False, "separator": ",", "decimal": ".", "exclude": (),
    "categories": "refuse", "missing": "refuse",
    }  # fmt: skip
    return data.make("file", settings=settings | changes, stream=partial(seeds.stream, seed))


def cut(dataset, *, size=10, shuffle=True, group=1, dtype="float64", seed=0, encode=lambda y: y):
    return batches.of(
        dataset, size=size, shuffle=shuffle, stream=partial(seeds.stream, seed), dtype=dtype,
        encode=encode, group=group,
    )  # fmt: skip


def epoch(dataset, number=1, **how):
    """The samples and targets of one epoch, one below the other."""
    blocks = list(cut(dataset, **how).blocks(number))
    return tuple(np.concatenate(part) for part in zip(*blocks, strict=True))


def trained(source):
    """Numbers of the file's rows that lie in the blocks trained on."""
    starts = np.concatenate([[0], np.cumsum(source.table.blocks)])
    return np.concatenate([np.arange(starts[b], starts[b + 1]) for b in source.blocks])


@pytest.fixture(params=KINDS)
def path(request, tmp_path):
    return write(tmp_path / f"t{request.param}", matrix())


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("size", "group"), [(1, 1), (10, 1), (7, 3), (16, 1), (50, 2), (500, 1)])
def test_every_training_row_is_seen_once_with_its_own_values(path, shuffle, size, group):
    dataset = made(path)
    x, y = epoch(dataset, size=size, group=group, shuffle=shuffle)
    seen = x[:, 0].astype(int)
    np.testing.assert_array_equal(np.sort(seen), trained(dataset.source))
    np.testing.assert_array_equal(np.hstack([x, y]), matrix()[seen])
    assert len(x) == dataset.rows == dataset.source.rows
    if not shuffle:
        np.testing.assert_array_equal(seen, np.sort(seen))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("size", "group"), [(10, 1), (7, 3), (16, 1), (50, 2)])
def test_batches_hold_their_size_across_blocks(path, shuffle, size, group):
    """Only the last block may end within an update, so only an epoch's last batch is smaller."""
    dataset = made(path)
    found = cut(dataset, size=size, group=group, shuffle=shuffle)
    lengths = [len(x) for x, _ in found.blocks(1)]
    assert all(length % (size * group) == 0 for length in lengths[:-1])
    batch = [n for rows in lengths for n in batches.cuts(rows, size=size, group=group)[0]]
    assert batch == [size] * (dataset.rows // size) + [dataset.rows % size] * (
        dataset.rows % size > 0
    )
    assert len(batch) == found.count
    assert not found.fixed


@given(
    st.lists(st.integers(1, 9), min_size=3, max_size=12),
    st.integers(1, 20), st.integers(1, 4), st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_row_groups_of_any_length(tmp_path_factory, lengths, size, group, shuffle, seed):
    path = tmp_path_factory.mktemp("t") / "t.parquet"
    values = matrix(sum(lengths))
    whole = pa.table({str(i): column for i, column in enumerate(values.T)})
    with parquet.ParquetWriter(path, whole.schema) as file:
        for start, length in zip(np.cumsum([0, *lengths]), lengths, strict=False):
            file.write_table(whole.slice(start, length))
    dataset = made(path, seed=seed)
    blocks = list(cut(dataset, size=size, group=group, shuffle=shuffle, seed=seed).blocks(3))
    x = np.concatenate([block[0] for block in blocks])
    np.testing.assert_array_equal(np.sort(x[:, 0]), trained(dataset.source))
    assert all(len(block[0]) % (size * group) == 0 for block in blocks[:-1])


def test_the_seed_and_the_epoch_decide_the_order(path):
    dataset = made(path)
    first = epoch(dataset)[0][:, 0]
    np.testing.assert_array_equal(first, epoch(dataset)[0][:, 0])
    np.testing.assert_array_equal(first, epoch(made(path))[0][:, 0])
    for other in (epoch(dataset, 2), epoch(dataset, seed=1), epoch(dataset, shuffle=False)):
        assert not np.array_equal(first, other[0][:, 0])


def test_shuffled_are_the_blocks_and_the_rows_inside_each(path):
    dataset = made(path)
    blocks = epoch(dataset)[0][:, 0] // BLOCK
    changes = np.flatnonzero(np.diff(blocks)) + 1
    runs = [int(part[0]) for part in np.split(blocks, changes)]
    assert sorted(runs) == sorted(dataset.source.blocks) != runs
    rows = np.split(epoch(dataset)[0][:, 0] % BLOCK, changes)
    assert all(not np.array_equal(part, np.sort(part)) for part in rows)
    assert len({tuple(part) for part in rows}) == len(rows)


def test_what_was_yielded_is_not_written_to_again(path):
    kept = list(cut(made(path, standardise=True)).blocks(1))
    copies = [(x.copy(), y.copy()) for x, y in cut(made(path, standardise=True)).blocks(1)]
    for block, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(block[0], copy[0])
        np.testing.assert_array_equal(block[1], copy[1])


@pytest.mark.parametrize("seed", range(4))
def test_splits_are_whole_blocks_and_share_no_row(path, seed):
    dataset = made(path, seed=seed)
    ids = {s: dataset.arrays[f"x_{s}"][:, 0].astype(int) for s in ("val", "test")}
    ids["train"] = trained(dataset.source)
    np.testing.assert_array_equal(np.sort(np.concatenate(list(ids.values()))), np.arange(ROWS))
    for split, share in (("val", 0.1), ("test", 0.2)):
        rows = np.c_[dataset.arrays[f"x_{split}"], dataset.arrays[f"y_{split}"]]
        np.testing.assert_array_equal(rows, matrix()[ids[split]])
        assert share * ROWS - BLOCK < len(ids[split]) <= share * ROWS
        block = ids[split] // BLOCK
        assert all((block == b).sum() == dataset.source.length(b) for b in set(block))
    assert {tuple(made(path, seed=s).source.blocks) for s in range(4)} != {dataset.source.blocks}


def test_the_cap_bounds_test_and_validation_rows(path):
    dataset = made(path, cap=BLOCK + 3, validation=0.3, test=0.3)
    for split in ("val", "test"):
        assert len(dataset.arrays[f"x_{split}"]) <= BLOCK + 3
    assert set(made(path, validation=0.0).arrays) == {"x_test", "y_test"}


@pytest.mark.parametrize("shuffle", [False, True])
def test_statistics_and_numbers_are_those_of_memory(path, shuffle):
    """NumPy's own mean and std of the training rows; merging blocks rounds otherwise, a few ulps."""
    dataset = made(path, standardise=True, standardise_target=True)
    rows = matrix()[trained(dataset.source)]
    for fact, columns in (("standardised", slice(0, 3)), ("standardised_target", slice(3, 4))):
        about = dataset.facts[fact]
        np.testing.assert_allclose(about["mean"], rows[:, columns].mean(axis=0), rtol=1e-14)
        np.testing.assert_allclose(about["scale"], rows[:, columns].std(axis=0), rtol=1e-13)
    x, y = epoch(dataset, shuffle=shuffle)
    about, beside = dataset.facts["standardised"], dataset.facts["standardised_target"]
    seen = np.rint(x[:, 0] * about["scale"][0] + about["mean"][0]).astype(int)
    np.testing.assert_array_equal(np.sort(seen), trained(dataset.source))
    wanted = (matrix()[seen, :3] - about["mean"]) / about["scale"]
    np.testing.assert_array_equal(x, wanted)
    np.testing.assert_array_equal(y, (matrix()[seen, 3:] - beside["mean"]) / beside["scale"])
    for name, columns, by in (("x_test", slice(0, 3), about), ("y_test", slice(3, 4), beside)):
        test = made(path).arrays["x_test"][:, 0].astype(int)
        raw = matrix()[test, columns]
        np.testing.assert_array_equal(dataset.arrays[name], (raw - by["mean"]) / by["scale"])
    assert json.loads(json.dumps(dataset.facts)) == dataset.facts


@pytest.mark.parametrize("features", [("0",), ("2", "0"), ("0", "2"), ("0", "1", "2")])
@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_float32_is_float64_rounded_once(path, features, standardise, shuffle):
    """Whichever columns are asked for: all at once, a few of many, or in another order."""
    how = {"features": features, "standardise": standardise}
    x, y = epoch(made(path, **how), dtype="float32", shuffle=shuffle)
    exact = epoch(made(path, **how), shuffle=shuffle)
    np.testing.assert_array_equal(x, exact[0].astype(np.float32))
    np.testing.assert_array_equal(y, exact[1].astype(np.float32))
    assert (x.dtype, y.dtype) == (np.dtype("f4"), np.dtype("f4"))


@pytest.mark.parametrize("standardise", [False, True])
def test_blocks_longer_than_one_piece(tmp_path, monkeypatch, standardise):
    """Read and standardised piece by piece, the numbers are those of one piece."""
    path = write(tmp_path / "t.npy", matrix())
    whole = epoch(made(path, block=50, standardise=standardise))
    monkeypatch.setattr("pipeline.data.streams._PIECE", 7 * 8 * 4)
    parts = epoch(made(path, block=50, standardise=standardise))
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_array_equal(whole[1], parts[1])


@pytest.mark.parametrize("kind", [".npy", ".parquet"])
def test_classes_are_those_of_memory(tmp_path, kind):
    """Labels are gathered over all blocks, though the first block has but one of them."""
    values = matrix()
    values[:, 3] = np.sort(np.arange(ROWS) % 3) * 5 - 5
    path = write(tmp_path / f"t{kind}", values)
    dataset = made(path, task="classes", seed=2)
    memory = made(path, task="classes", source="memory")
    assert dataset.facts["labels"] == memory.facts["labels"] == [-5, 0, 5]
    assert dataset.classes == memory.classes == 3
    x, y = epoch(dataset, encode=lambda y: np.eye(3)[y[:, 0]])
    np.testing.assert_array_equal(y.argmax(axis=1), values[x[:, 0].astype(int), 3] / 5 + 1)
    test = dataset.arrays["x_test"][:, 0].astype(int)
    np.testing.assert_array_equal(dataset.arrays["y_test"][:, 0], values[test, 3] / 5 + 1)
    assert dataset.arrays["y_test"].dtype == np.int64


def test_text_labels_of_other_lengths_in_other_blocks(tmp_path):
    labels = np.array(["a", "much longer", "of"])[np.arange(ROWS) // BLOCK % 3]
    path = write(tmp_path / "t.parquet", matrix(), labels=labels)
    dataset = made(path, task="classes", target=("kind",))
    assert dataset.facts["labels"] == ["a", "much longer", "of"]
    x, y = epoch(dataset)
    np.testing.assert_array_equal(np.array(dataset.facts["labels"])[y[:, 0].astype(int)],
                                  labels[x[:, 0].astype(int)])  # fmt: skip


def test_a_class_that_is_never_trained_on_is_refused(tmp_path):
    values = matrix()
    values[:, 3] = (
        np.arange(ROWS) // BLOCK == made(write(tmp_path / "t.npy", values)).source.blocks[0]
    )
    write(tmp_path / "t.npy", values)
    made(tmp_path / "t.npy", task="classes")
    values[:, 3] = ~np.isin(np.arange(ROWS), trained(made(tmp_path / "t.npy").source))
    write(tmp_path / "t.npy", values)
    with pytest.raises(ConfigError, match="leaves no training row of class 1"):
        made(tmp_path / "t.npy", task="classes")


def test_digest_is_the_files_and_the_settings(path, tmp_path):
    digest = made(path).digest
    again = shutil.copy(path, tmp_path / f"elsewhere{path.suffix}")
    assert digest == made(path).digest == made(again).digest
    for changes in (
        {"seed": 1}, {"features": ("0", "2", "1")}, {"standardise": True}, {"test": 0.3}, {"cap": BLOCK},
    ):  # fmt: skip
        assert made(path, **changes).digest != digest
    values = matrix()
    values[77, 2] = np.nextafter(values[77, 2], 0)
    assert made(write(path, values)).digest != digest


def test_a_streamed_set_is_not_written_a_second_time(path, tmp_path):
    assert data.save(made(path), tmp_path / "data") == path
    assert not (tmp_path / "data").exists()


def _shorter(path):
    os.truncate(path, path.stat().st_size - 8)


def _empty(path):
    os.truncate(path, 0)


def _one_value(path):
    about = path.stat()
    with path.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"12345678")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns + 1))


def _replaced(path):
    write(path.with_name(f"other{path.suffix}"), matrix() + 1).replace(path)


@pytest.mark.parametrize("change", [_shorter, _empty, _one_value, _replaced, Path.unlink])
def test_a_file_that_changes_during_training_ends_it(path, change):
    blocks = cut(made(path)).blocks(1)
    next(blocks)
    change(path)
    with pytest.raises(RuntimeError, match=r"was changed or removed while it was trained on"):
        list(blocks)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"block": 200}, "data.source=mmap: t.npy has 2 block(s) for 3 sets; make data.block smaller"),
        ({"block": 5000, "validation": 0.0}, "data.source=mmap: t.npy has 1 block(s) for 2 sets; make data.block smaller"),
        ({"cap": 15}, "data.cap=15: is less than one block of 16 rows"),
        ({"validation": 0.5, "test": 0.6}, "data.test=0.6: with data.validation=0.5 leaves no training"),
    ],
)  # fmt: skip
def test_what_cannot_be_split_is_refused(tmp_path, changes, says):
    path = write(tmp_path / "t.npy", matrix(16 * 14))
    with pytest.raises(ConfigError) as caught:
        made(path, **changes)
    assert str(caught.value) == says


def test_too_few_row_groups_are_refused(tmp_path):
    path = write(tmp_path / "t.parquet", matrix(), block=1000)
    with pytest.raises(ConfigError) as caught:
        made(path)
    says = "data.source=mmap: t.parquet has 1 block(s) for 3 sets; make its row groups smaller"
    assert str(caught.value) == says


@pytest.mark.parametrize("kind", [".csv", ".npz"])
def test_only_npy_and_parquet_are_streamed(tmp_path, kind):
    path = tmp_path / f"t{kind}"
    if kind == ".csv":
        np.savetxt(path, matrix(), delimiter=",", header="0,1,2,3", comments="")
    else:
        np.savez(path, **{str(i): column for i, column in enumerate(matrix().T)})
    with pytest.raises(ConfigError) as caught:
        made(path)
    assert str(caught.value) == f"data.source=mmap: needs a .npy or .parquet file, not t{kind}"


def test_columns_of_every_kind_are_the_same_streamed_and_in_memory(tmp_path):
    """Text beside truth values, too: side by side as they are, they would all become text."""
    rng = np.random.default_rng(3)
    text = [repr(v) for v in rng.normal(size=40).tolist()]
    columns = {
        "text": pa.array(text),
        "truth": pa.array(rng.integers(2, size=40).astype(bool)),
        "count": pa.array(rng.integers(0, 2**62, size=40, dtype=np.uint64)),
        "money": pa.array(rng.integers(900, size=40)).cast(pa.decimal128(30, 6)),
        "half": pa.array(rng.normal(size=40).astype(np.float16)),
        "kind": pa.array(np.array(["7", "8"])[rng.integers(2, size=40)]).dictionary_encode(),
    }
    parquet.write_table(pa.table(columns | {"y": pa.array(text[::-1])}), tmp_path / "t.parquet",
                        row_group_size=5)  # fmt: skip
    names = {"features": tuple(columns), "target": ("y",)}
    memory = made(tmp_path / "t.parquet", source="memory", **names).arrays
    streamed = made(tmp_path / "t.parquet", **names)
    x, y = epoch(streamed)
    seen = [np.c_[streamed.arrays[f"x_{s}"], streamed.arrays[f"y_{s}"]] for s in ("val", "test")]
    found = np.concatenate([np.c_[x, y], *seen])
    wanted = np.concatenate(
        [np.c_[memory[f"x_{s}"], memory[f"y_{s}"]] for s in ("train", "val", "test")]
    )
    np.testing.assert_array_equal(*(rows[np.lexsort(rows.T)] for rows in (found, wanted)))
