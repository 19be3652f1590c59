"""SIGKILL at random moments of 30 runs, resumed until they end: the same bits, every step once."""

from __future__ import annotations

import json
import random
import time

import numpy as np

from pipeline.record.record import RunRecord

BACKENDS = ["numpy"] * 22 + ["torch"] * 6 + ["tensorflow"] * 2
EPOCHS = {"numpy": 6000, "torch": 1500, "tensorflow": 120}


def overrides(backend, seed):
    return (f"backend={backend}", f"seed={seed}", "data=wine", "model=softmax", "loss=cross_entropy",
            "train=minibatch", "optimizer=adam", f"train.epochs={EPOCHS[backend]}",
            "train.evaluate_every=null", "train.checkpoint=0.02", "train.log_every=50",
            "tracking.model=false", "tracking.flush=0.2")  # fmt: skip


def finished(folder):
    found = [RunRecord.load(path.parent) for path in folder.rglob("record/record.json")]
    return [record for record in found if record.about["status"] == "FINISHED"]


def test_thirty_runs_killed_and_resumed(lab, tmp_path_factory):
    rng = random.Random(7)
    wholes = {}
    for backend in dict.fromkeys(BACKENDS):
        folder = tmp_path_factory.mktemp(f"whole-{backend}")
        lab.folder = folder
        code, _, said = lab.call(*overrides(backend, 1))
        assert code == 0, said
        wholes[backend] = finished(folder)[0]
    killed = anew = resumed = doubled = 0
    for i, backend in enumerate(BACKENDS):
        lab.folder = tmp_path_factory.mktemp(f"{backend}-{i}")
        command, places = overrides(backend, 1), lab.folder / "outputs/checkpoints"
        for turn in range(6):
            process = lab.command(*command)
            if turn < 1 + i % 2:  # some are killed twice
                name = "checkpoint.json" if i % 3 else "runs"  # most are killed after a checkpoint
                there = lab.folder / "outputs"
                lab.until(lambda p=process, at=there, name=name: p.poll() is not None
                          or any(at.rglob(name)))  # fmt: skip
                time.sleep(rng.uniform(0.0, 1.5 if backend == "tensorflow" else 0.4))
                process.kill()
            _, said = process.communicate()
            if process.returncode == 0:
                break
            killed += 1
            left = list(places.glob("*/checkpoint.json"))
            if left:
                resumed += 1
                command = (f"resume={json.loads(left[0].read_text())['about']['run']}",)
            else:
                anew += 1
        whole, found = wholes[backend], finished(lab.folder)
        assert found, (backend, i, turn, process.returncode, command, said)
        for record in found:  # two where the first was killed between its record and its end
            assert list(record.arrays) == list(whole.arrays)
            for key in set(whole.arrays) - {"seconds"}:
                np.testing.assert_array_equal(record.arrays[key], whole.arrays[key], err_msg=key)
        store = lab.folder / "outputs/mlflow.db"
        status = [row[0] for row in lab.query("select status from runs", store)]
        assert "RUNNING" not in status
        assert status.count("FINISHED") == 1
        doubled += lab.count("from (select 1 from metrics group by run_uuid, key, step having count(*) > 1)",
                             store)  # fmt: skip
    print(f"\n{len(BACKENDS)} runs, killed {killed} times: resumed {resumed}, begun anew {anew}; "
          f"{doubled} steps doubled")  # fmt: skip
    assert killed >= len(BACKENDS)
    assert resumed > killed / 3
    assert doubled == 0
