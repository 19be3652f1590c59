"""What tracking a run costs, beside the four calls of MLflow's client that it needs.

Both write to one SQLite store, in turns, so that whatever slows the machine slows both.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest

from pipeline.tracking.run import open_run
from pipeline.tracking.store import prepare_store

POINTS, PARAMS, ROUNDS = 50, 30, 40
VALUES = {f"group.key_{i}": str(i) for i in range(PARAMS)}
TAGS = {"kind": "run", "backend": "numpy", "sweep": "", "config.digest": "0" * 64,
        "data.digest": "0" * 64, "code.digest": "0" * 64, "git.commit": "0" * 40,
        "versions": "{}"}  # fmt: skip
LOSS = np.linspace(1, 0, POINTS)
STEPS = np.arange(1, POINTS + 1)


def ours(folder):
    opened = open_run(
        experiment="ours", artifacts="outputs/artifacts", name="ours", tags=TAGS, parent=None,
        folder=folder,
    )  # fmt: skip
    with opened as run:
        run.log_params(VALUES)
        run.log_series({"train/loss": LOSS}, steps=STEPS, points=1000)
    return run.id


def bare(experiment):
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient()
    run = client.create_run(experiment, tags=TAGS, run_name="bare").info.run_id
    client.log_batch(run, params=[Param(key, value) for key, value in VALUES.items()])
    now = int(time.time() * 1000)
    client.log_batch(run, metrics=[Metric("train/loss", float(v), now, int(s))
                                   for s, v in zip(STEPS, LOSS, strict=True)])  # fmt: skip
    client.set_terminated(run, "FINISHED")
    return run


@pytest.mark.benchmark(group="tracking")
def test_tracking_against_the_four_bare_calls(benchmark, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.chdir(tmp_path)
    prepare_store(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = mlflow.MlflowClient().create_experiment("bare")
    for i in range(3):  # connections, imports, the experiment's id
        ours(tmp_path / f"warm{i}"), bare(experiment)
    seconds = {"ours": [], "bare": []}
    for i in range(ROUNDS):
        for name in ("ours", "bare") if i % 2 else ("bare", "ours"):
            start = time.perf_counter()
            run = ours(tmp_path / str(i)) if name == "ours" else bare(experiment)
            seconds[name].append(time.perf_counter() - start)
            found = mlflow.get_run(run)
            assert (len(found.data.params), found.info.status) == (PARAMS, "FINISHED")
    assert len(mlflow.MlflowClient().get_metric_history(run, "train/loss")) == POINTS
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = middle["ours"] / middle["bare"]
    said = ", ".join(f"{name} {value * 1e3:.1f} ms" for name, value in middle.items())
    print(f"\ntracking a run: {said}, ratio {ratio:.2f} (at most 1.3)")
    benchmark.extra_info |= {**middle, "ratio": ratio}
    benchmark.pedantic(
        ours, setup=lambda: ((tmp_path / str(time.perf_counter_ns()),), {}), rounds=10
    )
    assert ratio <= 1.3
