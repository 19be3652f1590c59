"""The machine's faults: processes that are killed at any moment, and a disk that is full."""

from __future__ import annotations

import json
import random
import subprocess
import time

import numpy as np
import pytest

from pipeline.record.record import RunRecord

RUN = ("backend=numpy", "tracking.model=false", "train.log_every=200", "tracking.flush=0.1")


def test_runs_killed_at_random_moments(lab):
    many, moments = 12, random.Random(5)
    lab.call(*RUN, "train.epochs=10")
    killed = finished = 0
    for seed in range(many):
        known = lab.query("select 1 from runs")
        process = lab.command(*RUN, "train.epochs=100000", f"seed={seed}")
        if seed % 3:  # the others may be killed before they have a run
            lab.until(lambda: process.poll() is not None or lab.count("from runs") > len(known))  # noqa: B023
        time.sleep(moments.uniform(0, 4))
        process.kill()
        process.communicate()
        killed += process.returncode == -9
        finished += process.returncode == 0
    code, _, said = lab.call("stages=[sync]")
    assert code == 0, said
    runs = lab.query("select run_uuid, status from runs")
    status = [s for _, s in runs]
    records = list(lab.folder.glob("outputs/runs/**/record.json"))
    print(f"\nstarted {many + 1}, killed {killed}, finished {finished + 1}, found {len(runs)}, "
          f"KILLED {status.count('KILLED')}, records {len(records)}")  # fmt: skip
    assert killed + finished == many
    assert len(runs) > 2 * many // 3
    assert set(status) <= {"KILLED", "FINISHED"}
    assert status.count("FINISHED") >= finished + 1
    assert len(runs) <= many + 1  # some were killed before they had a run
    twice = "from (select 1 from metrics group by run_uuid, key, step having count(*) > 1)"
    assert not lab.count(twice)
    assert not list(lab.folder.rglob("queue.jsonl"))
    for run, end in runs:
        losses = lab.query("select step, value from metrics where key='train/loss' and run_uuid ="
                           f" '{run}' order by step")  # fmt: skip
        assert end == "KILLED" or losses[-1][0] in (10, 100000)
    for path in records:
        record = RunRecord.load(path.parent)
        told = dict(lab.query("select step, value from metrics where key='train/loss' and"
                              f" run_uuid = '{record.about['run']}'"))  # fmt: skip
        assert all(v == float(record.arrays["loss"][s - 1]) for s, v in told.items())


@pytest.fixture
def small_disk(lab):
    """Twenty megabytes to run in."""
    disk = lab.folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    lab.folder, lab.store = disk, disk / "outputs/mlflow.db"
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_record_that_fills_the_disk(lab, small_disk):
    code, _, said = lab.call(*RUN, "train.epochs=600000", "record.trace=full")
    print(f"\nexit {code}: {said.strip()}")
    assert code == 1
    assert len(said.splitlines()) == 1
    assert "the disk is full" in said
    assert "record" in said
    assert lab.query("select status from runs") == [("FAILED",)]
    assert lab.query("pragma integrity_check") == [("ok",)]
    whole_and_nothing_else(small_disk)
    assert lab.call(*RUN, "train.epochs=10")[0] == 0


def test_a_disk_on_which_the_store_has_no_room(lab, small_disk):
    assert lab.call(*RUN, "train.epochs=10")[0] == 0
    process = lab.command(*RUN, "train.epochs=100000", "record.trace=scalars")
    lab.until(lambda: lab.count("from runs") == 2)
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
    _, said = process.communicate()
    print(f"\nexit {process.returncode}: {said.strip()}")
    assert process.returncode == 1
    assert "full" in said or "No space left" in said
    whole_and_nothing_else(small_disk)
    (small_disk / "filler").unlink()
    code, _, said = lab.call("stages=[sync]")
    assert code == 0, said
    assert not lab.count("from runs where status='RUNNING'")
    assert lab.count("from runs where status='FINISHED'") == 1
    assert lab.query("pragma integrity_check") == [("ok",)]


def whole_and_nothing_else(folder):
    """Every file of a run is whole; none is left over from a write that failed."""
    assert not [p for p in folder.glob("outputs/runs/**/.*") if p.is_file()]
    for path in folder.glob("outputs/runs/**/*.npy"):
        np.load(path)
    for path in folder.glob("outputs/runs/**/*.json"):
        json.loads(path.read_text())
    for path in folder.glob("outputs/runs/**/record.json"):
        RunRecord.load(path.parent)
