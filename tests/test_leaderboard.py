from __future__ import annotations

import copy

import numpy as np
import pytest

from pipeline import leaderboard
from pipeline.record import RunRecord

CONFIG = {"backend": {"name": "torch"}, "optimizer": {"name": "gd", "lr": 0.1}, "seed": 0,
          "train": {"loop": "manual"}, "tracking": {"uri": "a"}}  # fmt: skip


def record(backend="torch", lr=0.1, seed=0, accuracy=0.9, status="FINISHED", **optimizer):
    config = copy.deepcopy(CONFIG)
    config["backend"]["name"], config["seed"] = backend, seed
    config["optimizer"] |= {"lr": lr} | optimizer
    scores = {"accuracy": accuracy, "log_loss": 1 - accuracy}
    about = {"config": config, "status": status, "scores": scores, "time": {"train_s": 2.0}}
    return RunRecord(about=about, arrays={})


def test_the_best_mean_comes_first_with_students_interval():
    runs = [record(lr=lr, seed=s, accuracy=a) for lr, seeds in ((0.1, (0.5, 0.7)), (0.2, (0.9, 0.8, 0.7)))
            for s, a in enumerate(seeds)]  # fmt: skip
    header, rows = leaderboard.leaderboard(runs)
    assert header == [
        "backend.name",
        "optimizer.name",
        "optimizer.lr",
        "accuracy",
        "± (95%)",
        "runs",
        "train s",
    ]
    assert [row[2] for row in rows] == ["0.2", "0.1"]
    assert [float(row[3]) for row in rows] == pytest.approx([0.8, 0.6])
    # t(0.975, 2) = 4.302653, t(0.975, 1) = 12.706205
    assert float(rows[0][4]) == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=0.05)
    assert float(rows[1][4]) == pytest.approx(12.706205 * np.sqrt(0.02) / np.sqrt(2), rel=0.05)
    assert [row[5] for row in rows] == ["3", "2"]


def test_lower_is_better_for_losses_and_single_runs_have_no_interval():
    runs = [record(lr=lr) for lr in (0.1, 0.2)]
    for run, mse in zip(runs, (2.0, 1.0), strict=True):
        run.about["scores"] = {"mse": mse}
    header, rows = leaderboard.leaderboard(runs)
    assert header[3] == "mse"
    assert [(row[2], row[4]) for row in rows] == [("0.2", "–"), ("0.1", "–")]


def test_only_what_was_swept_is_told():
    runs = [record(lr=0.1), record(lr=0.2, beta=0.9)]
    runs[1].about["config"]["tracking"]["uri"] = "b"  # decides no number
    assert leaderboard.swept(runs) == {"optimizer.lr": [0.1, 0.2]}
    assert leaderboard.differences(runs) == (["optimizer.lr"], [["0.1"], ["0.2"]])
    assert leaderboard.swept([]) == {}


def test_equal_scores_have_an_interval_of_nothing():
    runs = [record(seed=s, accuracy=17 / 18) for s in range(3)]
    assert leaderboard.leaderboard(runs)[1][0][3] == "0"


def test_failed_runs_have_no_place():
    runs = [record(), record(lr=0.2, status="FAILED", accuracy=1.0)]
    header, rows = leaderboard.leaderboard(runs)
    assert len(rows) == 1
    assert dict(zip(header, rows[0], strict=True))["optimizer.lr"] == "0.1"  # as it was swept
    assert leaderboard.leaderboard([record(status="FAILED")]) == ([], [])


def test_sensitivity_is_in_the_order_of_numbers():
    runs = [record(lr=lr, accuracy=lr) for lr in (0.5, 0.05, 0.1)]
    assert leaderboard.sensitivity(runs) == {
        "optimizer.lr": {"0.05": [0.05], "0.1": [0.1], "0.5": [0.5]}
    }


def test_backends_are_tested_over_the_seeds_that_both_ran():
    runs = [record(backend, seed=s, accuracy=0.9 + 0.001 * s)
            for backend in ("torch", "tensorflow") for s in range(6)]  # fmt: skip
    ((title, test),) = leaderboard.over_seeds(runs[:-1], margin=0.01).items()
    assert title == "accuracy of tensorflow and torch"
    assert (test.outcome, test.n, test.mean) == ("equivalent", 5, 0)
    assert leaderboard.over_seeds(runs[:1] + runs[6:7], margin=0.01) == {}
    two = [*runs, *(record(b, lr=0.2, seed=s) for b in ("torch", "tensorflow") for s in range(4))]
    assert set(leaderboard.over_seeds(two, margin=0.01)) == {
        "accuracy of tensorflow and torch (optimizer.lr=0.1)",
        "accuracy of tensorflow and torch (optimizer.lr=0.2)",
    }
