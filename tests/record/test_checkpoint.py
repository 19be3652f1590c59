from __future__ import annotations

import numpy as np
import pytest

from pipeline.record import checkpoint


def write(folder, epoch, n=3, **more):
    rows = {"loss": np.full(n, epoch, np.float32), "param/w": np.full((n, 2, 2), epoch + 0.5)}
    state = {"param/w": np.full((2, 2), epoch), "slot/m/w": np.full((2, 2), -epoch, np.float32)}
    about = {"run": "r", "counted": {"waited": epoch}} | more
    checkpoint.save(folder, epoch=epoch, about=about, state=state, rows=rows)


def test_rows_add_up_and_the_state_is_the_newest(tmp_path):
    assert checkpoint.load(tmp_path) is None
    assert checkpoint.about(tmp_path) is None
    for epoch in (1, 2, 5):
        write(tmp_path, epoch)
    found = checkpoint.load(tmp_path)
    assert (found.epoch, found.about["counted"]) == (5, {"waited": 5})
    np.testing.assert_array_equal(found.rows["loss"], np.repeat([1, 2, 5], 3).astype(np.float32))
    assert found.rows["param/w"].shape == (9, 2, 2)
    assert found.named("slot/m")["w"].dtype == np.float32
    np.testing.assert_array_equal(found.named("param")["w"], np.full((2, 2), 5))
    assert len(list(tmp_path.glob("state-*"))) == 1
    checkpoint.clear(tmp_path)
    assert not tmp_path.exists()


def test_a_crash_between_files_leaves_the_one_before(tmp_path, monkeypatch):
    write(tmp_path, 1)
    original = checkpoint.storage.write_atomic

    def crash(path, write):
        if path.name == "checkpoint.json":
            raise KeyboardInterrupt
        original(path, write)

    monkeypatch.setattr(checkpoint.storage, "write_atomic", crash)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 2)
    assert checkpoint.load(tmp_path).epoch == 1
    monkeypatch.undo()
    write(tmp_path, 2, n=4)  # what it does after going on from epoch 1
    np.testing.assert_array_equal(checkpoint.load(tmp_path).rows["loss"], [1, 1, 1, 2, 2, 2, 2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble, np.uint64, np.int64])
def test_bits_come_back(tmp_path, dtype):
    value = (np.arange(6) / dtype(3)).astype(dtype).reshape(2, 3)
    scalar = np.asarray(value[1, 1])
    checkpoint.save(tmp_path, epoch=1, about={}, state={"param/w": value, "param/b": scalar},
                    rows={"loss": value.ravel()})  # fmt: skip
    found = checkpoint.load(tmp_path)
    for one, other in ((value, found.state["param/w"]), (scalar, found.state["param/b"]),
                       (value.ravel(), found.rows["loss"])):  # fmt: skip
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["state-00000001.safetensors", "rows-00000001.safetensors"])
def test_damage_is_told(tmp_path, name):
    write(tmp_path, 1)
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="altered"):
        checkpoint.load(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="missing"):
        checkpoint.load(tmp_path)
    (tmp_path / "checkpoint.json").write_text("{")
    with pytest.raises(ValueError, match="no readable checkpoint"):
        checkpoint.load(tmp_path)
    assert checkpoint.about(tmp_path) is None
