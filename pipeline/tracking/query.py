"""Runs, sweeps and records, looked up in the store."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pipeline.config.types import ConfigError
from pipeline.record.record import found_in
from pipeline.tracking.recover import deliver_waiting
from pipeline.tracking.run import LINKED
from pipeline.tracking.store import ANSWER_WAIT, TrackingError, ask_patiently


def list_children(parent: str) -> list[Any]:
    """Return the run of each job of a sweep in the order in which they started.

    One that several jobs are linked to is there once for each of them. What the jobs left on disk
    is delivered first.

    Raises
    ------
    TrackingError
        If the store does not answer.
    """
    deliver_waiting(ANSWER_WAIT)
    client = MlflowClient()
    about = ask_patiently(lambda: client.get_run(parent))
    linked = [tag.split(".")[-1] for tag in about.data.tags if tag.startswith(LINKED)]
    runs: list[Any] = [ask_patiently(partial(client.get_run, run)) for run in linked]
    token = None
    while True:
        page = ask_patiently(
            partial(
                client.search_runs,
                [about.info.experiment_id],
                filter_string=f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}'",
                order_by=["attributes.start_time ASC"],
                max_results=1000,
                page_token=token,
            )
        )
        runs += page
        token = page.token
        if not token:
            return runs


def find_finished(*, experiment: str, tags: Mapping[str, str], asked: str) -> str | None:
    """Return the newest finished run with these tags, None if there is none or nobody answers.

    `asked` are words in their usual order: a run of which more was asked has what they ask for.
    """
    client = MlflowClient()
    wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    wanted += f" and tags.`asked` LIKE '%{asked.replace(' ', '%')}%'"
    try:
        known = ask_patiently(lambda: client.get_experiment_by_name(experiment))
        if known is None:
            return None
        runs = ask_patiently(
            lambda: client.search_runs(
                [known.experiment_id],
                filter_string=f"attributes.status = 'FINISHED' and {wanted}",
                order_by=["attributes.start_time DESC"],
                max_results=1,
            )
        )
    except (MlflowException, requests.RequestException, TrackingError):
        return None
    return str(runs[0].info.run_id) if runs else None


def find_sweep(parent: str) -> tuple[Any, list[Any]]:
    """Return a sweep's parent and its runs.

    Raises
    ------
    ConfigError
        If there is no such sweep.
    TrackingError
        If the store does not answer.
    """
    try:
        children = list_children(parent)
        about = ask_patiently(lambda: MlflowClient().get_run(parent))
    except MlflowException:
        children, about = [], None
    if not children:
        raise ConfigError("compare.sweep", parent, "is not the id of a sweep with runs")
    return about, children


def find_latest_sweep(experiment: str) -> str:
    """Return the id of the newest sweep's parent run."""
    client = MlflowClient()
    known = ask_patiently(lambda: client.get_experiment_by_name(experiment))
    runs = known and ask_patiently(
        lambda: client.search_runs(
            [known.experiment_id],
            filter_string="tags.kind = 'sweep'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
    )
    if not runs:
        raise ConfigError("compare.sweep", "latest", f"experiment {experiment!r} has no sweep yet")
    return str(runs[0].info.run_id)


def is_sweep_running(experiment: str) -> bool:
    """Whether some sweep of an experiment is not closed; those of dead processes were before."""
    client = MlflowClient()
    known = ask_patiently(lambda: client.get_experiment_by_name(experiment))
    if known is None:
        return False
    runs = ask_patiently(
        lambda: client.search_runs(
            [known.experiment_id],
            filter_string="tags.kind = 'sweep' and attributes.status = 'RUNNING'",
            max_results=1,
        )
    )
    return bool(runs)


def find_record(run: str, *, key: str, artifacts: str = "") -> Path:
    """Return where a run's record lies: a folder given as such, or a run's artifact.

    Where the URI of its artifacts is known and of this machine, nobody need be asked.

    Raises
    ------
    ConfigError
        If there is no such run, or it holds no record.
    TrackingError
        If the store does not answer.
    """
    local = local_file_uri_to_path(artifacts) if artifacts.startswith("file:") else run
    here = found_in(Path(local))
    if here is not None:
        return here
    missing = ConfigError(
        key, run, "is neither the id of an MLflow run with a record nor a record folder"
    )
    client = MlflowClient()
    try:
        place = ask_patiently(lambda: client.get_run(run)).info.artifact_uri
        if place.startswith("file:"):
            here = found_in(Path(local_file_uri_to_path(place)))
        elif ask_patiently(partial(client.list_artifacts, run, "record")):
            here = _download_record(place)
    except (MlflowException, requests.RequestException, OSError):
        raise missing from None
    if here is None:
        raise missing
    return here


def _download_record(uri: str) -> Path:
    """Copy the record below a run's artifacts, file by file, so that one failure repeats one file.

    The copy lasts as long as the process.
    """
    artifacts = get_artifact_repository(uri)
    target = tempfile.mkdtemp(prefix="twingrad-record-")
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    folders = ["record"]
    while folders:
        for entry in ask_patiently(partial(artifacts.list_artifacts, folders.pop())):
            if entry.is_dir:
                folders.append(entry.path)
            else:
                ask_patiently(partial(artifacts.download_artifacts, entry.path, target))
    return Path(target) / "record"
