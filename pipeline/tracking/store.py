"""The tracking store: prepared and asked, and what its refusals mean."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.config.types import ConfigError
from pipeline.redact import redact
from pipeline.storage import is_full
from pipeline.tracking.sqlite import prepare_sqlite, sqlite_file

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
        prepare_sqlite(uri)
    else:
        mlflow.set_tracking_uri(uri)
    try:
        question = partial(MlflowClient().search_experiments, max_results=1)
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


def resolve_uri(uri: str) -> str:
    """Return a store's URI so that the same store has the same one from every folder."""
    return (
        f"sqlite:///{sqlite_file(uri).absolute()}" if uri.startswith("sqlite:") else uri.rstrip("/")
    )


def is_refused(error: Exception) -> bool:
    """Whether the store answered and will never take this, so that repeating it is of no use."""
    if isinstance(error, ConfigError | OutsideError | FileNotFoundError | NotADirectoryError):
        return True
    # A message that no client can send, or no file system can name.
    if isinstance(error, TypeError | UnicodeError | OverflowError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
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
