"""A run that was killed is found, and closed with what it wrote down.

The slow tests of the same are in ``tests/faults``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import call, environment, start
from stores import LONG, query, spooled, until

from pipeline.tracking import recover
from pipeline.tracking.store import prepare_store

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_a_killed_sweep_is_found_and_closed_with_what_it_wrote_down(tmp_path, fresh, monkeypatch):
    """Its parent too; and while it is alive, nobody touches it."""
    store = fresh(tmp_path / "outputs/mlflow.db")
    process = start("-m", "seed=0,1", *LONG, "train.epochs=1000000", cwd=tmp_path)
    try:
        until(lambda: query(store, "select count(*) from metrics")[0][0] > 4)
        monkeypatch.chdir(tmp_path)
        prepare_store(f"sqlite:///{store}")
        assert recover.recover_runs(stale=300) == []
        assert query(store, "select status from runs") == [("RUNNING",)] * 2
    finally:
        process.kill()
        process.communicate()
    (queue,) = tmp_path.glob("outputs/sweeps/**/queue.jsonl")
    written = spooled(queue.parent)
    assert len(written) > 4

    done = call("backend=numpy", "train.epochs=5", "tracking.model=false", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("was killed: KILLED") == 2
    runs = query(store, "select run_uuid, status, end_time from runs order by start_time")
    assert [status for _, status, _ in runs] == ["KILLED", "KILLED", "FINISHED"]
    assert None not in {end for *_, end in runs}
    run = runs[1][0]
    found = query(
        store,
        f"select key, value, timestamp, step from metrics where run_uuid = '{run}' order by key, step",
    )
    assert found == sorted(written, key=lambda row: (row[0], row[3]))
    assert not list(tmp_path.glob("outputs/**/queue.jsonl"))
    (config,) = tmp_path.glob(f"outputs/artifacts/{run}/artifacts/config.yaml")
    assert "numpy" in config.read_text()


KILLED_EARLY = """
import os, sys
from pathlib import Path
from pipeline.tracking import deliver, run, spool, store
def die(*args, **kwargs):
    os.kill(os.getpid(), 9)
store.prepare_store("sqlite:///outputs/mlflow.db")
if sys.argv[1] == "create":
    deliver.create_in_store = die
else:
    spool.Spool.append = die
run.create_run(experiment="e", artifacts="a", name="early", tags={}, folder=Path("outputs/run"))
"""


@pytest.mark.parametrize(("moment", "runs"), [("append", []), ("create", [("early", "KILLED")])])
def test_a_run_killed_before_the_store_knows_of_it_is_found(
    tmp_path, fresh, monkeypatch, moment, runs
):
    store = fresh(tmp_path / "outputs/mlflow.db")
    done = subprocess.run(
        [sys.executable, "-c", KILLED_EARLY, moment], cwd=tmp_path,
        env=environment() | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == -9
    assert query(store, "select 1 from runs") == []
    assert list(tmp_path.rglob("queue.jsonl"))
    monkeypatch.chdir(tmp_path)
    prepare_store(f"sqlite:///{store}")
    recover.close_dead_runs(stale=300)
    assert query(store, "select name, status from runs") == runs
    assert not list(tmp_path.rglob("queue.jsonl"))
    assert not list(tmp_path.glob("outputs/spool/*"))


def test_a_run_of_another_host_is_dead_when_its_heartbeat_is_old(tmp_path, monkeypatch, fresh):
    import mlflow

    monkeypatch.chdir(tmp_path)
    prepare_store(f"sqlite:///{fresh(tmp_path / 'mlflow.db')}")
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("e")
    beats = {"young": 10, "old": 1000}
    ids = {}
    for name, age in beats.items():
        beat = {
            "host": "elsewhere",
            "time": (time.time() - age) * 1000,
            "spool": "/nowhere",
            "mark": "",
        }
        ids[name] = client.create_run(experiment, tags={"heartbeat": json.dumps(beat)}).info.run_id
    ids["foreign"] = client.create_run(experiment).info.run_id
    (told,) = recover.recover_runs(stale=300)
    assert "elsewhere" in told
    status = {name: client.get_run(run).info.status for name, run in ids.items()}
    assert status == {"young": "RUNNING", "old": "KILLED", "foreign": "RUNNING"}
