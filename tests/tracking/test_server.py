"""A real server: what it is told, and what happens while it is away."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter

from stores import LONG, call, query, start, until

from pipeline.record import RunRecord


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
