from __future__ import annotations

import copy

import numpy as np
import pytest

from pipeline import leaderboard
from pipeline.record.record import RunRecord
from pipeline.record.trace import NonFiniteLossError

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


def sweep(backend, seeds, *, init="shared", **about):
    """Runs of one backend over seeds, that all score the same."""
    runs = [record(backend, seed=seed) for seed in seeds]
    for run in runs:
        run.about["config"]["model"] = {"init": init}
        run.about |= about
    return runs


def ended(runs, message, status="FAILED"):
    """The same runs as they are when they did not finish: without scores."""
    for run in runs:
        run.about |= {"status": status, "message": message}
        del run.about["scores"]
    return runs


NAN = str(NonFiniteLossError(3, 0.1, float("nan")))


@pytest.mark.parametrize(
    ("status", "message", "is_one"),
    [("FAILED", NAN, True), ("FAILED", str(NonFiniteLossError(12, 1e-3, -np.inf)), True),
     ("FAILED", "RuntimeError('the loss became nan at step 3')", False),
     ("KILLED", NAN, False), ("FINISHED", "", False)],
)  # fmt: skip
def test_who_diverged_is_told_by_the_error_of_a_loss_that_is_not_finite(status, message, is_one):
    run = record(status=status)
    run.about["message"] = message
    assert leaderboard.diverged(run) == is_one


def test_runs_that_diverged_are_counted_and_are_the_worse_ones():
    for side, sign in (("torch", 1), ("tensorflow", -1)):
        other = {"torch": "tensorflow", "tensorflow": "torch"}[side]
        lost = ended(sweep(side, range(3)), NAN)
        runs = [*lost, *sweep(side, range(3, 6)), *sweep(other, range(6))]
        (test,) = leaderboard.over_seeds(runs, margin=0.01).values()
        assert (test.outcome, test.n, test.mean) == ("different", 6, sign * np.inf)
        assert f"{side} alone diverged at 3 seeds" in test.sentence()
    kept = [run for run in runs if run not in lost[:1]] + sweep("tensorflow", [0])
    (test,) = leaderboard.over_seeds(kept, margin=0.01).values()
    assert test.outcome == "too few seeds"  # 2 of 6: and not "equivalent, 4 pairs"


def test_a_score_that_is_not_finite_is_of_a_run_that_diverged():
    runs = [*sweep("torch", range(6)), *sweep("tensorflow", range(6))]
    for run in runs[:3]:
        run.about["scores"] = {"accuracy": float("nan")}
    (test,) = leaderboard.over_seeds(runs, margin=0.01).values()
    assert (test.outcome, test.diverged) == ("different", (0, 3))


def test_runs_that_were_killed_or_are_missing_are_no_pair_and_are_said():
    killed = ended(sweep("torch", [1, 2]), "KeyboardInterrupt()", "KILLED")
    crashed = ended(sweep("tensorflow", [2]), "MemoryError()")
    torch, tensorflow = sweep("torch", [0, 3, 4, 5, 6]), sweep("tensorflow", [0, 1, 3, 4, 5])
    (test,) = leaderboard.over_seeds([*killed, *crashed, *torch, *tensorflow], margin=1).values()
    assert (test.outcome, test.n, test.diverged) == ("equivalent", 4, (0, 0))
    assert test.unpaired == {
        "torch did not finish": [1],
        "tensorflow did not finish and torch did not finish": [2],
        "tensorflow has no run": [6],
    }


def test_runs_of_one_seed_with_other_data_are_no_pair():
    runs = [*sweep("torch", range(5)), *sweep("tensorflow", range(5))]
    for run in runs:
        run.about["data"] = {"digest": f"{run.config['seed']}"}
    runs[0].about["data"] = {"digest": "another file"}
    (test,) = leaderboard.over_seeds(runs, margin=1).values()
    assert (test.n, test.unpaired) == (4, {"they have other data": [0]})


def test_of_two_runs_of_a_job_the_newest_that_ended_counts():
    runs = [*sweep("torch", range(4)), *sweep("tensorflow", range(4))]
    again = ended(sweep("torch", [0]), "KeyboardInterrupt()", "KILLED")
    (test,) = leaderboard.over_seeds([*runs, *again], margin=1).values()
    assert test.n == 4
    (test,) = leaderboard.over_seeds([*runs, *ended(sweep("torch", [0]), NAN)], margin=1).values()
    assert (test.n, test.diverged) == (4, (0, 1))


def test_groups_that_no_swept_setting_tells_apart_have_titles_of_their_own():
    runs = [*sweep("torch", range(4)), *sweep("tensorflow", range(4))]
    more = [record(b, seed=s, beta=0.9) for b in ("torch", "tensorflow") for s in range(4)]
    for run in more:
        run.about["config"]["model"] = {"init": "shared"}
    assert len(leaderboard.over_seeds([*runs, *more], margin=1)) == 2


def judged(runs, ladders, margin=0.01):
    """The verdicts over seeds, where the pair at each seed has a ladder with such a verdict."""
    sides = ([r for r in runs if r.backend == b] for b in ("torch", "tensorflow"))
    pairs = [
        (a, b) for a, b in zip(*sides, strict=True)
        if {a.about["status"], b.about["status"]} == {"FINISHED"}
    ]  # fmt: skip
    return leaderboard.seed_verdicts(runs, pairs=pairs, ladders=ladders, margin=margin)


def own_starts(many=6):
    names = ("torch", "tensorflow")
    return [run for name in names for run in sweep(name, range(many), init="framework")]


def test_of_own_starts_the_test_over_seeds_is_the_verdict_on_each_pair_that_abstains():
    (verdict,) = judged(own_starts(), ["ABSTAIN"] * 5 + ["FAIL"])
    assert (verdict.verdict, verdict.covers) == ("PASS", (0, 1, 2, 3, 4))  # FAIL stays one
    assert verdict.sentence.startswith(
        "eval/accuracy of tensorflow and torch over 6 seeds: equivalent: difference 0,"
    )
    assert judged([*sweep("torch", range(6)), *sweep("tensorflow", range(6))], ["PASS"] * 6) == []
    assert judged(own_starts(), ["PASS"] * 6) == []  # equal starts after all, such as zeros


def test_without_a_margin_own_starts_are_abstentions_that_name_it():
    (verdict,) = judged(own_starts(), ["ABSTAIN"] * 6, margin=None)
    assert (verdict.verdict, verdict.test) == ("ABSTAIN", None)
    assert "parity.margin" in verdict.sentence


def test_own_starts_of_one_seed_are_too_few_and_of_none_that_finished_a_difference():
    (verdict,) = judged(own_starts(1), ["ABSTAIN"])
    assert verdict.verdict == "ABSTAIN"
    assert "over 1 seed: too few seeds: 1 pair, 4 are needed" in verdict.sentence
    runs = own_starts()
    ended(runs[:6], NAN)
    (verdict,) = judged(runs, [])
    assert (verdict.verdict, verdict.covers) == ("FAIL", ())
    assert "torch alone diverged at 6 seeds" in verdict.sentence


def test_where_all_runs_diverged_that_is_said():
    runs = ended(own_starts(), NAN)
    (verdict,) = judged(runs, [])
    assert verdict.verdict == "ABSTAIN"
    assert verdict.sentence == (
        "eval/score of tensorflow and torch over 6 seeds: too few seeds: 0 pairs, 4 are needed; "
        "6 seeds diverged in both"
    )
    assert judged(ended(own_starts(), "KeyboardInterrupt()", "KILLED"), []) == []


def test_the_best_of_a_sweep_is_named_by_what_was_swept():
    runs = [record(backend, lr=lr, accuracy=1 - lr) for lr in (0.3, 0.1, 0.2)
            for backend in ("torch", "numpy")]  # fmt: skip
    for i, run in enumerate(runs):
        run.about["run"] = f"id{i}"
    assert leaderboard.tell_best(runs) == "best optimizer.lr=0.1 (eval/accuracy 0.9), run id2"
    runs[2].about["status"] = "FAILED"
    assert leaderboard.tell_best(runs).endswith("run id3")


def test_backends_and_seeds_alone_have_no_best():
    runs = [record(backend, seed=seed) for backend in ("torch", "numpy") for seed in (0, 1)]
    assert leaderboard.tell_best(runs) == ""
    assert leaderboard.tell_best([]) == ""


def test_the_best_over_seeds_is_a_mean_of_no_single_run():
    runs = [
        record(lr=lr, seed=seed, accuracy=lr + seed / 10) for lr in (0.1, 0.2) for seed in (0, 1)
    ]
    best = leaderboard.tell_best(runs)
    assert best == "best optimizer.lr=0.2 (eval/accuracy 0.25, mean of 2 seeds)"


def test_a_score_that_is_not_a_number_is_never_the_best():
    runs = [record(lr=lr, accuracy=score) for lr, score in ((0.1, np.nan), (0.2, 0.5), (0.3, 0.7))]
    assert leaderboard.tell_best(runs).startswith("best optimizer.lr=0.3")


def test_of_equal_scores_the_next_one_decides():
    runs = [record(lr=lr) for lr in (0.1, 0.2)]
    for run, loss in zip(runs, (0.5, 0.25), strict=True):
        run.about["scores"]["log_loss"] = loss
    assert leaderboard.tell_best(runs).startswith("best optimizer.lr=0.2")


def test_settings_that_lost_a_seed_come_after_those_that_lost_none():
    runs = [record(lr=lr, seed=seed, accuracy=lr) for lr in (0.1, 0.9) for seed in (0, 1)]
    runs[3].about["status"] = "FAILED"
    assert leaderboard.tell_best(runs).startswith("best optimizer.lr=0.1")
    runs[1].about["status"] = "FAILED"
    assert (
        leaderboard.tell_best(runs)
        == "best optimizer.lr=0.9 (eval/accuracy 0.9, mean of 1 of 2 seeds)"
    )


def test_runs_on_other_data_are_not_ranked():
    runs = [record(lr=lr) for lr in (0.1, 0.2)]
    for run, scale in zip(runs, (True, False), strict=True):
        run.about["config"]["data"] = {"standardise_target": scale}
    assert leaderboard.tell_best(runs) == ""
