"""Fingerprints of the batches that a loop took: once, in order, and as far as it came."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from pipeline import backends, seeds
from pipeline.data import batches
from pipeline.data.batches import Batches, Seen, fingerprints

BATCH = ("samples", "sequence", "x", "lengths", "step", "epoch")
ROWS = ("x_rows", "y_rows")


def made(*, shuffle, n=20, size=8, group=1):
    rng = np.random.default_rng(2)
    return Batches(x=rng.normal(size=(n, 3)), y=rng.normal(size=(n, 2)), size=size,
                   shuffle=shuffle, stream=partial(seeds.stream, 0), group=group)  # fmt: skip


def updates(source, epoch, group=1):
    """The updates of an epoch, each a list of batches."""
    parts = [(x[i : i + source.size], y[i : i + source.size], 1.0)
             for x, y in source.blocks(epoch) for i in range(0, len(x), source.size)]  # fmt: skip
    return [parts[i : i + group] for i in range(0, len(parts), group)]


def noted(source, epochs, *, seen=None, first=1, group=1):
    """What a loop over some epochs notes, the first of them being epoch `first`."""
    seen = seen or Seen(fixed=source.fixed)
    for epoch in range(first, first + epochs):
        for i, parts in enumerate(updates(source, epoch, group)):
            k = (epoch - 1) * len(updates(source, epoch, group)) + i + 1
            seen.note(k, epoch, parts, np.asarray)
    return seen


def assert_same(one, other):
    assert set(one) == set(other)
    for key, values in one.items():
        np.testing.assert_array_equal(values, other[key], err_msg=key)


@pytest.mark.parametrize("shuffle", [False, True])
def test_every_batch_of_every_epoch_has_its_fingerprints(shuffle):
    source = made(shuffle=shuffle)
    found = noted(source, 3).arrays(9)
    assert set(found) == {f"order/{key}" for key in (*BATCH, *ROWS)}
    assert found["order/step"].tolist() == list(range(1, 10))
    assert found["order/epoch"].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert found["order/lengths"].tolist() == [8, 8, 4] * 3
    for k, (key, epoch) in enumerate((key, epoch) for epoch in (1, 2, 3) for key in range(3)):
        x, y, _ = updates(source, epoch)[key][0]
        alone = fingerprints(x, y, lengths=[len(x)])
        for name in ("samples", "sequence", "x"):
            assert found[f"order/{name}"][k] == alone[name][0]
    epochs = {tuple(found["order/sequence"][i : i + 3]) for i in (0, 3, 6)}
    assert len(epochs) == (3 if shuffle else 1)
    rows = 60 if shuffle else 20  # of epochs that are all the same those of the first
    assert [len(found[f"order/{key}"]) for key in ROWS] == [rows, rows]
    if not shuffle:
        whole = fingerprints(source.x, source.y, lengths=[20])
        np.testing.assert_array_equal(found["order/x_rows"], whole["x_rows"])


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("done", [0, 1, 4, 8])
def test_of_an_update_that_was_not_made_there_is_nothing(shuffle, done):
    whole = noted(made(shuffle=shuffle), 3).arrays(9)
    found = noted(made(shuffle=shuffle), 3).arrays(done)
    for key in BATCH:
        np.testing.assert_array_equal(found[f"order/{key}"], whole[f"order/{key}"][:done])


def test_the_batches_of_one_update_share_its_number():
    """Two batches an update, the last update of an epoch a single one."""
    found = noted(made(shuffle=True), 2, group=2).arrays(4)
    assert found["order/step"].tolist() == [1, 1, 2, 3, 3, 4]
    assert noted(made(shuffle=True), 2, group=2).arrays(3)["order/step"].tolist() == [1, 1, 2, 3, 3]
    fixed = noted(made(shuffle=False), 2, group=2).arrays(4)
    assert fixed["order/step"].tolist() == [1, 1, 2, 3, 3, 4]
    assert fixed["order/epoch"].tolist() == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("cuts", [(1,), (2,), (1, 2)])
def test_what_goes_on_in_another_process_is_as_if_it_had_not_stopped(shuffle, cuts):
    """Each process takes what is new for its checkpoint; the next one begins with all of it."""
    source = made(shuffle=shuffle)
    whole = noted(source, 4).arrays(12)
    kept, begun = [], 0
    for until in (*cuts, 4):
        seen = Seen(fixed=source.fixed)
        if kept:
            seen.restore({key: np.concatenate([each[key] for each in kept]) for key in kept[0]})
        noted(source, until - begun, seen=seen, first=begun + 1)
        kept.append(seen.take())
        begun = until
    assert_same(seen.arrays(12), whole)
    assert not len(seen.take()["order/step"])  # nothing is taken twice


def test_what_is_taken_is_what_is_new():
    source = made(shuffle=True)
    seen = noted(source, 1)
    assert seen.take()["order/step"].tolist() == [1, 2, 3]
    assert seen.take()["order/step"].tolist() == []
    noted(source, 1, seen=seen, first=2)
    assert seen.take()["order/step"].tolist() == [4, 5, 6]
    assert seen.arrays(6)["order/step"].tolist() == [1, 2, 3, 4, 5, 6]


def test_many_batches_are_read_in_between_and_the_rows_are_capped(monkeypatch):
    source = made(shuffle=True)
    whole = noted(source, 3).arrays(9)
    monkeypatch.setattr(Seen, "_HELD", 500)  # bytes: a batch of 8 has 320
    assert_same(noted(source, 3).arrays(9), whole)
    monkeypatch.setattr(Seen, "_ROWS", 33)
    capped = noted(source, 3).arrays(9)
    for key in BATCH:
        np.testing.assert_array_equal(capped[f"order/{key}"], whole[f"order/{key}"])
    for key in ROWS:
        np.testing.assert_array_equal(capped[f"order/{key}"], whole[f"order/{key}"][:33])


def test_a_run_without_an_update_has_an_empty_order():
    for fixed in (False, True):
        found = Seen(fixed=fixed).arrays(0)
        assert {len(values) for values in found.values()} == {0}
        assert found["order/sequence"].dtype == np.uint64


def test_fingerprints_tell_samples_their_order_and_their_targets_apart():
    x, y = np.random.default_rng(3).normal(size=(2, 12, 2))
    lengths, base = [5, 7], fingerprints(x, y, lengths=[5, 7])
    order = np.r_[4, 0, 1, 2, 3, 5:12]
    moved = fingerprints(x[order], y[order], lengths=lengths)
    np.testing.assert_array_equal(moved["samples"], base["samples"])
    assert (moved["sequence"] != base["sequence"]).tolist() == [True, False]
    np.testing.assert_array_equal(moved["x_rows"], base["x_rows"][order])
    other = fingerprints(x, np.roll(y, 1, axis=0), lengths=lengths)
    np.testing.assert_array_equal(other["x"], base["x"])
    assert (other["samples"] != base["samples"]).all()
    one_bit = x.copy()
    one_bit[8, 1] = np.nextafter(one_bit[8, 1], 9)
    bit = fingerprints(one_bit, y, lengths=lengths)
    for key in ("samples", "sequence", "x"):
        assert (bit[key] != base[key]).tolist() == [False, True]
    assert np.flatnonzero(bit["x_rows"] != base["x_rows"]).tolist() == [8]


LOOPS = [(b, loop) for b in backends.names() for loop in backends.traits(b)["LOOPS"]]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("backend", "loop"), LOOPS)
def test_every_loop_notes_the_batches_that_it_takes(tools, backend, loop, shuffle, dtype):
    """The same in all backends, and those of the rows as they lie in the run's precision."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
    values = {"w": rng.normal(size=(3, 2)), "b": np.zeros(2)}
    run = tools.train(backend, "dense", x=x, y=y, values=values, rates=np.full(6, 1e-3), size=8,
                      shuffle=shuffle, loop=loop, dtype=dtype)  # fmt: skip
    assert_same(run.seen.arrays(6), noted(run.batches, 2).arrays(6))


@pytest.mark.parametrize("backend", backends.names())
@pytest.mark.parametrize("group", [1, 2])
def test_cut_gives_the_batches_of_the_loop_and_their_shares(tools, backend, group):
    tools.build(backend, "dense", values=None if backend != "numpy" else
                {"w": np.zeros((3, 2)), "b": np.zeros(2)}, inputs=(3,), outputs=2)  # fmt: skip
    source = made(shuffle=True, group=group)
    found = list(backends.load(backend).cut(source, 2, group=group, device="cpu", dtype="float32"))
    wanted = updates(source, 2, group)
    shares = batches.cuts(20, size=8, group=group)[1]
    assert [len(parts) for parts in found] == [len(parts) for parts in wanted]
    one, other = ([part for parts in cut for part in parts] for cut in (found, wanted))
    for (x, y, share), (a, b, _), true in zip(one, other, shares, strict=True):
        np.testing.assert_array_equal(x, a.astype(np.float32))
        np.testing.assert_array_equal(y, b.astype(np.float32))
        assert share == true
