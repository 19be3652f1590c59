"""One tracked run made of stages; everything is checked before anything is created."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import backends, identity, storage
from pipeline.backends.base import Backend, Model
from pipeline.config.schema import Config
from pipeline.config.types import ConfigError
from pipeline.jobs.job import Job, choose_trace, list_inexact, show_layers, solve_least_squares
from pipeline.jobs.resolve import resolve_recorded
from pipeline.record.checkpoint import Checkpoint
from pipeline.record.record import RunRecord
from pipeline.redact import redact, redact_values
from pipeline.stages.account import account
from pipeline.stages.checkpoints import Checkpoints
from pipeline.stages.evaluate import evaluate
from pipeline.stages.generate import generate, stored
from pipeline.stages.train import Report, Score, train
from pipeline.tracking.deliver import Pace
from pipeline.tracking.logger import Run
from pipeline.tracking.query import find_record
from pipeline.tracking.recover import close_dead_runs
from pipeline.tracking.run import open_run, reopen_run
from pipeline.tracking.store import prepare_store

DATA = Path("outputs/data")
Progress = Callable[[int], contextlib.AbstractContextManager[Report]]

# What cannot change once a backend has run in this process.
_fixed: dict[str, tuple[Any, ...]] = {}


def needs_own_process(settings: Config) -> bool:
    """Whether this process has already run the backend with other once-only settings."""
    wanted = _once_only(settings)
    return _fixed.get(settings.backend.name, wanted) != wanted


def _once_only(settings: Config) -> tuple[Any, ...]:
    """Return the settings that cannot change once the backend has run in a process."""
    words = backends.traits(settings.backend.name)["ONCE"]
    return tuple(getattr(settings.backend, word) for word in words)


def run(
    job: Job,
    *,
    folder: Path,
    name: str,
    parent: str | None,
    resume: bool,
    recover: bool = False,
    progress: Progress,
    begun: Callable[[str], None] = lambda run: None,
) -> RunRecord:
    """Run the stages generate, train and evaluate as one tracked run.

    Parameters
    ----------
    job
        What the config asks for.
    folder
        Where the run's own files go.
    name, parent
        The run's name, and the id of the sweep it belongs to.
    resume
        Whether to go on from the checkpoint of the same job, if there is one.
    recover
        Whether to close the runs of dead processes first, as a command does at its start.
    progress
        Given the number of updates, opens what shows how far training is.
    begun
        Told the run's id as soon as there is one.

    Raises
    ------
    ConfigError
        Before anything was created.
    NonFiniteLossError
        After the run was closed as FAILED with what it had.
    """
    settings = job.settings
    if settings.stages == ("generate",):
        print(f"data  {generate(job.dataset, folder=DATA)}")
        return RunRecord(about={"config": dict(job.values)})
    makes_data = "generate" in settings.stages
    if not makes_data:  # data that are not there are refused before there is a store
        job = _with_stored_data(job)
    backend = backends.load(settings.backend.name)
    device = job.configure(backend)
    _fixed[settings.backend.name] = _once_only(settings)
    prepare_store(settings.tracking.uri, started=parent is not None)
    if recover:
        close_dead_runs(stale=settings.tracking.stale)
    if makes_data:
        job = _with_stored_data(job)
    checkpoints = Checkpoints(job)
    before = checkpoints.load() if resume else None
    versions = {"numpy": np.__version__, **backend.versions()}
    record = _begin_record(job, device=device, versions=versions)
    model = job.build(backend, values=_start_of(job, before), device=device)
    _say(job, before)
    tags = _tags(job, versions=versions, parent=parent, before=before)
    opened = _open_run(job, name=name, tags=tags, parent=parent, folder=folder)
    with checkpoints.held(goes_on=before is not None), opened as tracked:
        record.about["run"] = tracked.id
        begun(tracked.id)
        checkpoints.about = {
            "run": tracked.id, "folder": str(folder.absolute()), "config": record.config,
            "pair": job.environment.get("pair", ""),
        }  # fmt: skip
        _log_inputs(job, tracked, shown=record.config)
        with account(record, tracked, job=job, folder=folder):
            _train(
                job, record, tracked, backend=backend, model=model, device=device,
                checkpoints=checkpoints, before=before, progress=progress, folder=folder,
            )  # fmt: skip
            if settings.train.weights == "best":
                model = job.build(backend, values=record.named("best"), device=device)
            if "evaluate" in settings.stages:
                evaluate(record, backend=backend, model=model, dataset=job.dataset)
        if settings.tracking.model and backend.FLAVOR:
            _log_model(
                job, tracked, backend=backend, model=model, versions=versions, step=record.steps
            )
    return record


def _with_stored_data(job: Job) -> Job:
    """Return the job with the samples as they lie on disk, checked; write them if they shall be.

    The batches stay: data of one digest have the same bits.
    """
    path = DATA / f"{job.identity.data}.npz"
    if "generate" in job.settings.stages and not path.is_file():
        with storage.room_for(DATA):
            generate(job.dataset, folder=DATA)
    dataset = stored(job.dataset, folder=DATA)
    if dataset.facts != job.dataset.facts:  # another pair made the same numbers
        dataset = dataclasses.replace(dataset, facts=job.dataset.facts)
    return dataclasses.replace(job, dataset=dataset)


def _start_of(job: Job, before: Checkpoint | None) -> Mapping[str, np.ndarray] | None:
    """Return the first weights; None where the framework draws them itself."""
    if job.settings.model.init != "framework":
        return job.first
    return None if before is None else before.named("first")


def _begin_record(job: Job, *, device: str, versions: Mapping[str, str]) -> RunRecord:
    """Return the record of a job that has not begun to train."""
    samples, dataset = job.batches, job.dataset
    return RunRecord(
        about={
            "config": redact_values(dict(job.values)),
            "status": "RUNNING",
            "message": "",
            "device": device,
            "environment": dict(job.environment),
            "versions": dict(versions),
            "code": job.identity.code,
            "data": {"digest": job.identity.data, "name": dataset.name, "facts": dataset.facts},
            "least_squares": solve_least_squares(job),
            "trace": choose_trace(job)[1],
            **describe_pair(job.about_pair),
            "updates_per_epoch": -(-samples.count // samples.group),
            "scores": {},
            "time": {},
        }
    )


def describe_pair(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record says of a pair that is not ours; nothing of our own."""
    kept = (
        "left_over",
        "trained_on_one_side",
        "settings",
        "proof",
        "trains",
        "misfits",
        "constants",
        "unseen",
        "regroups",
    )
    return {"pair": {name: about[name] for name in kept}} if about else {}


def _tags(
    job: Job, *, versions: Mapping[str, str], parent: str | None, before: Checkpoint | None
) -> dict[str, Any]:
    """Return what a run is found by, and what is not as usual about it."""
    tags: dict[str, Any] = {
        **identity.flatten(job.settings.tracking.tags),
        "kind": "run",
        "backend": job.settings.backend.name,
        "sweep": parent or "",
        **job.identity.as_tags(),
        "git.commit": read_commit(),
        "versions": versions,
    }
    differences = list_inexact(job)
    if differences:
        tags["native.differences"] = "; ".join(differences)
    if before is not None:
        tags |= {"resumed.from": before.about["run"], "resumed.epoch": str(before.epoch)}
    return tags


def _say(job: Job, before: Checkpoint | None) -> None:
    """Say what is not as usual about a run."""
    for reason in list_inexact(job):
        loop = job.settings.train.loop
        print(f"twingrad: warning: train.loop={loop}: {reason}", file=sys.stderr)
    if before is not None:
        print(f"goes on after epoch {before.epoch} of run {before.about['run']}", flush=True)


def _open_run(
    job: Job, *, name: str, tags: Mapping[str, Any], parent: str | None, folder: Path
) -> contextlib.AbstractContextManager[Run]:
    """Open the run in the store, or on disk for a store that does not answer."""
    place = job.settings.tracking
    return open_run(
        experiment=place.experiment,
        artifacts=place.artifacts,
        name=name,
        tags=tags,
        parent=parent,
        note=place.note,
        folder=folder,
        pace=Pace(flush=place.flush, heartbeat=place.heartbeat, wait=place.wait),
    )


def _log_inputs(job: Job, tracked: Run, *, shown: Mapping[str, Any]) -> None:
    """Log a run's settings and its data; of streamed samples those that it is scored on."""
    tracked.log_params(identity.flatten(shown))
    arrays = job.dataset.arrays
    split = "train" if "x_train" in arrays else "test"
    tracked.log_data(
        arrays[f"x_{split}"], arrays[f"y_{split}"], name=job.dataset.name, digest=job.identity.data
    )


def _train(
    job: Job,
    record: RunRecord,
    tracked: Run,
    *,
    backend: Backend,
    model: Model,
    device: str,
    checkpoints: Checkpoints,
    before: Checkpoint | None,
    progress: Progress,
    folder: Path,
) -> None:
    """Train the model, and let the run and who looks at it follow."""
    settings, twin = job.settings, job.twin()
    full, _ = choose_trace(job)
    if full:
        copy = job.build(backend, values=backend.read(model, twin), device=device)
        record.arrays |= show_layers(job, backend=backend, model=copy)
    follow = tracked.follower(total=len(job.rates), points=settings.tracking.max_points)
    with progress(len(job.rates)) as shown:

        def report(step: int, loss: float, score: Score | None) -> None:
            shown(step, loss, score)
            follow(step, {"train/loss": loss, "train/lr": job.rates[step - 1]})

        train(
            record,
            backend=backend,
            model=model,
            twin=twin,
            batches=job.batches,
            dataset=job.dataset,
            epochs=settings.train.epochs,
            rates=job.rates,
            full=full,
            progress=report,
            log_every=settings.train.log_every,
            evaluate_every=settings.train.evaluate_every,
            patience=settings.train.patience,
            monitor=settings.train.monitor,
            keep=checkpoints if checkpoints.wanted else None,
            resume=before,
            folder=folder / "record",
            masks=job.masks,
            **job.step_arguments(),
        )


def _log_model(
    job: Job,
    tracked: Run,
    *,
    backend: Backend,
    model: Model,
    versions: Mapping[str, str],
    step: int,
) -> None:
    """Log the model in the framework's own format; where that cannot be done, say so."""
    example = job.dataset.arrays["x_test"][:5].astype(job.settings.backend.dtype)
    prediction = backend.predict(model, example)
    try:
        tracked.log_model(
            model,
            flavor=backend.FLAVOR,
            x=example,
            prediction=prediction,
            requires=_requirements(job.settings.backend.name, versions),
            step=step,
            tags={
                "pair": job.settings.model.name,
                "backend": job.settings.backend.name,
                "data": job.dataset.name,
                "data.digest": job.identity.data,
                "weights": job.settings.train.weights,
            },
        )
    except Exception as error:  # control flow that depends on data cannot be exported
        reason = redact(f"{type(error).__name__}: {error}")
        tracked.log_tags({"model.missing": reason[:500]})
        print("twingrad: warning: the model could not be logged", file=sys.stderr)


def score_again(run_id: str) -> tuple[RunRecord, dict[str, float]]:
    """Score a finished run on its own test samples again, from its record, and log the scores."""
    folder = find_record(run_id, key="run")
    record = load_record(folder, key="run")
    job = resolve_recorded(record.config, record.about.get("environment", {}))
    if job.identity.data != record.about["data"]["digest"]:
        raise ConfigError("run", run_id, "its data can no longer be made: the digest differs")
    backend = backends.load(job.settings.backend.name)
    device = job.configure(backend)
    weights = record.named(job.settings.train.weights)
    model = job.build(backend, values=weights, device=device)
    scores = evaluate(record, backend=backend, model=model, dataset=job.dataset)
    tracked = reopen_run(str(record.about.get("run", run_id)))
    record.save(folder)
    if tracked is not None:
        tracked.log_metrics({f"eval/{k}": v for k, v in scores.items()}, step=record.steps)
        tracked.log_folder(folder, "record")
    return record, scores


def load_record(folder: Path, *, key: str) -> RunRecord:
    """Read a record that the command line named; a damaged one is the user's to know."""
    try:
        return RunRecord.load(folder)
    except ValueError as error:
        raise ConfigError(key, folder.name, str(error)) from None


def read_commit() -> str:
    """Return the commit this code stands at, ``none`` outside its own checkout."""
    command = ["git", "-C", str(identity.PACKAGE), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        top, commit = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.split()
    except (OSError, subprocess.SubprocessError, ValueError):
        return "none"
    return commit if Path(top) == identity.PACKAGE.parent else "none"


def _requirements(backend: str, versions: Mapping[str, str]) -> list[str]:
    """Return what a logged model needs, as ``name==version`` without local version labels."""
    names = (backend, "keras", "numpy")
    return [f"{name}=={versions[name].split('+')[0]}" for name in names if name in versions]
