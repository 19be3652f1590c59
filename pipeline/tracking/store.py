"""The tracking store: made, migrated and asked, and what its refusals mean."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The courier below repeats what failed; MLflow's own patience of minutes would only hide it.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # it holds the password

import mlflow
import requests
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from pipeline.config import ConfigError
from pipeline.redact import redact
from pipeline.storage import is_full

# What goes wrong reaches us as an exception; their logs would add tracebacks, and URIs.
logging.getLogger("mlflow").setLevel(logging.CRITICAL)
logging.getLogger("urllib3").setLevel(logging.CRITICAL)
logging.getLogger("alembic").setLevel(logging.ERROR)

_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST", "INVALID_STATE")
ANSWER_WAIT = 10.0  # seconds that a question to a store that is away waits for its answer
_ready: set[str] = set()  # stores that this process has prepared
_said: set[str] = set()


class TrackingError(Exception):
    """The store refused something for good, or does not answer where an answer is needed."""


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
    """
    if uri in _ready and (not uri.startswith("sqlite:") or sqlite_file(uri).is_file()):
        mlflow.set_tracking_uri(uri)
        return
    try:
        _check(uri)
    except ConfigError:
        if not (started and uri.startswith("http")):
            raise
        mlflow.set_tracking_uri(uri)
        return
    _ready.add(uri)


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
        try:
            requests.get(f"{uri.rstrip('/')}/health", timeout=5).raise_for_status()
        except requests.RequestException as error:
            reason = type(error).__name__
            raise ConfigError("tracking.uri", redact(uri), f"does not answer ({reason})") from None
        mlflow.set_tracking_uri(uri)
    elif uri.startswith("sqlite:"):
        _prepare_sqlite(uri)
    else:
        mlflow.set_tracking_uri(uri)
    try:
        MlflowClient().search_experiments(max_results=1)
    except Exception as error:  # whatever a store raises, it is of no use
        reason = redact(str(error).splitlines()[0])
        raise ConfigError("tracking.uri", redact(uri), f"cannot be used ({reason})") from None


def sqlite_file(uri: str) -> Path:
    """Return the file of a SQLite store."""
    return Path(make_url(uri).database or "")


def resolve_uri(uri: str) -> str:
    """Return a store's URI so that the same store has the same one from every folder."""
    return (
        f"sqlite:///{sqlite_file(uri).absolute()}" if uri.startswith("sqlite:") else uri.rstrip("/")
    )


def _prepare_sqlite(uri: str) -> None:
    path = sqlite_file(uri)
    made: list[Path] = []
    try:
        if not path.name:
            raise OSError("it names no file")
        for folder in reversed([p for p in path.parents if not p.exists()]):
            folder.mkdir(exist_ok=True)
            made.append(folder)
        lock = path.with_name(f".{path.name}.lock")
        fresh = not path.exists()
        with FileLock(lock):
            engine = create_engine(uri)
            with engine.connect() as connection:
                connection.execute(text("PRAGMA journal_mode=WAL"))
                connection.execute(text("BEGIN IMMEDIATE"))
                connection.rollback()
            engine.dispose()
            mlflow.set_tracking_uri(uri)
            MlflowClient().search_experiments(max_results=1)
    except (OSError, SQLAlchemyError, MlflowException) as error:
        with contextlib.suppress(OSError, UnboundLocalError):
            lock.unlink(missing_ok=True)
            if fresh:
                path.unlink(missing_ok=True)
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise ConfigError("tracking.uri", uri, f"cannot be written ({reason})") from None


def is_refused(error: Exception) -> bool:
    """Whether the store answered and will never take this, so that repeating it is of no use."""
    if isinstance(error, ConfigError | FileNotFoundError | NotADirectoryError):
        return True
    return isinstance(error, MlflowException) and error.error_code in _REFUSALS


def describe_error(error: Exception) -> str:
    """Return in one line what a store said; of a full disk, which one."""
    text = redact(" ".join(str(error).split()))
    if not is_full(error):
        return text
    uri = mlflow.get_tracking_uri()
    where = str(sqlite_file(uri)) if uri.startswith("sqlite:") else redact(uri)
    return f"{where}: the tracking store's disk is full; what it has not got waits beside the run"


def ask_patiently(call: Callable[[], Any]) -> Any:
    """Return what a call to the store returns, waiting a little for one that is away."""
    deadline = time.monotonic() + ANSWER_WAIT
    while True:
        try:
            return call()
        except MlflowException as error:
            if is_refused(error):
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
