"""A store made once, a server on it, and a run that this process opens."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest
from servers import Server


@pytest.fixture(scope="session")
def fresh(tmp_path_factory):
    """A function that copies an empty store, made once: its migrations take seconds."""
    from pipeline.tracking.store import prepare_store

    template = tmp_path_factory.mktemp("template") / "mlflow.db"
    prepare_store(f"sqlite:///{template}")

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


@pytest.fixture
def tracked(tmp_path, monkeypatch, fresh):
    """A store that this process uses, and a function that opens a run in it."""
    from pipeline.tracking.run import open_run
    from pipeline.tracking.store import prepare_store

    monkeypatch.chdir(tmp_path)
    prepare_store(f"sqlite:///{fresh(tmp_path / 'mlflow.db')}")

    def opened(**more):
        given = {
            "experiment": "e",
            "artifacts": "artifacts",
            "name": "n",
            "tags": {},
            "parent": None,
        }
        return open_run(**given | more, folder=tmp_path / "run")

    return opened
