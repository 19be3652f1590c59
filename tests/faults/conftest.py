"""Faults on purpose: minutes, not seconds. ``make test-faults`` runs them, ``make test`` does not.

What is started here is ended by its own id, or as its own process group.
"""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import environment, start
from servers import Server

PIPELINE = (sys.executable, "-m", "pipeline")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave these out unless the command line names their folder."""
    return None if any("faults" in str(argument) for argument in config.args) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)


class Lab:
    """A folder to run the command in, with what a test looks at afterwards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "outputs/mlflow.db"
        self.running: list[subprocess.Popen] = []

    def start(self, *command, **more):
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment(), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, **more,
        )  # fmt: skip
        self.running.append(process)
        return process

    def command(self, *overrides):
        process = start(*overrides, cwd=self.folder)
        self.running.append(process)
        return process

    def call(self, *overrides):
        process = self.command(*overrides)
        out, said = process.communicate()
        return process.returncode, out, said

    def query(self, sql, store=None):
        with contextlib.closing(sqlite3.connect(store or self.store, timeout=30)) as found:
            return found.execute(sql).fetchall()

    def count(self, sql, store=None):
        with contextlib.suppress(sqlite3.OperationalError):
            return self.query(f"select count(*) {sql}", store)[0][0]
        return 0

    def until(self, condition, seconds=180.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.1)


@pytest.fixture
def lab(tmp_path):
    made = Lab(tmp_path)
    yield made
    for process in made.running:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture
def server(tmp_path):
    (tmp_path / "server").mkdir()
    made = Server(tmp_path / "server")
    yield made
    made.kill()
