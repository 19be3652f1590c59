"""A real server: what it is told, and what happens while it is away."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
from collections import Counter

import numpy as np
import pytest
from commands import call, start
from servers import Proxy
from stores import LONG, query, until
from tiers import tiered

from pipeline.record.record import RunRecord
from pipeline.tracking import query as query_runs
from pipeline.tracking import recover, run, store
from pipeline.tracking.courier import COURIER
from pipeline.tracking.deliver import Pace


@pytest.mark.long
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


@pytest.mark.long
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


# ---- The server refuses, or stumbles ----------------------------------------------------------


@pytest.fixture
def proxy(server):
    """A function that puts something before the server that answers some requests itself."""
    proxies = []

    def start(answer):
        proxies.append(Proxy(server.uri, answer))
        return proxies[-1]

    yield start
    for proxy in proxies:
        proxy.close()


@pytest.mark.long
def test_a_server_that_answers_one_in_five_requests_with_500(tmp_path, server, proxy):
    """No verdict is an ERROR, no tag is lost, and the command ends as it does without."""
    chance, failures = random.Random(3), []

    def answer(method, path):
        if chance.random() < 0.2:
            failures.append(path)
            return 500
        return None

    done = call("-m", "seed=0,1", "backend=numpy", "train.epochs=20", "data.n=20", "data.n_test=10",
                "tracking.model=false", f"tracking.uri={proxy(answer).uri}", cwd=tmp_path,
                MLFLOW_HTTP_REQUEST_MAX_RETRIES="1")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(failures) > 10
    assert "ERROR" not in done.stdout
    parent = query(server.store, "select run_uuid from runs order by start_time desc")
    newest = [run for (run,) in parent][:3]
    names = ",".join(f"'{run}'" for run in newest)
    states = query(server.store, f"select status from runs where run_uuid in ({names})")
    assert states == [("FINISHED",)] * 3
    tags = query(server.store, f"select key from tags where run_uuid in ({names})")
    count = Counter(key for (key,) in tags)
    assert count["config.digest"] == count["sweep"] == 2
    assert count["kind"] == 3
    assert query(
        server.store, f"select count(*) from metrics where key='eval/mse' and run_uuid in ({names})"
    ) == [(2,)]
    assert not list(tmp_path.glob("outputs/**/queue.jsonl"))


@pytest.mark.long
def test_each_question_is_asked_again_where_the_answer_was_500(
    tmp_path, monkeypatch, server, proxy
):
    """Here every third request fails, and the client repeats none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(store, "_ready", {})
    chance = random.Random(1)
    store.prepare_store(proxy(lambda method, path: 500 if chance.random() < 0.35 else None).uri)
    parent = run.create_run(experiment="asked", artifacts="", name="p", tags={"kind": "sweep"})
    (tmp_path / "record").mkdir()
    (tmp_path / "record/record.json").write_text("{}")
    for name in range(12):
        (tmp_path / f"record/{name}.npy").write_bytes(b"array")
    opened = run.open_run(experiment="asked", artifacts="", name="c", tags={"kind": "run"},
                          parent=parent.id, folder=tmp_path / "run")  # fmt: skip
    with opened as child:
        child.log_folder(tmp_path / "record", "record")
        assert COURIER.settle(child._journal, patience=20)
    assert query_runs.find_latest_sweep("asked") == parent.id
    (about,) = query_runs.list_children(parent.id)
    assert about.info.run_id == child.id
    copy = query_runs.find_record(child.id, key="run")
    assert len([path for path in copy.iterdir() if path.stat().st_size]) == 13
    for _ in range(5):
        again = run.reopen_run(child.id)
        again.log_tags({"parity.verdict": "PASS"})
    run.link_run(parent.id, child.id, job=3, name="c")
    run.close_run(parent.id, "FINISHED")
    COURIER.settle(parent._journal, patience=20)
    tags = dict(query(server.store, f"select key, value from tags where run_uuid='{child.id}'"))
    assert tags["parity.verdict"] == "PASS"
    states = query(server.store, f"select status from runs where run_uuid in ('{parent.id}', '{child.id}')")  # fmt: skip
    assert states == [("FINISHED",)] * 2


@pytest.mark.parametrize("status", tiered([403, 413, 401], short=lambda number, _: number < 2))
def test_what_a_server_refuses_is_set_aside_and_the_rest_goes_on(
    tmp_path, monkeypatch, server, proxy, status
):
    """Of a folder a file; of a batch a part, unless it is refused for who asks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "_ready", {})
    refused = []

    def answer(method, path):
        if "big.txt" in path or ("log-batch" in path and refused_batches):
            refused.append(path)
            return status
        return None

    refused_batches = []
    store.prepare_store(proxy(answer).uri)
    files = tmp_path / "files"
    (files / "sub").mkdir(parents=True)
    for name in ("a.txt", "big.txt", "sub/z.txt"):
        (files / name).write_text(name)
    opened = run.open_run(
        experiment="refused", artifacts="", name=f"r{status}", tags={}, parent=None,
        folder=tmp_path / "run", pace=Pace(heartbeat=0.0),
    )  # fmt: skip
    with pytest.raises(store.TrackingError, match=str(status)), opened as tracked:  # noqa: PT012
        COURIER.settle(tracked._journal)
        identity = tracked.id
        first = query(server.store, f"select value from tags where key='heartbeat' and run_uuid='{identity}'")  # fmt: skip
        tracked.log_folder(files, "files")
        tracked.log_metrics({"after": 1.0})
        COURIER.settle(tracked._journal)
        assert query(server.store, f"select key from metrics where run_uuid='{identity}'") == [("after",)]  # fmt: skip
        refused_batches.append(True)
        tracked.log_series({"x": np.arange(3.0)}, steps=np.arange(3), points=10)
        COURIER.settle(tracked._journal)
        refused_batches.clear()
    assert query(server.store, f"select status from runs where run_uuid='{identity}'") == [("FAILED",)]  # fmt: skip
    second = query(server.store, f"select value from tags where key='heartbeat' and run_uuid='{identity}'")  # fmt: skip
    assert json.loads(second[0][0])["time"] > json.loads(first[0][0])["time"]
    lines = [json.loads(x) for x in (tmp_path / "run/spool/refused.jsonl").read_text().splitlines()]
    assert all(str(status) in line["reason"] for line in lines)
    kinds = Counter(next(iter(line["message"])) for line in lines)
    assert kinds == {"file": 1, "metrics": 3 if status == 413 else 1}
    sent = {p.name for p in (server.folder / "served").rglob("*.txt")}
    assert {"a.txt", "z.txt"} <= sent
    assert not list(tmp_path.rglob("queue.jsonl"))


def test_an_end_that_is_denied_waits(tmp_path, monkeypatch, server, proxy):
    """Whose password expires loses nothing: with a new one the run is closed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "_ready", {})
    denied = [True]
    uri = proxy(lambda method, path: 401 if denied and "runs/update" in path else None).uri
    store.prepare_store(uri)
    opened = run.open_run(
        experiment="denied", artifacts="", name="r", tags={}, parent=None,
        folder=tmp_path / "run", pace=Pace(wait=0.5),
    )  # fmt: skip
    with pytest.raises(store.TrackingError, match="401"), opened as tracked:
        tracked.log_metrics({"x": 1.0})
    COURIER.forget(tracked._journal)
    tracked._journal.spool.release()
    assert recover.list_undelivered(tmp_path) == [tmp_path / "run/spool"]
    denied.clear()
    assert "delivered" in recover.finish_spool(tmp_path / "run/spool")
    assert query(server.store, f"select status from runs where run_uuid='{tracked.id}'") == [("FINISHED",)]  # fmt: skip


def test_a_server_that_comes_back_empty_is_said_and_what_waits_is_kept(
    tmp_path, monkeypatch, server
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "_ready", {})
    store.prepare_store(server.uri)
    opened = run.open_run(
        experiment="emptied", artifacts="", name="r", tags={}, parent=None, folder=tmp_path / "run",
    )  # fmt: skip
    with pytest.raises(store.TrackingError, match="does not hold the run"), opened as tracked:  # noqa: PT012
        COURIER.settle(tracked._journal)
        with contextlib.closing(sqlite3.connect(server.store, timeout=20)) as connection:
            connection.execute("delete from tags where run_uuid = ?", (tracked.id,))
            connection.execute("delete from runs where run_uuid = ?", (tracked.id,))
            connection.commit()
        tracked.log_metrics({"x": 1.0})
    COURIER.forget(tracked._journal)
    tracked._journal.spool.release()
    kinds = [next(iter(json.loads(m))) for m in (tmp_path / "run/spool/queue.jsonl").open()]
    assert kinds == ["create", "metrics", "end"]
    assert "not delivered" in recover.finish_spool(tmp_path / "run/spool")
    assert recover.list_undelivered() == [tmp_path / "run/spool"]
