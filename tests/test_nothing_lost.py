"""What a run told is in the store, once and in order, whatever happened to the run or the store.

The slow tests of the same are in ``tests/faults``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from commands import environment
from servers import Server

from pipeline import spool
from pipeline.record import RunRecord
from pipeline.spool import Spool, redact, take_over

ROOT = Path(__file__).parent.parent
PIPELINE = (sys.executable, "-m", "pipeline")
LONG = ("backend=numpy", "record.trace=scalars", "tracking.model=false", "train.log_every=500",
        "tracking.flush=0.2")  # fmt: skip


def call(*overrides, cwd, **more):
    return subprocess.run([*PIPELINE, *overrides], cwd=cwd, env=environment(**more),
                          capture_output=True, text=True)  # fmt: skip


def start(*overrides, cwd):
    return subprocess.Popen([*PIPELINE, *overrides], cwd=cwd, env=environment(), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def query(path, sql):
    with contextlib.closing(sqlite3.connect(path, timeout=20)) as store:
        return store.execute(sql).fetchall()


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(sqlite3.OperationalError, OSError):
            if condition():
                return
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def spooled(folder):
    """The rows of metrics in a spool, whole lines only."""
    lines = (folder / "queue.jsonl").read_bytes().split(b"\n")[:-1]
    return [tuple(row) for line in lines for row in json.loads(line).get("metrics", ())]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A function that copies an empty store, made once: its migrations take seconds."""
    from pipeline import tracking

    template = tmp_path_factory.mktemp("template") / "mlflow.db"
    tracking.prepare(f"sqlite:///{template}")

    def copy(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            contextlib.closing(sqlite3.connect(template)) as source,
            contextlib.closing(sqlite3.connect(path)) as target,
        ):
            source.backup(target)
        return path

    return copy


@pytest.fixture(scope="module")
def server(tmp_path_factory, fresh):
    folder = tmp_path_factory.mktemp("server")
    fresh(folder / "server.db")
    made = Server(folder)
    yield made
    made.kill()


# ---- A run is killed -------------------------------------------------------------------------


def test_a_killed_sweep_is_found_and_closed_with_what_it_wrote_down(tmp_path, fresh, monkeypatch):
    """Its parent too; and while it is alive, nobody touches it."""
    from pipeline import tracking

    store = fresh(tmp_path / "outputs/mlflow.db")
    process = start("-m", "seed=0,1", *LONG, "train.epochs=1000000", cwd=tmp_path)
    try:
        until(lambda: query(store, "select count(*) from metrics")[0][0] > 4)
        monkeypatch.chdir(tmp_path)
        tracking.prepare(f"sqlite:///{store}")
        assert tracking.recover(stale=300) == []
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
from pipeline import tracking
def die(*args, **kwargs):
    os.kill(os.getpid(), 9)
tracking.prepare("sqlite:///outputs/mlflow.db")
if sys.argv[1] == "create":
    tracking._created = die
else:
    tracking.Spool.append = die
tracking.create(experiment="e", artifacts="a", name="early", tags={}, folder=Path("outputs/run"))
"""


@pytest.mark.parametrize(("moment", "runs"), [("append", []), ("create", [("early", "KILLED")])])
def test_a_run_killed_before_the_store_knows_of_it_is_found(
    tmp_path, fresh, monkeypatch, moment, runs
):
    from pipeline import tracking

    store = fresh(tmp_path / "outputs/mlflow.db")
    done = subprocess.run(
        [sys.executable, "-c", KILLED_EARLY, moment], cwd=tmp_path,
        env=environment() | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == -9
    assert query(store, "select 1 from runs") == []
    assert list(tmp_path.rglob("queue.jsonl"))
    monkeypatch.chdir(tmp_path)
    tracking.prepare(f"sqlite:///{store}")
    assert query(store, "select name, status from runs") == runs
    assert not list(tmp_path.rglob("queue.jsonl"))
    assert not list(tmp_path.glob("outputs/spool/*"))


KILLED_IN_MIGRATION = """
import os
from alembic import command
real = command.upgrade
def upgrade(config, revision):
    real(config, "+5")
    os.kill(os.getpid(), 9)
command.upgrade = upgrade
from pipeline import tracking
tracking.prepare("sqlite:///outputs/mlflow.db")
"""


def test_a_store_whose_making_was_killed_is_made_anew(tmp_path, monkeypatch):
    from pipeline import tracking

    done = subprocess.run(
        [sys.executable, "-c", KILLED_IN_MIGRATION], cwd=tmp_path,
        env=environment() | {"PYTHONPATH": str(ROOT)}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "outputs/mlflow.db").exists()
    monkeypatch.chdir(tmp_path)
    tracking.prepare("sqlite:///outputs/mlflow.db")
    assert query(tmp_path / "outputs/mlflow.db", "select name from experiments") == [("Default",)]
    assert not list(tmp_path.glob("outputs/.mlflow.db.new*"))


def test_a_run_of_another_host_is_dead_when_its_heartbeat_is_old(tmp_path, monkeypatch, fresh):
    import mlflow

    from pipeline import tracking

    monkeypatch.chdir(tmp_path)
    tracking.prepare(f"sqlite:///{fresh(tmp_path / 'mlflow.db')}")
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
    (told,) = tracking.recover(stale=300)
    assert "elsewhere" in told
    status = {name: client.get_run(run).info.status for name, run in ids.items()}
    assert status == {"young": "RUNNING", "old": "KILLED", "foreign": "RUNNING"}


# ---- A real server ---------------------------------------------------------------------------


def test_a_password_reaches_neither_store_nor_disk(tmp_path, server):
    uri = server.uri.replace("://", "://me:hunter2@")
    done = call("-m", "optimizer.lr=1e-3,100", "backend=numpy", "train.epochs=200", "data.n=20",
                "tracking.model=false", f"tracking.uri={uri}", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 1
    assert "learning rate 100" in done.stderr
    states = query(server.store, "select status from runs where status != 'RUNNING'")
    assert sorted(states) == [("FAILED",), ("FAILED",), ("FINISHED",)]
    with contextlib.closing(sqlite3.connect(server.store)) as store:
        assert "hunter2" not in "".join(store.iterdump())
    assert "hunter2" not in done.stdout
    files = [p for top in (tmp_path, server.folder) for p in top.rglob("*") if p.is_file()]
    holding = [p.name for p in files if b"hunter2" in p.read_bytes()]
    assert not holding


# ---- The store goes away ---------------------------------------------------------------------


def test_a_server_that_goes_away_stops_nothing_and_gets_everything_later(tmp_path, server):
    earlier = query(server.store, "select max(rowid) from metrics")[0][0] or 0
    mine = "run_uuid = (select run_uuid from runs order by start_time desc limit 1)"
    process = start(*LONG, "train.epochs=100000", f"tracking.uri={server.uri}",
                    "tracking.wait=0", cwd=tmp_path)  # fmt: skip
    until(
        lambda: (
            query(server.store, f"select count(*) from metrics where rowid > {earlier}")[0][0] > 4
        )
    )
    server.kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "does not answer" in said
    assert "stages=[sync]" in said
    (record,) = tmp_path.glob("outputs/runs/**/record.json")
    assert query(server.store, f"select status from runs where {mine}") == [("RUNNING",)]
    server.start()
    done = call("stages=[sync]", f"tracking.uri={server.uri}", cwd=tmp_path)
    assert (done.returncode, "delivered" in done.stderr) == (0, True), done.stderr
    assert query(server.store, f"select status from runs where {mine}") == [("FINISHED",)]
    rows = query(server.store, "select step, value from metrics where key='train/loss'"
                               f" and {mine} order by timestamp, step")  # fmt: skip
    assert max(Counter(step for step, _ in rows).values()) == 1
    assert [step for step, _ in rows] == sorted(step for step, _ in rows)
    assert (rows[0][0], rows[-1][0]) == (1, 100000)
    loss = RunRecord.load(record.parent).arrays["loss"]
    assert all(value == float(loss[step - 1]) for step, value in rows)
    assert 300 < len(rows) <= 321
    assert len(query(server.store, f"select 1 from metrics where key='eval/mse' and {mine}")) == 1
    assert {p.name for p in (server.folder / "served").rglob("*.json")} >= {"record.json"}
    assert not list(tmp_path.glob("outputs/runs/**/queue.jsonl"))


def test_a_server_that_does_not_answer_at_the_start_is_an_error(tmp_path):
    done = call("-m", "seed=0,1", "backend=numpy", "tracking.uri=http://me:secret@127.0.0.1:9",
                cwd=tmp_path)  # fmt: skip
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "does not answer" in done.stderr
    assert "secret" not in done.stdout + done.stderr
    assert not list(tmp_path.glob("outputs/**/queue.jsonl"))


@pytest.fixture
def tracked(tmp_path, monkeypatch, fresh):
    """A store that this process uses, and a function that opens a run in it."""
    from pipeline import tracking

    monkeypatch.chdir(tmp_path)
    tracking.prepare(f"sqlite:///{fresh(tmp_path / 'mlflow.db')}")

    def opened(**more):
        given = {
            "experiment": "e",
            "artifacts": "artifacts",
            "name": "n",
            "tags": {},
            "parent": None,
        }
        return tracking.open_run(**given | more, folder=tmp_path / "run")

    return opened


def test_a_message_that_is_sent_twice_counts_once(tmp_path, tracked):
    """As after a crash between delivery and note: everything comes again from the first message."""
    import mlflow

    from pipeline import tracking

    with tracked() as run:
        run.log_params({"a": 1})
        run.log_series({"x": np.array([1.0, np.nan, np.inf])}, steps=np.arange(1, 4), points=10)
        run.log_metrics({"y": 2.0})
        run.log_table(["k"], [["1"]], "t")
        run.log_data(np.zeros((3, 1)), np.zeros(3), name="d", digest="0" * 64)
        tracking._courier.settle(run._journal)
        queue = (tmp_path / "run/spool/queue.jsonl").read_bytes()
        first = run.id
    store = tmp_path / "mlflow.db"
    before = {
        t: query(store, f"select * from {t} order by 1, 2, 3")
        for t in ("metrics", "params", "inputs")
    }
    place = Spool(tmp_path / "again")
    place.release()
    (tmp_path / "again/queue.jsonl").write_bytes(queue + b'{"torn')
    assert "KILLED" in tracking._finish(tmp_path / "again")
    assert query(store, "select run_uuid from runs") == [(first,)]
    assert {t: query(store, f"select * from {t} order by 1, 2, 3") for t in before} == before
    assert len(before["metrics"]) == 4
    shown = mlflow.artifacts.load_text(f"runs:/{first}/t.json")
    assert json.loads(shown) == {"columns": ["k"], "data": [["1"]]}


def test_what_the_store_refuses_for_good_fails_the_run_and_holds_up_nothing(tmp_path, tracked):
    from pipeline import tracking

    with pytest.raises(tracking.TrackingError, match="Invalid"), tracked() as run:  # noqa: PT012
        run.log_metrics({"no?": 1.0})
        run.log_file(tmp_path / "nothing")
        run.log_metrics({"yes": 1.0})
    store = tmp_path / "mlflow.db"
    assert query(store, "select status from runs") == [("FAILED",)]
    assert query(store, "select key from metrics") == [("yes",)]
    assert not list(tmp_path.glob("outputs/spool/*"))


def test_curves_told_while_training_are_not_told_again(tmp_path, tracked):
    from pipeline import tracking

    total, points = 1000, 100
    losses = np.arange(total, dtype=float)
    pace = tracking.Pace(flush=0.05)
    with tracked(pace=pace) as run:
        follow = run.follower(total=total, points=points)
        for step in range(1, 701):
            follow(step, {"x": losses[step - 1]})
            time.sleep(0.0005)
        assert run._told["x"]
        run.log_series({"x": losses}, steps=np.arange(1, total + 1), points=points)
    rows = query(tmp_path / "mlflow.db", "select step, value, timestamp from metrics order by step")
    assert len({step for step, *_ in rows}) == len(rows) <= points + 1
    assert (rows[0][0], rows[-1][0]) == (1, total)
    assert all(value == step - 1 for step, value, _ in rows)
    assert [t for *_, t in rows] == sorted(t for *_, t in rows)


def test_a_level_curve_is_two_points(tmp_path, tracked):
    with tracked() as run:
        level, bent = np.ones(50), np.ones(50)
        bent[20] = 2
        run.log_series({"level": level, "bent": bent}, steps=np.arange(1, 51), points=100)
    rows = query(tmp_path / "mlflow.db", "select key, step from metrics order by step")
    assert [step for key, step in rows if key == "level"] == [1, 50]
    assert len([step for key, step in rows if key == "bent"]) == 50


# ---- The spool itself ------------------------------------------------------------------------


def test_a_spool_belongs_to_its_owner_as_long_as_it_lives(tmp_path):
    place = Spool(tmp_path / "s")
    place.append({"a": 1}, {"b": 2})
    assert take_over(tmp_path / "s") is None
    (_, end), _ = place.messages()
    place.advance(end, "id")
    place.release()
    with (tmp_path / "s/queue.jsonl").open("ab") as file:
        file.write(b'{"c": ')
    other = take_over(tmp_path / "s")
    assert other.run == "id"
    assert [message for message, _ in other.messages()] == [{"b": 2}]
    other.append({"d": 4})
    assert [message for message, _ in other.messages()] == [{"b": 2}, {"d": 4}]
    other.remove()
    assert not (tmp_path / "s").exists()


def test_a_full_disk_leaves_whole_lines_and_names_the_file(tmp_path, monkeypatch):
    place = Spool(tmp_path / "s")
    place.append({"a": 1})
    real = os.write

    def write(handle, data):
        if len(data) > 4:
            return real(handle, data[:4])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match=r"No space left on device: '.*queue\.jsonl'") as caught:
        place.append({"b": 2, "c": 3})
    assert spool.is_full(caught.value)
    monkeypatch.undo()
    place.append({"d": 4})
    assert [message for message, _ in place.messages()] == [{"a": 1}, {"d": 4}]
    place.remove()


# ---- Passwords -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "http://me:secret@host:5000", "postgresql+psycopg://me:secret@host/db",
        "http://secret@host", "http://me:se@secret@host/x", "postgresql://me:a/secret@host/db",
        "failed: http://me:secret@host, again 'http://me:secret@host'",
        "https://host/x?token=secret&a=b", "mssql://host/db?user=me&password=secret",
        '["tracking.uri=http://me:secret@127.0.0.1:1"]',
        "http://me:it'secret@host", 'http://me:a"secret@host', "'http://it'secret@host'",
    ],
)  # fmt: skip
def test_passwords_are_taken_out_of_any_text(text):
    shown = redact(text)
    assert "secret" not in shown
    assert "***" in shown
    assert "host" in shown or "127.0.0.1" in shown


@pytest.mark.parametrize("text", ["sqlite:///outputs/mlflow.db", "http://127.0.0.1:5000", "a@b"])
def test_what_holds_no_password_stays(text):
    assert redact(text) == text
