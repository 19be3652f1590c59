from __future__ import annotations

import dataclasses
import json
import pickle
import zipfile

import numpy as np
import pytest

from pipeline import data
from pipeline.config.types import ConfigError


def test_a_data_set_comes_back_bit_by_bit_under_its_digest(tools, tmp_path):
    made = tools.line()
    path = data.save(made, tmp_path / "new")
    assert path.name == f"{made.digest}.npz"
    back = data.load(path)
    assert (back.name, back.facts, back.digest) == (made.name, made.facts, made.digest)
    assert set(back.arrays) == set(made.arrays)
    for name, array in made.arrays.items():
        assert back.arrays[name].dtype == array.dtype
        assert back.arrays[name].tobytes() == array.tobytes()
    assert (back.inputs, back.outputs) == ((1,), 1)


def test_digest_is_the_seeds_and_sees_one_bit(tools):
    assert tools.line().digest == tools.line().digest != tools.line(seed=1).digest
    made = tools.line()
    arrays = {name: array.copy() for name, array in made.arrays.items()}
    assert dataclasses.replace(made, arrays=arrays).digest == made.digest
    arrays["y_test"][3] = np.nextafter(arrays["y_test"][3], 9)
    assert dataclasses.replace(made, arrays=arrays).digest != made.digest


def test_an_intact_file_is_left_alone(tools, tmp_path):
    path = data.save(tools.line(), tmp_path)
    before = path.stat()
    assert data.save(tools.line(), tmp_path) == path
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def _other_data(path):
    with np.load(path) as file:
        arrays = dict(file)
    arrays["y_train"] = arrays["y_train"] + 1
    np.savez(path, **arrays)


def _not_an_archive(path):
    path.write_bytes(b"no data at all")


@pytest.mark.parametrize("damage", [_cut, _flip, _other_data, _not_an_archive])
@pytest.mark.parametrize("again", [data.load, lambda p: data.save(data.Dataset(**_made), p.parent)])
def test_a_damaged_file_is_refused_and_what_to_do_is_said(tools, tmp_path, damage, again):
    made = tools.line()
    _made.update(name=made.name, arrays=made.arrays, facts=made.facts)
    path = data.save(made, tmp_path)
    damage(path)
    with pytest.raises(ValueError, match="delete it"):
        again(path)


_made: dict = {}


def test_nothing_is_unpickled(tools, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    path = data.save(tools.line(), tmp_path)
    with np.load(path) as file:
        arrays = dict(file)
    arrays["y_train"] = np.array([Bomb()], dtype=object)
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="cannot be read"):
        data.load(path)
    assert not (tmp_path / "exploded").exists()
    with zipfile.ZipFile(path) as archive:  # the bomb is live: pickle itself would set it off
        pickle.loads(archive.read("y_train.npy")[128:])
    assert (tmp_path / "exploded").exists()


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        data.load(tmp_path / "none.npz")


def test_facts_survive_as_plain_values(tools, tmp_path):
    facts = data.load(data.save(tools.line(), tmp_path)).facts
    assert json.loads(json.dumps(facts)) == {"truth": {"w": 0.1, "b": 0.3}, "noise": 0.15}


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError, match=r"data\.name=nothing: must be one of .*linear"):
        data.maker("nothing")
