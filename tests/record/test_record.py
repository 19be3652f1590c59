from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import storage
from pipeline.record.record import FORMAT, RunRecord, _digest

ABOUT = {"config": {"backend": {"name": "torch"}, "train": {"loop": "fit"}}, "scores": {"mse": 0.1}}
arrays = st.dictionaries(
    st.sampled_from(["loss", "lr", "param/w", "first/w", "prediction"]),
    hnp.arrays(st.sampled_from([np.float32, np.float64]), hnp.array_shapes(min_dims=0, max_dims=3)),
)


@given(kept=arrays)
def test_a_record_comes_back_bit_by_bit(tmp_path_factory, kept):
    folder = tmp_path_factory.mktemp("record")
    RunRecord(about=ABOUT, arrays=kept).save(folder)
    back = RunRecord.load(folder)
    assert back.about == ABOUT
    assert list(back.arrays) == list(kept)
    for name, array in kept.items():
        assert (back.arrays[name].dtype, back.arrays[name].shape) == (array.dtype, array.shape)
        assert back.arrays[name].tobytes() == array.tobytes()


def test_named_backend_label_and_steps():
    record = RunRecord(about=ABOUT, arrays={"loss": np.zeros(3), "param/w": np.ones(4),
                                            "parameter": np.ones(1)})  # fmt: skip
    assert list(record.named("param")) == ["w"]
    assert (record.backend, record.label(), record.steps) == ("torch", "torch (fit)", 3)
    assert RunRecord(about=ABOUT).steps == 0


@pytest.fixture
def folder(tmp_path):
    RunRecord(about=ABOUT, arrays={"loss": np.ones(3), "param/w": np.ones(4)}).save(tmp_path)
    return tmp_path


def _flip(folder):
    path = folder / "param" / "w.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def rewrite(folder, *, signed=True, **changes):
    """Change entries of a record's index, and its digest as well if it shall be signed."""
    path = folder / "record.json"
    about = json.loads(path.read_text()) | changes
    if signed:
        about["digest"] = _digest({key: about[key] for key in about if key != "digest"})
    path.write_text(json.dumps({key: value for key, value in about.items() if value is not None}))


def _newer(folder):
    rewrite(folder, format=FORMAT + 1)


def _shorten(folder):
    """An array is taken off the list, as if it had never been recorded."""
    arrays = json.loads((folder / "record.json").read_text())["arrays"]
    rewrite(folder, arrays=dict(list(arrays.items())[1:]), signed=False)


def _unsign(folder):
    rewrite(folder, digest=None, signed=False)


def _fact(folder):
    path = folder / "record.json"
    path.write_text(path.read_text().replace("0.1", "0.2"))


def test_a_runs_id_may_come_later(folder):
    path = folder / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"run": "1a2b"}))
    assert RunRecord.load(folder).about == ABOUT | {"run": "1a2b"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip, "missing or was altered"),
        (lambda folder: (folder / "loss.npy").unlink(), "missing or was altered"),
        (lambda folder: (folder / "record.json").unlink(), "no readable record"),
        (lambda folder: (folder / "record.json").write_text('{"format": 1'), "no readable record"),
        (lambda folder: (folder / "record.json").write_text("{}"), "no readable record"),
        (lambda folder: (folder / "record.json").write_text("[]"), "no readable record"),
        (_newer, "newer version"),
        (_fact, "record.json was altered"),
        (_shorten, "record.json was altered"),
        (_unsign, "record.json was altered"),
    ],
)
def test_a_damaged_record_says_so(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        RunRecord.load(folder)


def test_a_pickled_array_is_neither_written_nor_read(folder, tmp_path):
    objects = np.array([{"a": 1}], dtype=object)
    with pytest.raises(ValueError, match="pickle|Object"):
        RunRecord(about=ABOUT, arrays={"loss": objects}).save(tmp_path / "other")
    assert not (tmp_path / "other" / "record.json").exists()
    from pipeline.storage import file_digest

    np.save(folder / "loss.npy", objects, allow_pickle=True)
    about = json.loads((folder / "record.json").read_text())
    rewrite(folder, arrays=about["arrays"] | {"loss": file_digest(folder / "loss.npy")})
    with pytest.raises(ValueError, match="pickle|Object"):
        RunRecord.load(folder)


def test_a_record_of_the_version_before_is_read():
    """`tests/record/before/record` was written before records were a package."""
    back = RunRecord.load(Path(__file__).parent / "before" / "record")
    assert (back.backend, back.about["run"], back.steps) == ("numpy", "1a2b", 3)
    np.testing.assert_array_equal(back.arrays["param/w"], np.arange(8.0).reshape(4, 2))


@pytest.mark.parametrize("last", range(1, 9))
def test_saving_again_is_the_old_record_or_the_new_one_at_every_crash(tmp_path, monkeypatch, last):
    """The process ends at the n-th write or rename, for every n; then a save again mends it."""
    old = {"loss": np.zeros(3), "param/w": np.zeros(4)}
    new = {"loss": np.ones(3), "param/w": np.ones(4), "first/w": np.ones(1)}
    RunRecord(about=ABOUT, arrays=old).save(tmp_path)
    calls = 0

    def count(original):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls >= last:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.storage.write_atomic", count(storage.write_atomic))
        patch.setattr(Path, "replace", count(Path.replace))
        if last <= 7:
            with pytest.raises(KeyboardInterrupt):
                RunRecord(about=ABOUT, arrays=new).save(tmp_path)
        else:
            RunRecord(about=ABOUT, arrays=new).save(tmp_path)
            assert calls == 7
    back = RunRecord.load(tmp_path)
    wanted = old if last <= 4 else new
    assert list(back.arrays) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(back.arrays[name], array)
    RunRecord(about=ABOUT, arrays=new).save(tmp_path)
    assert list(RunRecord.load(tmp_path).arrays) == list(new)
    assert not list(tmp_path.rglob("*.new"))


@pytest.mark.parametrize("name", ["../loss", "/tmp/loss", "param/../../loss", "out/loss", "a\0b"])
def test_no_array_lies_outside_of_its_record(tmp_path, folder, name):
    other = tmp_path.parent / f"{tmp_path.name}-other"
    RunRecord(about=ABOUT, arrays={"loss": np.ones(3)}).save(other)
    (folder / "out").symlink_to(other)
    with pytest.raises(ValueError, match="names an array outside of it"):
        RunRecord(about=ABOUT, arrays={name: np.ones(3)}).save(folder)
    digest = json.loads((folder / "record.json").read_text())["arrays"]["loss"]
    rewrite(folder, arrays={name: digest})
    with pytest.raises(ValueError, match="names an array outside of it"):
        RunRecord.load(folder)
