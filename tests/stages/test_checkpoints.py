"""Where a job's checkpoints lie, and whose rows they hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pairs
import pytest

from pipeline.config.types import ConfigError
from pipeline.jobs.resolve import resolve
from pipeline.record import checkpoint
from pipeline.record.trace import NonFiniteLossError
from pipeline.stages.checkpoints import Checkpoints, find_interrupted

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


COUNTED = {"curves": {}, "checks": {}, "waited": 0, "best": None}


def write(keep, epoch, *, since=0):
    """A checkpoint after so many epochs of one update; its rows are those after epoch `since`."""
    rows = {key: np.full(epoch - since, epoch) for key in ("loss", "seconds")}
    state = {"param/w": np.zeros(1), "first/w": np.zeros(1)}
    keep.save(epoch=epoch, counted=COUNTED, state=state, rows=rows)


def change_index(folder, **changes):
    """Alter an index as somebody who knows how to sign it."""
    path = folder / "checkpoint.json"
    index = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(index | {"digest": checkpoint.digest_index(index)}))


def run(keep, epoch, *, goes_on, since=0, ends=None):
    """A job that writes one checkpoint and then ends."""
    job = keep()
    with job.held(goes_on=goes_on):
        write(job, epoch, since=since)
        if ends is not None:
            raise ends


def test_a_job_that_begins_anew_adds_nothing_to_what_is_there(keep):
    for epoch, since in ((2, 0), (3, 0), (4, 3)):
        with pytest.raises(KeyboardInterrupt):
            run(keep, epoch, goes_on=bool(since), since=since, ends=KeyboardInterrupt())
    np.testing.assert_array_equal(keep().load().rows["loss"], [3, 3, 3, 4])


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
    index = json.loads((job.folder / "checkpoint.json").read_text())
    about = {k: v for k, v in (index["about"] | change).items() if v is not None}
    change_index(job.folder, about=about)
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


def test_a_checkpoint_that_does_not_fit_its_job_is_none(keep, capsys):
    """An altered epoch, doubled or missing rows, and lost counts, in an index that is signed."""
    job = keep()
    write(job, 2)
    index = json.loads((job.folder / "checkpoint.json").read_text())
    counted = {key: value for key, value in COUNTED.items() if key != "checks"}
    for epoch, since, about, said in (
        (7, 0, {}, "epoch 7 of 5"),
        (3, 0, {}, ""),
        (3, 1, {}, "2 rows after epoch 3, not 3"),
        (3, -3, {}, "6 rows after epoch 3, not 3"),
        (3, 0, {"counted": counted}, "what the training counts is missing"),
        (3, 0, {"counted": []}, "what the training counts is missing"),
    ):
        checkpoint.clear(job.folder)
        write(job, epoch, since=since)
        change_index(job.folder, about=index["about"] | about)
        assert (keep().load() is None) == bool(said)
        err = capsys.readouterr().err
        assert said in err
        assert len(err.splitlines()) == bool(said)


def test_a_checkpoint_damaged_in_mid_run_ends_the_keeping_not_the_training(keep, capsys):
    job = keep()
    with job.held(goes_on=False):
        write(job, 1)
        (job.folder / "checkpoint.json").write_text("{}")
        write(job, 2, since=1)
        assert not job.due()
    assert "no more checkpoints" in capsys.readouterr().err
    assert not job.folder.exists()


def test_a_checkpoint_of_the_version_before_is_not_gone_on_from(tmp_path, keep):
    before = Path(__file__).parent.parent / "record" / "before" / "checkpoint"
    shutil.copytree(before, tmp_path / "c")
    with pytest.raises(ConfigError, match="resume=1a2b: was made by other code; run it anew"):
        find_interrupted("1a2b", key="resume")
