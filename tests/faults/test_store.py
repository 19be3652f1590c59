"""The store's faults: many processes on a fresh one, a server that stops, hangs or dies."""

from __future__ import annotations

import signal
import sys
import time

import numpy as np
import pytest

from pipeline.record.record import RunRecord

SMALL = ("backend=numpy", "record.trace=scalars", "tracking.model=false", "train.log_every=500",
         "tracking.flush=0.5")  # fmt: skip

WORKER = """
import sys, time
from pathlib import Path
import numpy as np
from pipeline.tracking.run import open_run
from pipeline.tracking.store import prepare_store

number = sys.argv[1]
Path(f"ready{number}").touch()
while not Path("go").exists():
    time.sleep(0.001)
prepare_store("sqlite:///outputs/mlflow.db")
opened = open_run(experiment="e", artifacts="outputs/artifacts", name=number,
                  tags={"kind": "run"}, parent=None, folder=Path("runs") / number)
with opened as run:
    run.log_params({"number": number})
    run.log_series({"x": np.arange(20.0)}, steps=np.arange(1, 21), points=100)
print("DONE", run.id)
"""


@pytest.mark.parametrize("turn", range(5))
def test_sixteen_processes_open_a_fresh_store_at_once(lab, turn):
    many = 16
    processes = [lab.start(sys.executable, "-c", WORKER, str(i)) for i in range(many)]
    lab.until(lambda: len(list(lab.folder.glob("ready*"))) == many)
    (lab.folder / "go").touch()
    ends = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * many, ends
    reported = {out.split()[-1] for out, _ in ends if "DONE" in out}
    found = dict(lab.query("select run_uuid, status from runs"))
    metrics = lab.count("from metrics")
    print(f"\nstarted {many}, reported {len(reported)}, found {len(found)}, metrics {metrics}")
    assert (len(reported), set(found)) == (many, reported)
    assert set(found.values()) == {"FINISHED"}
    assert metrics == 20 * many
    assert lab.count("from params") == many
    assert lab.count("from experiments where name='e'") == 1
    assert lab.query("pragma integrity_check") == [("ok",)]
    assert lab.query("pragma journal_mode") == [("wal",)]
    assert not list(lab.folder.rglob("queue.jsonl"))


def books(lab, server, *, jobs):
    """What was recorded on disk, and what the store has of it; nothing is there twice."""
    records = [RunRecord.load(p.parent) for p in lab.folder.glob("outputs/sweeps/**/record.json")]
    runs = dict(lab.query(
        "select r.run_uuid, r.status from runs r join tags t on t.run_uuid = r.run_uuid"
        " where t.key='kind' and t.value='run'", server.store))  # fmt: skip
    print(f"\nstarted {jobs}, recorded {len(records)}, found {len(runs)}")
    assert len(records) == len(runs) == jobs
    assert {record.about["run"] for record in records} == set(runs)
    for record in records:
        rows = lab.query(
            "select step, value from metrics where key='train/loss' and run_uuid ="
            f" '{record.about['run']}' order by timestamp, step", server.store)  # fmt: skip
        steps = [step for step, _ in rows]
        assert steps == sorted(set(steps))
        assert (steps[0], steps[-1]) == (1, record.steps)
        assert len(steps) > 290
        assert [v for _, v in rows] == record.arrays["loss"][np.array(steps) - 1].tolist()
        (mse,) = lab.query("select value from metrics where key='eval/mse' and run_uuid ="
                           f" '{record.about['run']}'", server.store)  # fmt: skip
        assert mse == (record.about["scores"]["mse"],)
    return runs


@pytest.mark.parametrize("how", ["restarts", "hangs"])
def test_a_server_that_is_away_for_20_seconds_in_a_sweep(lab, server, how):
    jobs = 6
    sweep = lab.command("-m", f"seed={','.join(map(str, range(jobs)))}", *SMALL,
                        "train.epochs=400000", f"tracking.uri={server.uri}")  # fmt: skip
    lab.until(lambda: lab.count("from metrics where key='eval/mse'", server.store) == 1)
    lab.until(lambda: lab.count("from runs", server.store) == 3)
    server.kill() if how == "restarts" else server.signal(signal.SIGSTOP)
    time.sleep(20)
    server.start() if how == "restarts" else server.signal(signal.SIGCONT)
    out, said = sweep.communicate()
    synced = lab.call("stages=[sync]", f"tracking.uri={server.uri}")
    assert synced[0] == 0, synced
    assert sweep.returncode == 0, out + said
    assert set(books(lab, server, jobs=jobs).values()) == {"FINISHED"}
    assert lab.query("select distinct status from runs", server.store) == [("FINISHED",)]


def test_a_server_that_dies_for_good_in_a_sweep(lab, server):
    jobs = 3
    sweep = lab.command("-m", "seed=0,1,2", *SMALL, "train.epochs=200000",
                        f"tracking.uri={server.uri}")  # fmt: skip
    lab.until(lambda: lab.count("from metrics where key='train/loss'", server.store) > 4)
    server.kill()
    out, said = sweep.communicate()
    assert sweep.returncode == 1, out + said
    assert "stages=[sync]" in said
    assert len(list(lab.folder.glob("outputs/sweeps/**/record.json"))) == jobs
    assert lab.call("stages=[sync]", f"tracking.uri={server.uri}")[0] == 2
    server.start()  # another day
    synced = lab.call("stages=[sync]", f"tracking.uri={server.uri}")
    assert synced[0] == 0, synced
    assert set(books(lab, server, jobs=jobs).values()) == {"FINISHED"}
    assert not lab.count("from runs where status='RUNNING'", server.store)
    assert not list(lab.folder.rglob("queue.jsonl"))
