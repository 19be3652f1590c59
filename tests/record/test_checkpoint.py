from __future__ import annotations

import json
import shutil
from pathlib import Path

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


def _index(folder):
    return json.loads((folder / "checkpoint.json").read_text())


def _sign(folder, index):
    text = json.dumps(index | {"digest": checkpoint.digest_index(index)})
    (folder / "checkpoint.json").write_text(text)


def _double(index):
    return index | {"rows": [index["rows"][0], *index["rows"]]}


def _leave(index):
    part = index["rows"][0]
    return index | {"rows": [part | {"file": f"../{part['file']}"}, *index["rows"][1:]]}


def _lead_away(index):
    return index | {"state": index["state"] | {"file": "/etc/hostname"}}


@pytest.mark.parametrize(
    "change",
    [
        _double,
        _leave,
        _lead_away,
        lambda index: index | {"epoch": 1},
        lambda index: index | {"epoch": None},
        lambda index: index | {"rows": []},
        lambda index: index | {"rows": index["rows"][::-1]},
        lambda index: index | {"rows": 3},
        lambda index: {key: value for key, value in index.items() if key != "state"},
        lambda index: {key: value for key, value in index.items() if key != "epoch"},
    ],
)
def test_an_index_that_does_not_hold_together_is_refused_even_if_it_is_signed(tmp_path, change):
    for epoch in (1, 2):
        write(tmp_path, epoch)
    _sign(tmp_path, change(_index(tmp_path)))
    with pytest.raises(ValueError, match="holds no readable checkpoint"):
        checkpoint.load(tmp_path)


def test_every_altered_value_of_an_index_is_found(tmp_path):
    """Each of its numbers and names, without a new digest: none is read as if it were right."""
    write(tmp_path, 2, config={"lr": 0.1})
    index = _index(tmp_path)
    for changed in (
        index | {"epoch": 3},
        index | {"about": index["about"] | {"config": {"lr": 0.2}}},
        index | {"about": index["about"] | {"counted": {"waited": 0}}},
        {key: value for key, value in index.items() if key != "digest"},
        index | {"digest": None},
    ):
        (tmp_path / "checkpoint.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=r"checkpoint.json was altered"):
            checkpoint.load(tmp_path)
        assert checkpoint.about(tmp_path) is None


def test_any_byte_of_an_index_that_is_changed_is_one_line(tmp_path):
    write(tmp_path, 2)
    path = tmp_path / "checkpoint.json"
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x81]) + content[at + 1 :])
        with pytest.raises(ValueError, match=r"^.+$"):
            checkpoint.load(tmp_path)
        path.write_bytes(content[:at])
        with pytest.raises(ValueError, match=r"^.+$"):
            checkpoint.load(tmp_path)


def test_parts_that_hold_different_arrays_are_refused(tmp_path):
    write(tmp_path, 1)
    checkpoint.save(tmp_path, epoch=2, about={}, state={}, rows={"loss": np.ones(2)})
    with pytest.raises(ValueError, match="do not fit together"):
        checkpoint.load(tmp_path)


def test_odd_things_in_its_place_are_damage_and_can_be_cleared(tmp_path):
    folder = tmp_path / "c"
    (folder / "checkpoint.json").mkdir(parents=True)
    with pytest.raises(ValueError, match="no readable checkpoint"):
        checkpoint.load(folder)
    checkpoint.clear(folder)
    folder.write_text("a file")
    with pytest.raises(ValueError, match="no readable checkpoint"):
        checkpoint.load(folder)
    checkpoint.clear(folder)
    assert not folder.exists()


def test_a_checkpoint_of_the_version_before_is_of_other_code(tmp_path):
    """`tests/record/before/checkpoint` was written by version 1 of the format."""
    shutil.copytree(Path(__file__).parent / "before" / "checkpoint", tmp_path / "c")
    with pytest.raises(ValueError, match="was made by other code"):
        checkpoint.load(tmp_path / "c")
    assert set(checkpoint.about(tmp_path / "c")) <= {"run", "folder"}
    assert checkpoint.about(tmp_path / "c")["run"] == "1a2b"
