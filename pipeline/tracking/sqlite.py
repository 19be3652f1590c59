"""A SQLite store: created whole, opened, and followed when its folder was moved."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _initialize_tables
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from pipeline.config.types import ConfigError

HOME_TAG = "twingrad.home"  # of an experiment: the folder of its SQLite store
_ARTIFACTS = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
}


def sqlite_file(uri: str) -> Path:
    """Return the file of a SQLite store."""
    return Path(make_url(uri).database or "")


def sqlite_folder() -> Path | None:
    """Return the folder of the store in use, None where that is no SQLite file."""
    uri = mlflow.get_tracking_uri()
    return sqlite_file(uri).absolute().parent if uri.startswith("sqlite:") else None


def prepare_sqlite(uri: str) -> None:
    """Create or open a SQLite store under a lock; undo only what this process made of it."""
    path = sqlite_file(uri)
    folders: list[Path] = []
    created: list[Path] = []
    try:
        if not path.name:
            raise OSError("it names no file")
        for folder in reversed([p for p in path.parents if not p.exists()]):
            folder.mkdir(exist_ok=True)
            folders.append(folder)
        lock = path.with_name(f".{path.name}.lock")
        if _create_file(lock):
            created.append(lock)
        with FileLock(lock):
            try:
                if not path.exists() and _create_sqlite(path):
                    created.append(path)
                _open_sqlite(uri)
            except BaseException:
                if path in created:
                    created += [path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm")]
                for file in created:  # under the lock: nobody else has opened it yet
                    file.unlink(missing_ok=True)
                raise
    except (OSError, SQLAlchemyError, MlflowException) as error:
        for folder in reversed(folders):
            with contextlib.suppress(OSError):
                folder.rmdir()
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise ConfigError("tracking.uri", uri, f"cannot be written ({reason})") from None


def _create_file(path: Path) -> bool:
    """Create an empty file, and say whether it was this call that did."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        return False
    return True


def _create_sqlite(path: Path) -> bool:
    """Create a store beside its place and put it there whole; whether it was this call that did.

    MLflow's migrations are no transaction: one that is killed between them leaves a store that no
    command can open. The caller holds the lock, so what lies there is of one that was killed.
    """
    draft = path.with_name(f".{path.name}.new")
    for leftover in (draft, draft.with_name(f"{draft.name}-journal")):
        leftover.unlink(missing_ok=True)
    try:
        engine = create_engine(f"sqlite:///{draft}")
        _initialize_tables(engine)
        engine.dispose()
        os.link(draft, path)  # unlike a move, it replaces nothing that somebody else put there
    except FileExistsError:
        return False
    except OSError:  # a file system without links, which say that in several ways
        os.rename(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return True


def _open_sqlite(uri: str) -> None:
    """Open a store in an SQLite file for writing, and mend its artifacts' URIs if it was moved.

    Whatever MLflow or SQLAlchemy raises for a store that cannot be used is passed on.
    """
    engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            connection.execute(text("PRAGMA journal_mode=WAL"))
            connection.execute(text("BEGIN IMMEDIATE"))
            connection.rollback()
        mlflow.set_tracking_uri(uri)
        MlflowClient().search_experiments(max_results=1)
        with engine.begin() as connection:
            _follow_move(connection, sqlite_file(uri).absolute())
    finally:
        engine.dispose()


def _follow_move(connection: Connection, path: Path) -> None:
    """Let the artifacts of a store that was moved or copied be those beside it.

    MLflow keeps where they lie as absolute URIs. An experiment's tag says where the store lay when
    they were written; one made before that tag gets it if its artifacts are beside the store.
    """
    folder = path.parent
    connection.execute(
        text(
            "INSERT INTO experiment_tags (key, value, experiment_id) SELECT :key, :folder,"
            " experiment_id FROM experiments WHERE substr(artifact_location, 1, :n) = :prefix AND"
            " experiment_id NOT IN (SELECT experiment_id FROM experiment_tags WHERE key = :key)"
        ),
        {"key": HOME_TAG, "folder": str(folder)} | _prefix(folder),
    )
    query = text("SELECT DISTINCT value FROM experiment_tags WHERE key = :key AND value != :folder")
    for (old,) in connection.execute(query, {"key": HOME_TAG, "folder": str(folder)}).fetchall():
        try:
            if os.path.samefile(Path(old) / path.name, path):
                continue  # the same store by another name
        except OSError:
            pass
        for table, column in _ARTIFACTS.items():
            connection.execute(
                text(
                    f"UPDATE {table} SET {column} = :new || substr({column}, :n)"
                    f" WHERE substr({column}, 1, :n) = :prefix"
                ),
                {"new": folder.as_uri()} | _prefix(Path(old)),
            )
        connection.execute(
            text("UPDATE experiment_tags SET value = :folder WHERE key = :key AND value = :old"),
            {"key": HOME_TAG, "folder": str(folder), "old": old},
        )


def _prefix(folder: Path) -> dict[str, Any]:
    """Return a folder's URI and its length, as the parameters of a query by prefix."""
    prefix = f"{folder.as_uri()}/"
    return {"prefix": prefix, "n": len(prefix)}
