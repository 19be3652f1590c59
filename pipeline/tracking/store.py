"""The tracking store: made, migrated and asked, and what its refusals mean."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import requests
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _initialize_tables
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from pipeline.config.types import ConfigError
from pipeline.redact import redact
from pipeline.storage import is_full

# The courier repeats what failed; MLflow's own patience of minutes would only hide it. The URL that
# it prints holds the password.
_MLFLOW = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
# What goes wrong reaches us as an exception; their logs would add tracebacks, and URIs.
_QUIET = {"mlflow": logging.CRITICAL, "urllib3": logging.CRITICAL, "alembic": logging.ERROR}
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE")
HOME_TAG = "twingrad.home"  # of an experiment: the folder of its SQLite store
_ARTIFACTS = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
}
ANSWER_WAIT = 10.0  # seconds that a question to a store that is away waits for its answer
_DENIALS = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")
_REFUSED_STATUS = {400, 401, 403, 405, 411, 413, 414, 415, 422, 431}
_LOST = "RESOURCE_DOES_NOT_EXIST"
KEPT = "what it has not got waits beside the run"
_ready: dict[str, tuple[int, int] | None] = {}  # stores that this process has prepared
_said: set[str] = set()


class TrackingError(Exception):
    """The store refused something for good, or does not answer where an answer is needed."""


class StoreLostError(TrackingError):
    """The store, or the run in it, is gone: nothing more can be delivered there."""


class OutsideError(TrackingError):
    """A queue that was found on disk names a file outside its run's folder."""


def settle_mlflow() -> None:
    """Set how patient and how loud MLflow is in this process, where nobody has said so."""
    for name, value in _MLFLOW.items():
        os.environ.setdefault(name, value)
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def restored_uri() -> Iterator[None]:
    """Put MLflow's tracking URI back at the end, and the variable that MLflow keeps it in."""
    name = "MLFLOW_TRACKING_URI"
    variable, uri = os.environ.get(name), mlflow.get_tracking_uri()
    try:
        yield
    finally:
        mlflow.set_tracking_uri(uri)
        if variable is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = variable


def prepare_store(uri: str, *, started: bool = False) -> None:
    """Make sure the store can be written before anything is: create it, migrate it, once.

    A SQLite store is initialised under a file lock, because processes that open a fresh one at the
    same time leave it broken, and switched to write-ahead logging, so that readers do not stop
    writers. No run in it is touched; `pipeline.tracking.recover` closes those of dead processes.

    Parameters
    ----------
    started
        The command began earlier, as for a sweep's later jobs: a server that does not answer now
        may answer later, and what is logged waits for it.

    Raises
    ------
    ConfigError
        If the store cannot be reached, opened or written.
    StoreLostError
        If this process used another store of that name, which is gone.
    """
    settle_mlflow()
    if uri in _ready and _stamp(uri) is not None:
        mlflow.set_tracking_uri(uri)
        check_presence()
        return
    try:
        _check(uri)
    except ConfigError:
        if not (started and uri.startswith("http")):
            raise
        mlflow.set_tracking_uri(uri)
        return
    _ready[uri] = _stamp(uri)


def _stamp(uri: str) -> tuple[int, int] | None:
    """Return what tells a SQLite store's file from another in its place, None without a file."""
    if not uri.startswith("sqlite:"):
        return (0, 0)
    try:
        about = sqlite_file(uri).stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


def is_prepared() -> bool:
    """Whether a store is in use; MLflow's own default would make one in the working directory."""
    return mlflow.get_tracking_uri() in _ready


def check_presence() -> None:
    """Make sure that the SQLite store in use is the one that was prepared.

    A connection to a file that was deleted takes everything, and all of it is lost.

    Raises
    ------
    StoreLostError
        If the file was deleted, or another one lies there.
    """
    uri = mlflow.get_tracking_uri()
    if uri in _ready and _stamp(uri) != _ready[uri]:
        raise StoreLostError(f"{sqlite_file(uri)}: the tracking store was deleted; {KEPT}")


def use_store(uri: str) -> None:
    """Use a store that is there, to read from it; one that is not is not made.

    Raises
    ------
    ConfigError
        If there is no such store, or it cannot be used.
    """
    if uri.startswith("sqlite:") and not sqlite_file(uri).is_file():
        raise ConfigError("tracking.uri", uri, "no such store; a first run makes it")
    prepare_store(uri)


def _check(uri: str) -> None:
    """Create or reach a store and ask it something; raise `ConfigError` if that fails."""
    if "@" in uri and not uri.startswith("sqlite:") and len(uri.split()) > 1:
        shown = f"{uri.partition('://')[0]}://***"  # where its password ends nobody could tell
        raise ConfigError("tracking.uri", shown, "must not hold a space; write it as %20")
    if uri.startswith(("http://", "https://")):
        _ask_health(uri)
        mlflow.set_tracking_uri(uri)
    elif uri.startswith("sqlite:"):
        _prepare_sqlite(uri)
    else:
        mlflow.set_tracking_uri(uri)
    question = partial(MlflowClient().search_experiments, max_results=1)
    try:
        ask_patiently(question) if uri.startswith("http") else question()
    except Exception as error:  # whatever a store raises, it is of no use
        reason = redact(str(error).splitlines()[0])
        raise ConfigError("tracking.uri", redact(uri), f"cannot be used ({reason})") from None


def _ask_health(uri: str) -> None:
    """Ask a server whether it is there; one that answers with an error is asked again."""
    for attempt in range(5):
        try:
            answer = requests.get(f"{uri.rstrip('/')}/health", timeout=5)
            if answer.status_code >= 500 and attempt < 4:
                time.sleep(0.2)
                continue
            answer.raise_for_status()
            return
        except requests.RequestException as error:
            reason = type(error).__name__
            raise ConfigError("tracking.uri", redact(uri), f"does not answer ({reason})") from None


def sqlite_file(uri: str) -> Path:
    """Return the file of a SQLite store."""
    return Path(make_url(uri).database or "")


def sqlite_folder() -> Path | None:
    """Return the folder of the store in use, None where that is no SQLite file."""
    uri = mlflow.get_tracking_uri()
    return sqlite_file(uri).absolute().parent if uri.startswith("sqlite:") else None


def resolve_uri(uri: str) -> str:
    """Return a store's URI so that the same store has the same one from every folder."""
    return (
        f"sqlite:///{sqlite_file(uri).absolute()}" if uri.startswith("sqlite:") else uri.rstrip("/")
    )


def _prepare_sqlite(uri: str) -> None:
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


def is_refused(error: Exception) -> bool:
    """Whether the store answered and will never take this, so that repeating it is of no use."""
    if isinstance(error, ConfigError | OutsideError | FileNotFoundError | NotADirectoryError):
        return True
    if isinstance(error, TypeError):  # a message that no client can send
        return True
    if _status(error) in _REFUSED_STATUS or is_denied(error):
        return True
    return isinstance(error, MlflowException) and error.error_code in _REFUSALS


def is_denied(error: Exception) -> bool:
    """Whether a refusal is for who asks, not for what is asked."""
    return _status(error) in (401, 403) or getattr(error, "error_code", None) in _DENIALS


def is_lost(error: Exception) -> bool:
    """Whether the store says that it does not hold what was asked for."""
    return isinstance(error, StoreLostError) or getattr(error, "error_code", None) == _LOST


def _status(error: Exception) -> int | None:
    """Return the HTTP status that a server answered with, None where that is not known."""
    answer = getattr(error, "response", None)
    if isinstance(error, requests.HTTPError) and answer is not None:
        return int(answer.status_code)
    match = re.search(r"failed with error code (\d+)", str(error))
    return int(match[1]) if isinstance(error, MlflowException) and match else None


def describe_error(error: Exception) -> str:
    """Return in one line what a store said; of a full disk, which one."""
    text = redact(" ".join(str(error).split()))
    if not is_full(error):
        return text
    uri = mlflow.get_tracking_uri()
    store = str(sqlite_file(uri)) if uri.startswith("sqlite:") else redact(uri)
    where = getattr(error, "filename", None) or store
    return f"{where}: the tracking store's disk is full; {KEPT}"


def ask_patiently(call: Callable[[], Any]) -> Any:
    """Return what a call to the store returns, waiting a little for one that is away.

    Raises
    ------
    TrackingError
        If it does not answer in `ANSWER_WAIT` seconds, or is gone.
    MlflowException, requests.HTTPError
        What it refuses, or does not hold.
    """
    deadline = time.monotonic() + ANSWER_WAIT
    while True:
        check_presence()
        try:
            return call()
        except (MlflowException, requests.RequestException) as error:
            if is_refused(error) or is_lost(error):
                raise
            if time.monotonic() > deadline:
                raise TrackingError(
                    "the tracking store does not answer; when it does, python -m pipeline "
                    f"'stages=[sync]' delivers what waits on disk ({describe_error(error)[:200]})"
                ) from None
            time.sleep(0.5)


def say(text: str) -> None:
    """Print a line on stderr, without the passwords in it."""
    print(f"twingrad: {redact(text)}", file=sys.stderr, flush=True)


def say_once(text: str) -> None:
    """Print a line on stderr, once in a process."""
    if text not in _said:
        _said.add(text)
        say(text)
