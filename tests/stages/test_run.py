"""What a run leaves when something after its training fails."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.record.record import RunRecord
from pipeline.stages import run


@pytest.mark.parametrize("failing", ["log", "_say_without_gradient"])
def test_the_record_is_saved_before_anything_that_may_fail(tmp_path, monkeypatch, failing):
    def fail(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr(run, failing, fail)
    config = {"backend": {"name": "numpy"}}
    record = RunRecord(about={"config": config}, arrays={"loss": np.ones(3)})
    tracked = SimpleNamespace(id="1a2b", log_file=lambda path: None)
    job = SimpleNamespace(settings=SimpleNamespace(tracking=SimpleNamespace(max_points=10)))
    with (
        pytest.raises(BrokenPipeError),
        run._account(record, tracked, job=job, folder=tmp_path),
    ):
        pass
    saved = RunRecord.load(tmp_path / "record")
    assert (saved.about["status"], saved.about["run"], saved.steps) == ("FINISHED", "1a2b", 3)
