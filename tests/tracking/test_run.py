"""What a run logs is in the store, once and in order."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from stores import query

from pipeline.tracking import recover
from pipeline.tracking.courier import COURIER
from pipeline.tracking.deliver import Pace
from pipeline.tracking.spool import Spool
from pipeline.tracking.store import TrackingError


def test_a_message_that_is_sent_twice_counts_once(tmp_path, tracked):
    """As after a crash between delivery and note: everything comes again from the first message."""
    import mlflow

    with tracked() as run:
        run.log_params({"a": 1})
        run.log_series({"x": np.array([1.0, np.nan, np.inf])}, steps=np.arange(1, 4), points=10)
        run.log_metrics({"y": 2.0})
        run.log_table(["k"], [["1"]], "t")
        run.log_data(np.zeros((3, 1)), np.zeros(3), name="d", digest="0" * 64)
        COURIER.settle(run._journal)
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
    assert "KILLED" in recover.finish_spool(tmp_path / "again")
    assert query(store, "select run_uuid from runs") == [(first,)]
    assert {t: query(store, f"select * from {t} order by 1, 2, 3") for t in before} == before
    assert len(before["metrics"]) == 4
    shown = mlflow.artifacts.load_text(f"runs:/{first}/t.json")
    assert json.loads(shown) == {"columns": ["k"], "data": [["1"]]}


def test_what_the_store_refuses_for_good_fails_the_run_and_holds_up_nothing(tmp_path, tracked):
    with pytest.raises(TrackingError, match="Invalid"), tracked() as run:  # noqa: PT012
        run.log_metrics({"no?": 1.0})
        run.log_file(tmp_path / "nothing")
        run.log_metrics({"yes": 1.0})
    store = tmp_path / "mlflow.db"
    assert query(store, "select status from runs") == [("FAILED",)]
    assert query(store, "select key from metrics") == [("yes",)]
    assert not list(tmp_path.glob("outputs/spool/*"))


def test_curves_told_while_training_are_not_told_again(tmp_path, tracked):
    total, points = 1000, 100
    losses = np.arange(total, dtype=float)
    pace = Pace(flush=0.05)
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
