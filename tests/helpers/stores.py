"""What the tests of tracking share: the command, and what lies in a store or a queue."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
import time

from commands import environment

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
