"""What a run leaves when something after its training fails."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.record.record import RunRecord
from pipeline.stages import account


def close_books(record, tracked, *, folder, raising):
    """End a training without a fault, while what follows raises; return the record as saved."""
    job = SimpleNamespace(settings=SimpleNamespace(tracking=SimpleNamespace(max_points=10)))
    with pytest.raises(raising), account.account(record, tracked, job=job, folder=folder):
        pass
    return RunRecord.load(folder / "record")


@pytest.mark.parametrize("failing", ["log", "_say_without_gradient"])
def test_the_record_is_saved_before_anything_that_may_fail(tmp_path, monkeypatch, failing):
    def fail(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr(account, failing, fail)
    config = {"backend": {"name": "numpy"}}
    record = RunRecord(about={"config": config}, arrays={"loss": np.ones(3)})
    tracked = SimpleNamespace(id="1a2b", log_file=lambda path: None)
    saved = close_books(record, tracked, folder=tmp_path, raising=BrokenPipeError)
    assert (saved.about["status"], saved.about["run"], saved.steps) == ("FINISHED", "1a2b", 3)


def test_a_record_whose_saving_is_interrupted_is_saved_all_the_same(tmp_path, monkeypatch):
    """The signal's exception comes in the middle, and goes on when the books are closed."""
    logged = []
    original = RunRecord.save

    def interrupted(record, folder):
        monkeypatch.setattr(RunRecord, "save", original)
        (folder / "param").mkdir(parents=True)
        (folder / "param/w.npy").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(RunRecord, "save", interrupted)
    monkeypatch.setattr(
        account, "log", lambda record, *_, **__: logged.append(record.about["status"])
    )
    arrays = {"loss": np.ones(3), "param/w": np.arange(4.0)}
    record = RunRecord(about={"config": {"backend": {"name": "numpy"}}}, arrays=arrays)
    tracked = SimpleNamespace(
        id="1a2b", log_file=lambda path: None, log_folder=lambda *path: logged.append(path[1])
    )
    saved = close_books(record, tracked, folder=tmp_path, raising=KeyboardInterrupt)
    assert (saved.about["status"], saved.steps) == ("KILLED", 3)
    np.testing.assert_array_equal(saved.arrays["param/w"], np.arange(4.0))
    assert logged == ["KILLED", "record"]
