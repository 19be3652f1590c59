from __future__ import annotations

import stat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import storage

floats = hnp.arrays(st.sampled_from([np.float32, np.float64]), hnp.array_shapes(min_dims=0))


def test_a_file_is_written_whole_and_into_new_folders(tmp_path):
    path = tmp_path / "a" / "b" / "c.bin"
    storage.write_atomic(path, lambda file: file.write(b"whole"))
    assert path.read_bytes() == b"whole"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failing_writer_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "c.bin"
    storage.write_atomic(path, lambda file: file.write(b"old"))

    def half(file):
        file.write(b"ne")
        file.flush()
        assert path.read_bytes() == b"old"
        raise error

    with pytest.raises(type(error)):
        storage.write_atomic(path, half)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"c.bin": b"old"}


@given(floats)
def test_array_digest_is_of_content_not_of_layout(array):
    strided = np.stack([array, array], axis=-1)[..., 0]
    same = {"b": np.array(array, order="F"), "a": strided}
    assert storage.array_digest({"a": array, "b": array}) == storage.array_digest(same)


@given(floats, st.data())
def test_array_digest_sees_one_bit(array, data):
    if not array.size:
        return
    other = np.array(array)  # contiguous and its own
    index = data.draw(st.integers(0, other.nbytes - 1))
    other.reshape(-1).view(np.uint8)[index] ^= 1 << data.draw(st.integers(0, 7))
    assert storage.array_digest({"a": array}) != storage.array_digest({"a": other})


def test_array_digest_sees_name_dtype_and_shape():
    zeros = np.zeros((2, 3), np.float32)
    variants = [{"a": zeros}, {"b": zeros}, {"a": zeros.T}, {"a": zeros.astype(np.int32)},
                {"a": zeros.ravel()}, {"a": zeros, "b": zeros[:0]}, {}]  # fmt: skip
    assert len({storage.array_digest(v) for v in variants}) == len(variants)
    scalar = np.zeros(())
    assert storage.array_digest({"a": scalar}) != storage.array_digest({"a": scalar[None]})


def test_tree_digest_sees_content_and_names_of_what_matches(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.py").write_text("x")
    first = storage.tree_digest(tmp_path)
    (tmp_path / "note.txt").write_text("ignored")
    assert storage.tree_digest(tmp_path) == first
    (tmp_path / "sub" / "a.py").rename(tmp_path / "sub" / "b.py")
    renamed = storage.tree_digest(tmp_path)
    (tmp_path / "sub" / "b.py").write_text("y")
    assert len({first, renamed, storage.tree_digest(tmp_path)}) == 3


def test_file_digest_is_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert storage.file_digest(tmp_path / "f") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
