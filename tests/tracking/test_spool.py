"""The queue of a run on disk."""

from __future__ import annotations

import os

import pytest

from pipeline.storage import is_full
from pipeline.tracking.spool import Spool, take_over


def test_a_spool_belongs_to_its_owner_as_long_as_it_lives(tmp_path):
    place = Spool(tmp_path / "s")
    place.append({"a": 1}, {"b": 2})
    assert take_over(tmp_path / "s") is None
    (_, end), _ = place.messages()
    place.advance(end, "id")
    place.release()
    with (tmp_path / "s/queue.jsonl").open("ab") as file:
        file.write(b'{"c": ')
    other = take_over(tmp_path / "s")
    assert other.run == "id"
    assert [message for message, _ in other.messages()] == [{"b": 2}]
    other.append({"d": 4})
    assert [message for message, _ in other.messages()] == [{"b": 2}, {"d": 4}]
    other.remove()
    assert not (tmp_path / "s").exists()


def test_a_full_disk_leaves_whole_lines_and_names_the_file(tmp_path, monkeypatch):
    place = Spool(tmp_path / "s")
    place.append({"a": 1})
    real = os.write

    def write(handle, data):
        if len(data) > 4:
            return real(handle, data[:4])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match=r"No space left on device: '.*queue\.jsonl'") as caught:
        place.append({"b": 2, "c": 3})
    assert is_full(caught.value)
    monkeypatch.undo()
    place.append({"d": 4})
    assert [message for message, _ in place.messages()] == [{"a": 1}, {"d": 4}]
    place.remove()
