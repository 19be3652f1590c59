"""Every crash point, as SQLite tests itself: each file operation fails once, or is never reached.

The command runs again and again from one state of its folder, and each time another operation fails
or the process is killed before it. After each, one further command must close the books. `make
test-faults` takes one of each kind of operation of a run, `make test-long ARGS=tests/faults` all, of
a resumed run and a sweep too, in hours.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
from collections import Counter

import numpy as np
import pytest
from commands import call

from pipeline.record.record import RunRecord
from pipeline.tracking import spool

SMALL = ("backend=numpy", "tracking.model=false", "train.epochs=6", "data.n=8", "data.n_test=4",
         "tracking.figures=[png]", "record.trace=scalars")  # fmt: skip
KINDS = ("once", "full", "kill")
FULL = ("disk is full", "No space left on device")


class Place:
    """A folder whose state is put back before each call."""

    def __init__(self, folder):
        self.folder, self.before, self.log = folder / "here", folder / "before", folder / "log"
        self.folder.mkdir()

    def keep(self):
        shutil.rmtree(self.before, ignore_errors=True)
        shutil.copytree(self.folder, self.before, symlinks=True)

    def restore(self):
        shutil.rmtree(self.folder)
        shutil.copytree(self.before, self.folder, symlinks=True)
        self.log.unlink(missing_ok=True)

    def call(self, *overrides, plan=None):
        shim = {} if plan is None else {"FAIL_AT": plan, "OPERATIONS": str(self.log)}
        return call(*overrides, cwd=self.folder, **shim)

    def operations(self):
        return [line.split(" ", 2)[1:] for line in self.log.read_text().splitlines()]

    def query(self, sql):
        path = self.folder / "outputs/mlflow.db"
        with contextlib.closing(sqlite3.connect(path)) as store:
            return store.execute(sql).fetchall()

    def records(self):
        paths = sorted(self.folder.glob("outputs/runs/**/record.json"))
        paths += sorted(self.folder.glob("outputs/sweeps/**/record.json"))
        return [RunRecord.load(path.parent) for path in paths]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def bits(record):
    """What training decided, as bytes."""
    names = [
        n for n in record.arrays if n.startswith(("param/", "grad/", "loss", "last/", "order/"))
    ]
    return {name: record.arrays[name].tobytes() for name in names}


def judge(place, first, again, *, plan, rows, finished, reference):
    """Return what is wrong after a call that was hit and the one that closes the books."""
    wrong = []
    kind = plan.split()[0]
    if kind != "kill" and first.returncode not in (0, 1, 2):
        wrong.append(f"the first command ended with {first.returncode}")
    for name, done in (("first", first), ("second", again)):
        if "Traceback" in done.stderr:
            wrong.append(f"the {name} command has a traceback")
    if first.returncode in (1, 2) and not any(text in first.stderr for text in FULL):
        wrong.append("the first command does not say that the disk is full")
    if again.returncode != 0:
        wrong.append(f"the second command ended with {again.returncode}")
    if any(text in again.stderr for text in FULL):
        wrong.append("the second command says that the disk is full")
    if place.query("select 1 from runs where status = 'RUNNING'"):
        wrong.append("a run is RUNNING")
    queues = [path for path in place.folder.rglob("queue.jsonl") if spool.lags(path.parent)]
    if queues:
        wrong.append(f"a queue waits: {queues}")
    ends = Counter(s for (s,) in place.query("select status from runs"))
    if ends["FINISHED"] < finished + (first.returncode == 0):
        wrong.append(f"runs ended as {dict(ends)}")
    double = place.query("select key, step from metrics group by run_uuid, key, step having count(*) > 1")  # fmt: skip
    if double:
        wrong.append(f"steps are doubled: {double}")
    for record in place.records():
        seed = record.config["seed"]
        whole = bits(reference[seed])
        if record.about["status"] == "FINISHED" and bits(record) != whole:
            wrong.append(f"a finished record of seed {seed} has other bits")
        if not np.array_equal(
            record.arrays.get("loss", ()), reference[seed].arrays["loss"][: record.steps]
        ):
            wrong.append(f"a record of seed {seed} has other losses")
    query = ("select r.run_uuid, r.artifact_uri, (select count(*) from metrics m where m.run_uuid ="
             " r.run_uuid and key = 'train/loss') from runs r join tags t on t.run_uuid = r.run_uuid"
             " and t.key = 'kind' and t.value = 'run' where status = 'FINISHED'")  # fmt: skip
    for run, uri, count in place.query(query):
        if count != rows:
            wrong.append(f"run {run} has {count} losses")
        folder = uri.removeprefix("file://")
        try:
            record = RunRecord.load(place.folder / folder / "record")
        except Exception as error:
            wrong.append(f"run {run} has no record: {error!r}")
            continue
        if bits(record) != bits(reference[record.config["seed"]]):
            wrong.append(f"run {run} logged other bits")
    return wrong


def choose(operations):
    """Return the numbers of the operations without those that repeat what was done before.

    Two are the same if they do the same to the same kind of file, as those before them did: of the
    arrays of a record the first few are left, for instance.
    """
    kinds = [
        (name, re.sub(r"[0-9a-z_]{6,}(?=[/.]|$)", "#", re.sub(r"[\w-]+\.npy", "#.npy", path)))
        for name, path in operations
    ]
    numbers, known = [], set()
    for number in range(1, len(kinds) + 1):
        key = tuple(kinds[max(0, number - 2) : number])
        if key not in known:
            numbers.append(number)
        known.add(key)
    return numbers


def fail_at_each(place, kind, command, closing, every, **expected):
    """Let the command fail at each of its operations in turn, and close the books after each."""
    place.restore()
    assert place.call(*command, plan="once 0").returncode == 0
    operations = place.operations()
    numbers = range(1, len(operations) + 1) if every else choose(operations)
    failures, met = [], 0
    for number in numbers:
        place.restore()
        plan = f"{kind} {number}"
        first = place.call(*command, plan=plan)
        listed = place.operations()
        if len(listed) < number:  # what runs beside the training was faster this time
            continue
        met += 1
        again = place.call(*closing)
        wrong = judge(place, first, again, plan=plan, **expected)
        if wrong:
            failures.append((number, *listed[number - 1], wrong, first.stderr, again.stderr))
            print(json.dumps(failures[-1], default=str), flush=True)
    print(f"{kind}: {met} of {len(operations)} operations, {len(failures)} left something wrong")
    assert not failures
    assert met > 0.9 * len(numbers)


def cases(*short):
    """Every way to fail, with one operation of each kind and with all; `short` are not long."""
    return pytest.mark.parametrize(
        ("kind", "every"),
        [
            pytest.param(kind, every, marks=() if kind in short and not every else pytest.mark.long)
            for kind in KINDS
            for every in (False, True)
        ],
    )


@cases("once", "kill")
def test_a_run(place, kind, every):
    place.call(*SMALL)
    (record,) = place.records()
    place.keep()
    fail_at_each(place, kind, SMALL, ["stages=[sync]"], every, rows=6, finished=1,
                 reference={0: record})  # fmt: skip


@cases()
def test_a_resumed_run(place, kind, every):
    """Here the run of before was killed after its third checkpoint."""
    command = (*SMALL, "train.checkpoint=1e-9")
    place.keep()
    place.call(*command, plan="once 0")
    (record,) = place.records()
    written = [i for i, (name, path) in enumerate(place.operations(), 1)
               if name == "replace" and "checkpoint.json" in path]  # fmt: skip
    place.restore()
    place.call(*command, plan=f"kill {written[2] + 1}")
    place.keep()
    fail_at_each(place, kind, command, command, every, rows=6, finished=1,
                 reference={0: record})  # fmt: skip


@cases()
def test_a_sweep_of_two(place, kind, every):
    place.call(*SMALL)
    place.keep()
    place.call("-m", "seed=1,2", *SMALL)
    reference = {record.config["seed"]: record for record in place.records()}
    command = ("-m", "seed=1,2", *SMALL)
    fail_at_each(place, kind, command, command, every, rows=6, finished=3,
                 reference=reference)  # fmt: skip
