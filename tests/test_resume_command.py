"""Interrupted and repeated commands, as a user meets them."""

from __future__ import annotations

import json
import signal
import sqlite3
import time

import numpy as np
import pytest
from commands import start

from pipeline.record import checkpoint
from pipeline.record.record import RunRecord

SLOW = ("backend=numpy", "data=wine", "model=softmax", "loss=cross_entropy", "train=minibatch",
        "optimizer=adam", "train.epochs=4000", "train.evaluate_every=null", "train.log_every=20",
        "train.checkpoint=0.05", "record.trace=full", "tracking.flush=0.2")  # fmt: skip
QUICK = ("backend=numpy,torch", "data=wine", "model=softmax", "loss=cross_entropy", "train.epochs=5",
         "tracking.model=false", "parity.probe=off", "parity.rtol=1e-3", "parity.atol=1e-6")  # fmt: skip


def call(*overrides, cwd, **flags):
    process = start(*overrides, cwd=cwd, **flags)
    out, err = process.communicate()
    return process.returncode, out, err


def query(cwd, sql):
    with sqlite3.connect(cwd / "outputs/mlflow.db") as store:
        return store.execute(sql).fetchall()


def records(cwd):
    return [RunRecord.load(path.parent) for path in sorted(cwd.rglob("record/record.json"))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("whole")
    code, _, err = call(*SLOW, cwd=cwd)
    assert code == 0, err
    assert not list((cwd / "outputs/checkpoints").glob("*/*"))  # done, so no more use
    return records(cwd)[0]


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGKILL, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, whole, how):
    process = start(
        *SLOW, "tracking.experiment=mine", "tracking.tags.team=blue", "tracking.note=Mine",
        cwd=tmp_path,
    )  # fmt: skip
    places = tmp_path / "outputs/checkpoints"
    end = time.monotonic() + 60
    while not list(places.glob("*/checkpoint.json")):
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(how)
    _, stopped = process.communicate()
    about = json.loads(next(places.glob("*/checkpoint.json")).read_text())
    run, epoch = about["about"]["run"], about["epoch"]
    assert 0 < epoch < 4000
    if how == signal.SIGTERM:
        assert f"python -m pipeline resume={run} goes on after epoch {epoch}\n" in stopped
    code, out, err = call(f"resume={run}", cwd=tmp_path)
    assert code == 0, err
    assert f"goes on after epoch {epoch} of run {run}" in out
    resumed = next(r for r in records(tmp_path) if r.about["status"] == "FINISHED")
    assert list(resumed.arrays) == list(whole.arrays)
    for key in set(whole.arrays) - {"seconds"}:
        np.testing.assert_array_equal(resumed.arrays[key], whole.arrays[key], err_msg=key)
    statuses = dict(query(tmp_path, "select run_uuid, status from runs"))
    assert statuses.pop(run) == "KILLED"
    assert list(statuses.values()) == ["FINISHED"]
    (new,) = statuses
    experiments = (
        "select distinct experiments.name from experiments join runs using (experiment_id)"
    )
    assert query(tmp_path, experiments) == [("mine",)]  # where the first one was, tags and all
    for tag, value in (("team", "blue"), ("mlflow.note.content", "Mine")):
        tagged = query(tmp_path, f"select run_uuid, value from tags where key='{tag}'")
        assert sorted(tagged) == sorted([(run, value), (new, value)])
    steps = query(tmp_path, f"select step from metrics where run_uuid='{new}' and key='train/loss'")
    assert len(steps) == len(set(steps))
    assert query(tmp_path, "select value from tags where key='resumed.from'") == [(run,)]
    code, _, err = call(f"resume={run}", cwd=tmp_path)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "no checkpoint of such a run" in err


def test_what_cannot_be_resumed_is_one_line(tmp_path):
    code, _, err = call("resume=nothing", cwd=tmp_path)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "resume=nothing" in err
    assert not list(tmp_path.rglob("*"))


@pytest.mark.long
def test_other_code_and_other_settings_are_refused(tmp_path):
    process = start(*SLOW, cwd=tmp_path)
    places = tmp_path / "outputs/checkpoints"
    while not list(places.glob("*/checkpoint.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    path = next(places.glob("*/checkpoint.json"))
    about = json.loads(path.read_text())
    run = about["about"]["run"]
    code, _, err = call(f"resume={run}", "optimizer.lr=1", cwd=tmp_path)
    assert (code, "optimizer.lr" in err) == (2, True)
    config = about["about"]["config"]
    altered = config | {"optimizer": config["optimizer"] | {"lr": 0.5}}
    for change, said in (
        ({"code.digest": "0"}, "other code"),
        ({"data.digest": "0"}, "other data"),
        ({"environment.digest": "0"}, "other versions, flags, CPU or device"),
        ({"environment.digest": None}, "other code"),  # of code that did not know it
        ({"config": altered}, "its stored config was altered"),
        ({"config": None}, "its stored config was altered"),
    ):
        left = {k: v for k, v in (about["about"] | change).items() if v is not None}
        index = about | {"about": left}
        path.write_text(json.dumps(index | {"digest": checkpoint.digest_index(index)}))
        code, _, err = call(f"resume={run}", cwd=tmp_path)
        assert (code, len(err.splitlines())) == (2, 1)
        assert said in err


@pytest.mark.long
def test_seeds_are_compared_by_their_scores_where_starts_differ(tmp_path):
    sweep = ("backend=numpy,torch", "seed=0,1,2,3", *QUICK[1:], "parity.margin=0.5")
    code, out, err = call("-m", *sweep, cwd=tmp_path)
    assert code == 0, err
    assert "accuracy of numpy and torch: equivalent: difference 0" in out
    told = "select value from tags where key='equivalence.accuracy of numpy and torch'"
    assert query(tmp_path, told)[0][0].endswith("margin ±0.5, 4 pairs")
    tables = query(tmp_path, "select value from tags where key='mlflow.loggedArtifacts'")
    assert all(
        name in tables[0][0] for name in ("runs.json", "leaderboard.json", "differences.json")
    )
    assert "Over seeds" in next(tmp_path.rglob("report.html")).read_text()


@pytest.mark.long
def test_a_repeated_sweep_runs_only_what_is_missing(tmp_path):
    code, out, err = call("-m", *QUICK, "optimizer.lr=1e-2", cwd=tmp_path)
    assert code == 0, err
    first = {
        run
        for (run,) in query(tmp_path, "select run_uuid from tags where key='kind' and value='run'")
    }
    assert len(first) == 2
    code, out, err = call("-m", *QUICK, "optimizer.lr=1e-2,1e-1", cwd=tmp_path)
    assert code == 0, err
    assert out.count("finished before, as run") == 2
    runs = {
        run
        for (run,) in query(tmp_path, "select run_uuid from tags where key='kind' and value='run'")
    }
    assert len(runs) == 4
    (parent,) = query(
        tmp_path, "select run_uuid from tags where key like 'linked.%' group by run_uuid"
    )[0]
    linked = {
        key
        for (key,) in query(
            tmp_path, f"select key from tags where run_uuid='{parent}' and key like 'linked.%'"
        )
    }
    assert {key.split(".")[-1] for key in linked} == first
    report = sorted(tmp_path.glob("outputs/sweeps/*/*/parity.json"))[-1]
    assert len(json.loads(report.read_text())["pairs"]) == 2  # linked ones are compared, too
    again = ("backend=numpy", "seed=0,0", *QUICK[1:], "optimizer.lr=1e-2", "sweep.rerun=true")
    code, out, err = call("-m", *again, cwd=tmp_path)
    assert code == 0, err
    assert "finished before" not in out
    for links in (1, 2):  # the second job is the first one's; then both are an earlier sweep's
        code, out, err = call("-m", *again[:-1], "train.epochs=6", cwd=tmp_path)
        assert code == 0, err
        assert out.count("finished before, as run") == links
        assert "never started" not in out
        runs = sorted(tmp_path.glob("outputs/sweeps/*/*/parity.json"))[-1].read_text()
        assert len(json.loads(runs)["alone"]) == 1
    assert len(query(tmp_path, "select 1 from tags where key='kind' and value='run'")) == 7


@pytest.mark.long
def test_what_asks_for_more_or_is_run_elsewhere_was_not_finished_before(tmp_path):
    sweep = ("backend=numpy", "seed=0,1", *QUICK[1:])
    unscored = ("stages=[generate,train]",)
    for more, flags, links in (
        (unscored, {}, 0),
        ((), {}, 0),  # wants scores
        (unscored, {}, 2),  # of which those with scores have more than is asked
        (("tracking.model=true",), {}, 0),
        ((), {"MKL_CBWR": "COMPATIBLE"}, 0),  # nothing that NumPy here listens to, but it might
    ):
        code, out, err = call("-m", *sweep, *more, cwd=tmp_path, **flags)
        assert code == 0, err
        assert out.count("finished before, as run") == links, (more, flags)
