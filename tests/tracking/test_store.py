"""A SQLite store is made once, and nobody takes away what somebody else made."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from commands import call, environment
from sqlalchemy.exc import OperationalError
from stores import query

from pipeline.config.types import ConfigError
from pipeline.tracking import query as query_runs
from pipeline.tracking import recover, sqlite, store
from pipeline.tracking.courier import COURIER
from pipeline.tracking.run import close_run, create_run
from pipeline.tracking.store import TrackingError

ROOT = Path(__file__).parents[2]


def locked(uri):
    raise OperationalError("BEGIN IMMEDIATE", {}, Exception("database is locked"))


def test_a_store_that_somebody_else_made_in_the_meantime_stays(tmp_path, monkeypatch):
    """This process found no file, waited for the lock, and then the store does not let it in."""
    path = tmp_path / "mlflow.db"

    class Waited:
        """A lock for which this process waits while another one makes the store."""

        def __init__(self, lock):
            assert not path.exists()
            path.write_bytes(b"another's")

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    monkeypatch.setattr(sqlite, "FileLock", Waited)
    monkeypatch.setattr(sqlite, "_create_sqlite", lambda path: pytest.fail("it is there"))
    monkeypatch.setattr(sqlite, "_open_sqlite", locked)
    with pytest.raises(ConfigError, match="locked"):
        store.prepare_store(f"sqlite:///{path}")
    assert path.read_bytes() == b"another's"


@pytest.mark.parametrize("there", [True, False])
def test_only_what_this_process_made_is_undone(tmp_path, monkeypatch, there):
    """A lock or a store of before stays; of a store that could not be made nothing does."""
    folder = tmp_path / "new"
    path, lock = folder / "mlflow.db", folder / ".mlflow.db.lock"
    if there:
        folder.mkdir()
        path.write_bytes(b"a store")
        lock.touch()
    monkeypatch.setattr(sqlite, "_create_sqlite", lambda path: path.touch() or True)
    monkeypatch.setattr(sqlite, "_open_sqlite", locked)
    with pytest.raises(ConfigError, match="locked"):
        store.prepare_store(f"sqlite:///{path}")
    assert (path.exists(), lock.exists(), folder.exists()) == (there, there, there)


KILLED_IN_MIGRATION = """
import os
from alembic import command
real = command.upgrade
def upgrade(config, revision):
    real(config, "+5")
    os.kill(os.getpid(), 9)
command.upgrade = upgrade
from pipeline.tracking.store import prepare_store
prepare_store("sqlite:///outputs/mlflow.db")
"""


@pytest.mark.long
def test_a_store_whose_making_was_killed_is_made_anew(tmp_path, monkeypatch):
    done = subprocess.run(
        [sys.executable, "-c", KILLED_IN_MIGRATION], cwd=tmp_path,
        env=environment() | {"PYTHONPATH": str(ROOT)}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "outputs/mlflow.db").exists()
    monkeypatch.chdir(tmp_path)
    store.prepare_store(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    assert query(tmp_path / "outputs/mlflow.db", "select name from experiments") == [("Default",)]
    assert not list(tmp_path.glob("outputs/.mlflow.db.new*"))


def test_preparing_a_store_closes_nobodys_run(tmp_path, monkeypatch, fresh):
    monkeypatch.chdir(tmp_path)
    path = fresh(tmp_path / "outputs/mlflow.db")
    store.prepare_store(f"sqlite:///{path}")
    run = create_run(experiment="e", artifacts="a", name="n", tags={}, folder=tmp_path / "r")
    COURIER.forget(run._journal)
    run._journal.spool.release()  # as if its process were dead
    monkeypatch.setattr(store, "_ready", {})
    store.prepare_store(f"sqlite:///{path}")
    store.use_store(f"sqlite:///{path}")
    assert query(path, "select status from runs") == [("RUNNING",)]
    assert "KILLED" in recover.recover_runs(stale=300)[0]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_store_that_is_deleted_in_mid_run_is_said_and_everything_is_kept(
    tmp_path, tracked, replaced
):
    path = tmp_path / "mlflow.db"
    with pytest.raises(TrackingError, match="deleted"), tracked() as run:  # noqa: PT012
        run.log_metrics({"a": 1.0})
        COURIER.settle(run._journal)
        path.unlink()
        if replaced:
            path.write_bytes(b"")
        run.log_metrics({"b": 2.0})
    kinds = [next(iter(json.loads(m))) for m in (tmp_path / "run/spool/queue.jsonl").open()]
    assert kinds == ["create", "metrics", "metrics", "end"]
    assert not path.exists() or path.read_bytes() == b""
    COURIER.forget(run._journal)
    run._journal.spool.release()


def test_a_deleted_store_ends_a_command_with_1(tmp_path):
    program = (
        "import os; from pipeline.cli.main import main; from pipeline.stages import run as stage; "
        "real = stage._train; stage._train = lambda *a, **k: (real(*a, **k), "
        "os.unlink('outputs/mlflow.db')); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "backend=numpy", "train.epochs=5", "tracking.wait=1"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "the tracking store was deleted" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.glob("outputs/runs/**/queue.jsonl"))


# ---- outputs/ is moved, or copied -------------------------------------------------------------

SMALL = ("train.epochs=5", "data.n=20", "data.n_test=10", "tracking.model=false")


def snapshot(folder):
    """Every file of a folder, by its content and the time of its last change."""
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }  # fmt: skip


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder with a sweep in it, and a run that was killed with something undelivered."""
    folder = tmp_path_factory.mktemp("recorded") / "a"
    folder.mkdir()
    done = call("-m", "seed=0,1", "backend=numpy", *SMALL, cwd=folder)
    assert done.returncode == 0, done.stderr
    killed = (
        "from pathlib import Path; import os; from pipeline.tracking.courier import COURIER\n"
        "from pipeline.tracking.run import create_run\n"
        "from pipeline.tracking.store import prepare_store\n"
        "prepare_store('sqlite:///outputs/mlflow.db')\n"
        "run = create_run(experiment='e', artifacts='outputs/artifacts', name='k', tags={},\n"
        "                 folder=Path('outputs/runs/k'))\n"
        "COURIER.forget(run._journal); run.log_metrics({'x': 1.0}); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", killed], cwd=folder, env=environment(), check=False)
    assert list(folder.glob("outputs/runs/k/spool/queue.jsonl"))
    return folder


@pytest.mark.long
@pytest.mark.parametrize("moved", [False, True])
def test_outputs_work_where_they_were_moved_or_copied_to(recorded, tmp_path, moved):
    """And of a copy nothing is delivered to, taken from or written into the original."""
    other, store_path = tmp_path / "other", tmp_path / "other/outputs/mlflow.db"
    shutil.copytree(recorded, other)
    away = recorded.with_name("away")
    if moved:  # what was copied is the same; that nothing lies where it did makes the move
        recorded.rename(away)
    before = snapshot(away if moved else recorded)
    try:
        synced = call("stages=[sync]", cwd=other)
        assert (synced.returncode, "nothing waits" in synced.stdout) == (0, True), synced.stderr
        assert "k was killed: KILLED" in synced.stderr
        assert not list(other.glob("outputs/**/queue.jsonl"))
        (run, uri), *_ = query(
            store_path,
            "select r.run_uuid, artifact_uri from runs r join tags t on t.run_uuid = r.run_uuid"
            " and t.key = 'kind' and t.value = 'run'",
        )
        assert uri.startswith(f"{(other / 'outputs').as_uri()}/")
        compared = call("stages=[compare]", "compare.sweep=latest", cwd=other)
        assert compared.returncode == 0, compared.stdout + compared.stderr  # seeds are no pair
        assert "ERROR" not in compared.stdout
        scored = call("stages=[evaluate]", f"run={run}", cwd=other)
        assert scored.returncode == 0, scored.stderr
        again = call("backend=numpy", *SMALL, cwd=other)
        assert again.returncode == 0, again.stderr
    finally:
        if moved:
            away.rename(recorded)
    assert not query(store_path, "select 1 from runs where status = 'RUNNING'")
    assert len(query(store_path, "select 1 from runs")) == 5
    assert snapshot(recorded) == before


def test_comparing_two_folders_makes_no_store(recorded, tmp_path):
    a, b = sorted(path.parent for path in recorded.glob("outputs/sweeps/**/record/record.json"))
    done = call("stages=[compare]", f"compare.runs=[{a},{b}]", cwd=tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    assert not list(tmp_path.rglob("*.db"))


def test_a_sweep_runs_until_it_is_closed(tmp_path, monkeypatch, fresh):
    monkeypatch.chdir(tmp_path)
    store.prepare_store(f"sqlite:///{fresh(tmp_path / 'outputs/mlflow.db')}")
    assert not query_runs.is_sweep_running("e")
    for kind, running in (("run", False), ("sweep", True)):
        run = create_run(experiment="e", artifacts="a", name="n", tags={"kind": kind})
        assert query_runs.is_sweep_running("e") == running
    assert not query_runs.is_sweep_running("other")
    close_run(run.id, "FINISHED")
    assert not query_runs.is_sweep_running("e")


def test_a_full_disk_is_named_by_the_file_that_did_not_fit(tmp_path, monkeypatch):
    """And where that is not known, by the store."""
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "sqlite:///outputs/mlflow.db")
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "w.npy"))
    assert store.describe_error(error).startswith(f"{tmp_path / 'w.npy'}: ")
    nameless = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert store.describe_error(nameless).startswith("outputs/mlflow.db: ")
