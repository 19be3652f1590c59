"""What the tests of tracking share: how long a run is, and what lies in a store or a queue."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time

LONG = ("backend=numpy", "record.trace=scalars", "tracking.model=false", "train.log_every=500",
        "tracking.flush=0.2")  # fmt: skip


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
