"""Where a job's checkpoints lie, and whose rows they hold."""

from __future__ import annotations

import json

import numpy as np
import pairs
import pytest

from pipeline.jobs.resolve import resolve
from pipeline.record import checkpoint
from pipeline.record.trace import NonFiniteLossError
from pipeline.stages.checkpoints import Checkpoints

OVERRIDES = ("backend=numpy", "data=linear", "data.n=20", "train.epochs=5", "train.checkpoint=0")


@pytest.fixture
def keep(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "HOME", tmp_path)

    def make(*more):
        values = pairs.composed((*OVERRIDES, *more))
        made = Checkpoints(resolve(values))
        made.about = {"run": "r", "config": values}
        return made

    return make


def write(keep, epoch):
    rows = {"loss": np.full(epoch, epoch)}
    keep.save(epoch=epoch, counted={}, state={"param/w": np.zeros(1)}, rows=rows)


def run(keep, epoch, *, goes_on, ends=None):
    """A job that writes one checkpoint and then ends."""
    job = keep()
    with job.held(goes_on=goes_on):
        write(job, epoch)
        if ends is not None:
            raise ends


def test_a_job_that_begins_anew_adds_nothing_to_what_is_there(keep):
    for epoch, goes_on in ((2, False), (3, False), (4, True)):
        with pytest.raises(KeyboardInterrupt):
            run(keep, epoch, goes_on=goes_on, ends=KeyboardInterrupt())
    np.testing.assert_array_equal(keep().load().rows["loss"], [3, 3, 3, 4, 4, 4, 4])


def test_a_job_that_is_through_leaves_none(keep):
    run(keep, 2, goes_on=False)
    assert keep().load() is None
    with pytest.raises(NonFiniteLossError):
        run(keep, 2, goes_on=False, ends=NonFiniteLossError(1, 0.1, np.nan))
    assert keep().load() is None


def test_of_two_at_once_the_first_writes(keep):
    first, second = keep(), keep()
    with first.held(goes_on=False):
        with second.held(goes_on=False):
            assert (first.wanted, second.wanted) == (True, False)
        write(first, 1)
    assert keep("optimizer.lr=0.5").folder != first.folder
    assert keep("train.log_every=7", "tracking.model=false").folder == first.folder
    assert keep("stages=[generate,train]").folder == first.folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"code.digest": "0"}, "was made by other code; begins anew"),
        ({"config.digest": "0"}, "was made with other settings; begins anew"),
        ({"data.digest": "0"}, "was made with other data; begins anew"),
        ({"environment.digest": "0"}, "was made with other versions, flags, CPU or device; begins"),
        ({"environment.digest": None}, "was made by other code; begins anew"),  # did not know it
        ({"config": {"seed": 1}}, "its stored config was altered; begins anew"),
        ({"config": None}, "its stored config was altered; begins anew"),
        ({"asked": "train"}, ""),
    ],
)
def test_what_another_job_left_is_not_gone_on_from(keep, capsys, change, said):
    job = keep()
    write(job, 1)
    path = job.folder / "checkpoint.json"
    index = json.loads(path.read_text())
    about = {k: v for k, v in (index["about"] | change).items() if v is not None}
    path.write_text(json.dumps(index | {"about": about}))
    assert (keep().load() is None) == bool(said)
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == bool(said)


def test_what_is_damaged_is_none(keep, capsys):
    first = keep()
    write(first, 1)
    next(first.folder.glob("rows-*")).write_bytes(b"")
    assert keep().load() is None
    assert "begins anew" in capsys.readouterr().err
