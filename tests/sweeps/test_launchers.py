"""Sweeps in several processes and searches: real joblib, real Ray, real Optuna."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import environment
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
from tiers import tiered

from pipeline.jobs.check import check_config
from pipeline.jobs.resolve import resolve
from pipeline.pairs.registry import find_pair, list_pairs
from pipeline.record.record import RunRecord
from pipeline.sweeps import search

CONF = Path(__file__).parents[2] / "conf"
PIPELINE = (sys.executable, "-m", "pipeline", "-m", "tracking.model=false", "parity.probe=off")
SMALL = ("train.epochs=2", "data.n=20", "data.n_test=10", "backend=numpy")
JOBLIB = ("hydra/launcher=joblib",)
RAY = ("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2")
LONG = (
    "backend=numpy",
    "train.epochs=5000000",
    "train.log_every=100",
    "record.trace=scalars",
    "tracking.flush=0.2",
)


def installed(name):
    Plugins.instance()  # makes the launchers' own configs known
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        try:
            compose("config", [name])
        except Exception:
            return False
    return True


@pytest.fixture
def start(tmp_path):
    """Start the command in a process group of its own, which nothing of it outlives."""
    inherited = {k: v for k, v in environment().items() if k != "RAY_ADDRESS"}
    started = []

    def begin(*overrides):
        process = subprocess.Popen(
            [*PIPELINE, *overrides], cwd=tmp_path, env=inherited, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def call(start):
    def ended(*overrides):
        process = start(*overrides)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    return ended


def query(cwd, sql, store="mlflow"):
    with sqlite3.connect(cwd / f"outputs/{store}.db") as opened:
        return opened.execute(sql).fetchall()


def books(cwd):
    """The parent's status, the children's, and whether each child names that parent."""
    (parent,) = query(
        cwd, "select r.run_uuid, r.status from runs r join tags t on t.run_uuid = r.run_uuid"
        " where t.key = 'kind' and t.value = 'sweep' and r.lifecycle_stage = 'active'",
    )  # fmt: skip
    children = query(
        cwd, "select r.status from runs r join tags t on t.run_uuid = r.run_uuid where"
        f" t.key = 'mlflow.parentRunId' and t.value = '{parent[0]}' order by r.status",
    )  # fmt: skip
    assert (
        len(query(cwd, "select 1 from runs where lifecycle_stage = 'active'")) == len(children) + 1
    )
    return parent[1], [status for (status,) in children]


def workers(cwd, process, count, finished=0, timeout=120):
    """The process ids of that many jobs, once the store has seen them train."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        pids = []
        for file in cwd.glob("outputs/sweeps/*/*/.running/*"):
            with contextlib.suppress(OSError, IndexError):
                pids.append(int(file.read_text().split()[1]))
        with contextlib.suppress(sqlite3.Error):
            seen = query(cwd, "select r.status from runs r join metrics m on m.run_uuid = r.run_uuid"
                         " where m.key='train/loss' group by r.run_uuid")  # fmt: skip
            statuses = [status for (status,) in seen]
            running, done = statuses.count("RUNNING"), statuses.count("FINISHED")
            if running >= count and done >= finished and len(pids) >= count:
                return pids
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("the jobs did not start")


def session(leader):
    """The process ids of all that a command started."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, fields = path.read_text().rsplit(")", 1)
            if fields.split()[3] == str(leader) and fields.split()[0] != "Z":
                pids.append(int(name.split()[0]))
    return pids


def gone(pids, seconds=10):
    until = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.1)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.slow
def test_joblib_four_processes_on_a_fresh_store(tmp_path, call):
    code, out, err = call(*JOBLIB, "hydra.launcher.n_jobs=4", "seed=range(4)", *SMALL)
    assert code == 0, err
    assert books(tmp_path) == ("FINISHED", ["FINISHED"] * 4)
    assert (
        len(query(tmp_path, "select 1 from params where key='backend.threads' and value='1'")) == 4
    )
    assert "report.html" in out
    (report,) = tmp_path.glob("outputs/sweeps/*/*/report.html")
    assert {path.name for path in report.parent.iterdir()} >= {"0", "1", "2", "3", "parity.json"}
    assert not (report.parent / ".running").exists()


@pytest.mark.slow
def test_ray_two_workers_a_failure_and_sigterm(tmp_path, start):
    """One job finishes, one has a bad value, two more run when the main process is told to stop."""
    if not installed("hydra/launcher=ray"):
        pytest.skip("the extra ray is not installed")
    process = start(*RAY, "train.epochs=100,0,5000000,5000001,5000002", *LONG[:1], *LONG[2:])
    pids = workers(tmp_path, process, 2, finished=1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert books(tmp_path) == ("KILLED", ["FAILED", "FINISHED", "KILLED", "KILLED"])
    listed = [line for line in err.splitlines() if line.startswith("failed  ")]
    assert listed == ["failed  1 of 5 jobs never started"]  # the others were told as they ended
    assert "train.epochs=0: must be greater" in err
    assert "Traceback" not in err
    assert len(list(tmp_path.glob("outputs/sweeps/*/*/*/record/record.json"))) == 3
    assert "report.html" in out
    assert gone(pids)


@pytest.mark.slow
def test_a_killed_ray_worker_ends_the_batch_but_not_the_books(tmp_path, start, call):
    """Repeating the command runs what is missing and links what was finished."""
    if not installed("hydra/launcher=ray"):
        pytest.skip("the extra ray is not installed")
    sweep = (*RAY, "train.epochs=100,150000,150001,200", *LONG[:1], *LONG[2:])
    process = start(*sweep)
    pids = workers(tmp_path, process, 2, finished=1)
    os.kill(pids[0], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    status, children = books(tmp_path)
    print(f"\nstarted 4, found {len(children)}: {children}")
    assert process.returncode == 1, err
    assert status == "FAILED"
    assert "KILLED" in children
    assert "RUNNING" not in children
    assert "killed" in err
    assert "Traceback" not in err
    assert gone(pids)
    done = children.count("FINISHED")
    assert done >= 1
    code, out, err = call(*sweep)
    assert code == 0, err
    assert len(query(tmp_path, "select 1 from tags where key like 'linked.%'")) == done
    assert "4 of 4 done, 0 failed" in out
    ends = query(tmp_path, "select status from runs")
    assert ends.count(("FINISHED",)) == 4 + 1
    assert ("RUNNING",) not in ends


@pytest.mark.slow
def test_interrupt_of_the_whole_group_closes_the_jobs_of_joblib(tmp_path, start):
    """As a terminal's Ctrl-C: every process gets it, the one idle worker too."""
    process = start(
        *JOBLIB,
        "hydra.launcher.n_jobs=3",
        "seed=0,1",
        *LONG,
    )
    pids = workers(tmp_path, process, 2)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert books(tmp_path) == ("KILLED", ["KILLED"] * 2)
    records = list(tmp_path.glob("outputs/sweeps/*/*/*/record/record.json"))
    assert len(records) == 2  # saved before the launcher ended its workers
    for path in records:
        assert RunRecord.load(path.parent).steps >= 100
    assert gone(pids)


@pytest.mark.slow
def test_workers_of_joblib_end_with_a_parent_that_is_killed(tmp_path, start):
    """Jobs save what they hold and close their runs; the idle third worker ends, too."""
    process = start(*JOBLIB, "hydra.launcher.n_jobs=3", "train.epochs=100,5000000,5000001",
                    *LONG[:1], *LONG[2:])  # fmt: skip
    pids = workers(tmp_path, process, 2, finished=1)
    process.kill()
    process.wait(timeout=60)
    assert gone(session(process.pid), seconds=60)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    ends = query(
        tmp_path, "select r.status from runs r join tags t on t.run_uuid = r.run_uuid"
        " where t.key = 'mlflow.parentRunId' order by r.status",
    )  # fmt: skip
    assert ends == [("FINISHED",), ("KILLED",), ("KILLED",)]
    assert len(list(tmp_path.glob("outputs/sweeps/*/*/*/record/record.json"))) == 3


@pytest.mark.slow
def test_a_killed_joblib_worker_ends_the_batch_but_not_the_books(tmp_path, start, call):
    """Repeating the command runs only what is missing, from the checkpoints that are there."""
    sweep = (*JOBLIB, "hydra.launcher.n_jobs=2", "train.epochs=100,150000,150001,200", *LONG[:1], *LONG[2:],
             "train.checkpoint=0.3")  # fmt: skip
    process = start(*sweep)
    pids = workers(tmp_path, process, 2, finished=1)
    while len(list(tmp_path.glob("outputs/checkpoints/*/checkpoint.json"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(pids[0], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert books(tmp_path) == ("FAILED", ["FINISHED", "KILLED", "KILLED"])
    assert "killed" in err
    assert "1 of 4 jobs never started" in err
    assert gone(pids)
    code, out, err = call(*sweep)
    assert code == 0, err
    assert out.count("finished before, as run") == 1
    assert out.count("goes on after epoch") == 2
    ends = query(tmp_path, "select status from runs")
    assert (ends.count(("FINISHED",)), ends.count(("KILLED",))) == (1 + 3 + 1, 2)


@pytest.mark.slow
def test_a_search_continues_its_study(tmp_path, call):
    if not installed("hydra/sweeper=optuna"):
        pytest.skip("the extra search is not installed")
    asked = (
        "hydra/sweeper=optuna", "sweep.metric=eval/mse", "optimizer=gd,adam",
        "optimizer.lr=tag(log,interval(1e-4,1e-2))", *SMALL,
    )  # fmt: skip
    for total, new in ((6, 6), (10, 4), (10, 0)):
        code, out, err = call(*asked, f"hydra.sweeper.n_trials={total}")
        assert code == 0, err
        assert (
            len(query(tmp_path, "select 1 from trials where state='COMPLETE'", "optuna")) == total
        )
        assert ("nothing to do" in out) == (new == 0)
    assert len(query(tmp_path, "select 1 from runs")) == 12  # two parents
    scores = query(tmp_path, "select value from metrics where key='eval/mse'")
    values = query(tmp_path, "select value from trial_values", "optuna")
    assert sorted(scores) == sorted(values)
    best = query(tmp_path, "select value from tags where key='search.best_value'")
    assert min(float(value) for (value,) in best) == pytest.approx(min(scores)[0], rel=1e-8)
    rates = query(
        tmp_path, "select param_value from trial_params where param_name='optimizer.lr'", "optuna"
    )
    assert len(set(rates)) == 10
    kinds = query(tmp_path, "select distinct value from params where key='optimizer.name'")
    assert sorted(kinds) == [("adam",), ("gd",)]


@pytest.mark.slow
def test_a_continued_search_closes_killed_trials_and_draws_new_points(tmp_path, call):
    if not installed("hydra/sweeper=optuna"):
        pytest.skip("the extra search is not installed")
    asked = (
        "hydra/sweeper=optuna", "sweep.metric=eval/mse", "optimizer.lr=interval(1e-4,1e-2)",
        "hydra.sweeper.sampler.seed=1", "backend=numpy", *SMALL,
    )  # fmt: skip
    assert call(*asked, "hydra.sweeper.n_trials=2")[0] == 0
    with sqlite3.connect(tmp_path / "outputs/optuna.db") as store:
        store.execute("insert into trials (number, study_id, state) values (2, 1, 'RUNNING')")
    code, _, err = call(*asked, "hydra.sweeper.n_trials=5")
    assert code == 0, err
    states = query(tmp_path, "select state from trials order by number", "optuna")
    assert [state for (state,) in states] == ["COMPLETE"] * 2 + ["FAIL"] + ["COMPLETE"] * 2
    rates = query(tmp_path, "select param_value from trial_params", "optuna")
    assert len(set(rates)) == 4


@pytest.mark.slow
def test_a_search_of_which_every_trial_failed_is_an_error_each_time(tmp_path, call):
    if not installed("hydra/sweeper=optuna"):
        pytest.skip("the extra search is not installed")
    asked = (
        "hydra/sweeper=optuna", "sweep.metric=eval/mse", "optimizer.lr=interval(1e200,1e201)",
        "hydra.sweeper.n_trials=2", "backend=numpy", *SMALL,
    )  # fmt: skip
    assert call(*asked)[0] == 1
    code, _, err = call(*asked)
    assert code == 1
    assert "every trial failed" in err


@pytest.mark.parametrize(
    ("overrides", "names"),
    tiered([
        (["hydra/launcher=foo", "seed=0,1"], ["hydra/launcher=foo", "joblib"]),
        (["optimizer.foo=1,2"], ["optimizer.foo", "unknown", "lr"]),
        (["optimizer=gd,foo"], ["optimizer=foo", "adam"]),
        (["optimizer.lr=interval(0,1)"], ["optimizer.lr", "hydra/sweeper=optuna"]),
        (["hydra/sweeper=optuna", "optimizer.lr=interval(0,1)"], ["sweep.metric", "eval/mse"]),
        (["hydra/sweeper=optuna", "sweep.metric=mse", "seed=0,1"], ["sweep.metric=mse", "eval/mse"]),
        (["hydra/sweeper=optuna", "sweep.metric=eval/r2", "seed=0,1"], ["eval/r2", "maximize"]),
        (["hydra/sweeper=optuna", "sweep.metric=eval/mse"], ["nothing to search"]),
        (["hydra/launcher=ray", "hydra.launcher.ray.init.address=127.0.0.1:9"], ["address", "answer"]),
        (["sweep=foo"], ["sweep=foo", "article_lr", "parity_matrix"]),
        (["seed=0,1", "train.epochs=foo"], ["train.epochs=foo", "integer"]),
        (["seed=range(0,0)"], ["seed=range(0,0)", "no values"]),
        ([*JOBLIB, "hydra.launcher.n_jobs=0", "seed=0,1"], ["hydra.launcher.n_jobs=0", "-1"]),
        (["hydra/sweeper=optuna", "sweep.metric=eval/mse", "seed=0,1", "hydra.sweeper.n_trials=0"], ["n_trials=0", "from 1 on"]),
        (["hydra/sweeper=optuna", "sweep.metric=eval/accuracy", "seed=0,1"], ["loss=mse", "r2"]),
        (["seed=0,1", "resume=abc"], ["resume=abc", "no sweep"]),
    ], short=lambda number, _: number % 4 == 0),
)  # fmt: skip
def test_bad_sweeps_are_one_line_and_leave_nothing(tmp_path, call, overrides, names):
    code, _, err = call(*overrides)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert all(name in err for name in names), err
    assert not list(tmp_path.rglob("*"))


def members(name):
    """Every member of a ready sweep, composed as the command does it."""
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        whole = compose("config", [f"sweep={name}"], return_hydra_config=True)
        params = OmegaConf.to_container(whole.hydra.sweeper.params)
        chosen = [{}]
        for key, text in params.items():
            values = ["0", "19"] if text == "range(20)" else text.split(",")
            chosen = [{**one, key: value} for one in chosen for value in values]
        composed = [
            compose("config", [f"sweep={name}", *(f"{k}={v}" for k, v in one.items())])
            for one in chosen
        ]
    return whole, [OmegaConf.to_container(each, resolve=True) for each in composed]


@pytest.mark.parametrize(
    ("name", "count"),
    tiered(
        [("article_lr", 10), ("optimizers", 16), ("seeds", 4), ("parity_matrix", None)],
        short=lambda number, _: number < 3,
    ),
)
def test_ready_sweeps_are_right_in_every_member(name, count):
    whole, composed = members(name)
    settings = [check_config(values) for values in composed]
    assert (str(whole.hydra.mode).split(".")[-1], whole.sweep.title) == ("MULTIRUN", name)
    assert count in (len(settings), None)
    assert {each.backend.name for each in settings} == {"torch", "tensorflow"}
    if name == "optimizers":
        assert {each.optimizer.name for each in settings} == {
            p.stem for p in (CONF / "optimizer").glob("*.yaml") if p.stem != "own"
        }
    if name == "parity_matrix":
        pairs = {m for m in list_pairs() if {"torch", "tensorflow"} <= set(find_pair(m).backends)}
        assert {each.model.name for each in settings} == pairs
        for values in composed:
            resolve(values)


def test_what_a_search_can_minimise():
    record = RunRecord(about={"scores": {"mse": 0.5}, "time": {"train_s": 2.0}})
    assert search.value(record, "eval/mse") == 0.5
    assert search.value(record, "time/train_s") == 2.0
    with pytest.raises(search.ConfigError, match="this run has eval/mse, time/train_s"):
        search.value(record, "eval/log_loss")
    record.about["scores"]["mse"] = float("nan")
    with pytest.raises(search.ConfigError, match="is nan"):
        search.value(record, "eval/mse")


def test_the_last_line_of_a_search_is_by_its_metric(monkeypatch):
    tags = {"search.best": "optimizer.lr=0.5", "search.best_value": "0.086",
            "search.metric": "eval/log_loss"}  # fmt: skip
    monkeypatch.setattr(search, "best", lambda config: tags)
    assert search.tell_best(None, None) == "best optimizer.lr=0.5 (eval/log_loss 0.086)"
    assert search.tell_best(None, 4) is None  # a plain sweep, ranked by the test score
    monkeypatch.setattr(search, "best", lambda config: {"search.metric": "eval/log_loss"})
    assert search.tell_best(None, None) == ""


@pytest.mark.parametrize(("word", "same"), [
    ("terminal=quiet", True), ("parity.show=all", True), ("tracking.note=a", True),
    ("train.epochs=3", False),
])  # fmt: skip
def test_a_study_is_the_same_whatever_is_shown_of_it(word, same):
    def name(*task):
        return search._name(OmegaConf.create({
            "sweep": {"metric": "eval/mse"},
            "hydra": {"sweeper": {"params": {}, "direction": "minimize"}, "overrides": {"task": task}},
        }))  # fmt: skip

    assert (name("model=mlp", word) == name("model=mlp")) == same
