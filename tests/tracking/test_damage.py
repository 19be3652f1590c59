"""A queue that was damaged: what is whole is delivered, what is not is said, nothing stays open."""

from __future__ import annotations

import json
import shutil

import pytest
from stores import query

from pipeline.tracking import recover, spool
from pipeline.tracking.courier import COURIER
from pipeline.tracking.run import create_run
from pipeline.tracking.store import prepare_store


@pytest.fixture
def dead(tmp_path, monkeypatch, fresh):
    """A run of a process that died: its creation is delivered, and the rest waits in its queue."""
    monkeypatch.chdir(tmp_path)
    prepare_store(f"sqlite:///{fresh(tmp_path / 'outputs/mlflow.db')}")
    run = create_run(
        experiment="e", artifacts="outputs/artifacts", name="n", tags={},
        folder=tmp_path / "outputs/runs/r",
    )  # fmt: skip
    COURIER.forget(run._journal)
    for step in range(4):
        run.log_metrics({"x": float(step)}, step=step)
    run._journal.spool.release()
    return run._journal.spool.folder


def cut(folder):
    queue = folder / "queue.jsonl"
    queue.write_bytes(queue.read_bytes()[:-10])


def put(line):
    """A function that puts something in place of the queue's third line."""

    def damage(folder):
        queue = folder / "queue.jsonl"
        lines = queue.read_bytes().split(b"\n")
        queue.write_bytes(b"\n".join([*lines[:2], line, *lines[3:]]))

    return damage


def put_first(folder):
    queue = folder / "queue.jsonl"
    queue.write_bytes(queue.read_bytes()[5:])


def nul_tail(folder):
    with (folder / "queue.jsonl").open("ab") as queue:
        queue.write(bytes(4096))


def position(text):
    """A function that writes something else than where the delivery stands."""
    return lambda folder: (folder / "position.jsonl").write_bytes(text)


def no_position(folder):
    (folder / "position.jsonl").unlink()


def folder_for_position(folder):
    (folder / "position.jsonl").unlink()
    (folder / "position.jsonl").mkdir()


def line(offset, run="0" * 32):
    return position(json.dumps({"offset": offset, "run": run}).encode() + b"\n")


def position_of_another_run(folder):
    end = (folder / "queue.jsonl").read_bytes().index(b"\n") + 1
    line(end)(folder)


DAMAGES = {
    "cut line": (cut, [0, 1, 2]),
    "NULs": (put(bytes(40)), [0, 2, 3]),
    "no UTF-8": (put(b'{"metrics": [["\xff\xfe", 1.0, 1, 1]]}'), [0, 2, 3]),
    "no message": (put(b'{"metrics": 5}'), [0, 2, 3]),
    "an endless step": (put(b'{"metrics": [["x", 1.0, 17, %d]]}' % 10**30), [0, 2, 3]),
    "an endless moment": (put(b'{"metrics": [["x", 1.0, %d, 1]]}' % 10**30), [0, 2, 3]),
    "an endless number": (put(b'{"metrics": [["x", %d, 17, 1]]}' % 10**400), [0, 2, 3]),
    "an endless end": (put(b'{"end": "FINISHED", "time": %d}' % 10**30), [0, 2, 3]),
    "a file with NUL": (put(b'{"file": "a\\u0000b", "target": null}'), [0, 2, 3]),
    "a long file": (put(b'{"file": "%s", "target": null}' % (b"a" * 5000)), [0, 2, 3]),
    "half a surrogate": (put(b'{"tags": {"a": "\\ud800"}}'), [0, 2, 3]),
    "no target": (put(b'{"folder": "../record", "target": 5}'), [0, 2, 3]),
    "no object": (put(b"[1]"), [0, 2, 3]),
    "deep": (put(b"[" * 100_000), [0, 2, 3]),
    "first line": (put_first, [0, 1, 2, 3]),
    "NULs at the end": (nul_tail, [0, 1, 2, 3]),
    "no position": (no_position, [0, 1, 2, 3]),
    "a folder for the position": (folder_for_position, [0, 1, 2, 3]),
    "position is noise": (position(b"\xff\0\xfe"), [0, 1, 2, 3]),
    "position beyond the end": (line(10**9), [0, 1, 2, 3]),
    "position within a line": (line(7), [0, 1, 2, 3]),
    "position below 0": (line(-1), [0, 1, 2, 3]),
    "position is text": (line("x"), [0, 1, 2, 3]),
    "position is endless": (line(10**400), [0, 1, 2, 3]),
    "position of another run": (position_of_another_run, [0, 1, 2, 3]),
    "position of no run": (line(5, run="../../etc"), [0, 1, 2, 3]),
}
WHOLE = [name for name in DAMAGES if "position" in name]


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_whole_is_delivered_and_the_run_is_closed(dead, tmp_path, name):
    damage, steps = DAMAGES[name]
    damage(dead)
    lines = recover.recover_runs(stale=300)
    store = tmp_path / "outputs/mlflow.db"
    assert query(store, "select status from runs") == [("KILLED",)]
    assert query(store, "select step from metrics order by step") == [(step,) for step in steps]
    (text,) = lines
    assert "KILLED" in text
    assert ("damaged" in text) == (name not in WHOLE)
    assert recover.list_undelivered(tmp_path / "outputs") == []


def test_a_folder_in_place_of_the_queue_stops_nobody(dead, tmp_path):
    """Its run is closed; and as something is left, nobody says that nothing waits."""
    (dead / "queue.jsonl").unlink()
    (dead / "queue.jsonl").mkdir()
    (text,) = recover.recover_runs(stale=300)
    assert "not delivered" in text
    assert query(tmp_path / "outputs/mlflow.db", "select status from runs") == [("KILLED",)]
    assert recover.list_undelivered(tmp_path / "outputs") == [dead]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"\0", b"/nowhere", b"x" * 5000])
def test_a_note_that_leads_nowhere_stops_nobody(dead, tmp_path, content):
    spool.HOME.mkdir(exist_ok=True)
    (spool.HOME / "x.path").write_bytes(content)
    assert len(recover.recover_runs(stale=300)) == 1
    assert query(tmp_path / "outputs/mlflow.db", "select status from runs") == [("KILLED",)]


def test_a_killed_run_that_nobody_noted_is_found_by_sync(dead, tmp_path, monkeypatch):
    """Its store was never told where it is, for instance because its folder was moved."""
    moved = tmp_path / "outputs/elsewhere"
    dead.parent.rename(moved)
    assert recover.list_undelivered() == []
    assert recover.list_undelivered(tmp_path / "outputs") == [moved / "spool"]
    assert "KILLED" in recover.finish_spool(moved / "spool")
    assert query(tmp_path / "outputs/mlflow.db", "select status from runs") == [("KILLED",)]
    assert len(query(tmp_path / "outputs/mlflow.db", "select 1 from metrics")) == 4


def test_a_queue_uploads_nothing_from_outside_its_runs_folder(dead, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("hunter2")
    (dead.parent / "inside").mkdir()
    (dead.parent / "inside/link.txt").symlink_to(secret)
    with (dead / "queue.jsonl").open("a") as queue:
        for message in ({"file": "../../../../secret.txt", "target": None},
                        {"file": str(secret), "target": None},
                        {"folder": "/", "target": "all"},  # not even walked through
                        {"folder": "../inside", "target": "x"}):  # fmt: skip
            queue.write(json.dumps(message) + "\n")
    (text,) = recover.recover_runs(stale=300)
    assert "outside" in text
    assert query(tmp_path / "outputs/mlflow.db", "select status from runs") == [("KILLED",)]
    assert not list(tmp_path.glob("outputs/artifacts/**/*.txt"))
    refused = (dead / "refused.jsonl").read_text().splitlines()
    assert [json.loads(entry)["reason"].count("outside") for entry in refused] == [1] * 4


def test_a_queue_whose_end_has_arrived_is_found_and_removed(dead, tmp_path, monkeypatch):
    """Of a process that is killed between the two, when the store shows the run as ended."""

    def killed(place):
        place.release()
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(spool.Spool, "remove", killed)
        with pytest.raises(SystemExit):
            recover.recover_runs(stale=300)
    assert query(tmp_path / "outputs/mlflow.db", "select status from runs") == [("KILLED",)]
    assert spool.list_waiting() == [dead]
    recover.recover_runs(stale=300)
    assert not (dead / "queue.jsonl").exists()
    assert recover.recover_runs(stale=300) == []


def test_a_copy_whose_first_line_is_damaged_delivers_nothing(dead, tmp_path):
    """Where no run names it, nothing tells it from the original."""
    copy = tmp_path / "outputs/runs/copy/spool"
    shutil.copytree(dead, copy)
    put_first(copy)
    assert recover.finish_spool(copy) is None
    assert query(tmp_path / "outputs/mlflow.db", "select step from metrics") == []
    assert (copy / "queue.jsonl").is_file()


def test_a_copy_of_a_queue_delivers_nothing_while_its_original_is_there(dead, tmp_path):
    """Whose lock is free though its owner may live: here it does."""
    copy = tmp_path / "outputs/runs/copy/spool"
    shutil.copytree(dead, copy)
    owner = spool.take_over(dead)
    store = tmp_path / "outputs/mlflow.db"
    assert recover.finish_spool(copy) is None
    assert recover.list_undelivered(tmp_path / "outputs") == [dead]
    assert query(store, "select status from runs") == [("RUNNING",)]
    owner.append({"end": "FINISHED", "time": 1})
    owner.release()
    assert "delivered" in recover.finish_spool(dead)
    assert recover.finish_spool(copy) is not None  # its original is gone: it says the same again
    assert query(store, "select status from runs") == [("FINISHED",)]
    assert len(query(store, "select 1 from metrics")) == 4
