"""The commands that are no sweep, and one job wherever it runs."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig

from pipeline.config.types import ConfigError
from pipeline.naming import name_run
from pipeline.pairs.registry import FOREIGN
from pipeline.record.record import RunRecord

if TYPE_CHECKING:
    from pipeline.jobs.job import Job
    from pipeline.sweeps.live.job import Progress
from pipeline.cli.comparison import compare_recorded
from pipeline.cli.errors import say
from pipeline.cli.signals import catch_signals


def run_single(values: dict[str, Any], folder: Path) -> int:
    """Run a command that is no sweep, and return its exit code."""
    if "sync" in values["stages"]:
        from pipeline.config.schema import parse_config
        from pipeline.stages.sync import sync

        return sync(parse_config(values))
    if {"probe", "compare"} & set(values["stages"]):
        return compare_recorded(values, folder)
    if values["run"] is not None:
        return _score(values)
    resume = values["resume"] is not None
    job = _interrupted(values) if resume else resolve_job(values)
    place = job.settings.tracking
    name = place.run_name or name_run(job.values)
    try:
        record = run_job(job, folder=folder, name=name, parent=None, resume=resume)
    except KeyboardInterrupt:
        _tell_continuation(job, folder)
        raise
    if record is not None:
        from pipeline import terminal
        from pipeline.tracking.views import find_run_page

        terminal.run(record)
        run = str(record.about["run"])
        terminal.where(folder, uri=place.uri, page=find_run_page(run), run=run)
        terminal.run_summary(record)
    return 0


def _tell_continuation(job: Job, folder: Path) -> None:
    """Say how a run that was stopped goes on."""
    from pipeline.stages.checkpoints import find_checkpoint

    record = None
    with contextlib.suppress(ValueError):  # it was stopped before there was one
        record = RunRecord.load(folder / "record")
    about = find_checkpoint(folder)
    if record is not None and record.steps == len(job.rates):
        run = record.about["run"]
        say(f"training was done; python -m pipeline 'stages=[evaluate]' run={run} scores it")
    elif about is not None:
        say(f"python -m pipeline resume={about['run']} goes on after epoch {about['epoch']}")
    else:
        every = job.settings.train.checkpoint
        say(f"no checkpoint yet to go on from (train.checkpoint={every} seconds)")


def _interrupted(values: Mapping[str, Any]) -> Job:
    """Return the job of the run that ``resume=`` names, with this command's store."""
    from pipeline.stages.checkpoints import find_interrupted, refuse_other

    for override in HydraConfig.get().overrides.task:
        key = override.split("=")[0].lstrip("+~")
        if key not in ("resume", "terminal") and not key.startswith(_may_name(values)):
            raise ConfigError(
                key, override.split("=")[-1], "with resume=, the config is that run's"
            )
    run = values["resume"]
    about = find_interrupted(run, key="resume")
    tracking = _track_as_before(about["config"]["tracking"], values["tracking"])
    now = {"tracking": tracking, "terminal": values["terminal"]}
    _allow_named(values)
    job = resolve_job({**about["config"], **now}, recorded=about.get("pair", ""))
    refuse_other(job, about, run=run, key="resume")
    return job


def _track_as_before(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return where an interrupted run is logged further: as before, but for what this command says.

    A stored URI without its password leads nowhere; then this command's store is used.
    """
    given = {over.split("=")[0].lstrip("+~") for over in HydraConfig.get().overrides.task}
    tracking = dict(now)
    for key, value in before.items():
        named = f"tracking.{key}"
        if any(each == named or each.startswith(f"{named}.") for each in given) or key not in now:
            continue
        if key == "uri" and ("***" in value or "MLFLOW_TRACKING_URI" in os.environ):
            continue
        tracking[key] = value
    return tracking


def _may_name(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return how the keys begin that a command about a recorded run may give.

    Those of a pair that is not ours let its code run; the config is the run's all the same.
    """
    is_foreign = values["model"].get("name") == FOREIGN
    return ("tracking", "model") if is_foreign else ("tracking",)


def _allow_named(values: Mapping[str, Any]) -> None:
    """Let this process run the code of the pair that the command names."""
    from pipeline.config.schema import parse_config
    from pipeline.jobs.resolve import allow_code

    allow_code(parse_config(values))


def resolve_job(values: Mapping[str, Any], *, recorded: str | None = None) -> Job:
    """Check a config whole and return what it asks for; see `pipeline.jobs.resolve.resolve`."""
    from pipeline.jobs.resolve import resolve

    return resolve(values, recorded=recorded)


def run_job(
    job: Job,
    *,
    folder: Path,
    name: str,
    parent: str | None,
    resume: bool,
    progress: Progress | None = None,
    note: Callable[[str], None] = print,
) -> Any:
    """Run a job, here or in a process of its own.

    What a sweep has finished before is linked to it instead.
    """
    if parent is not None and resume and "train" in job.settings.stages:
        known = _linked(job, name=name, parent=parent, note=note)
        if known is not None:
            return known
    from pipeline import terminal
    from pipeline.report.sentences import tell_training_end
    from pipeline.stages.run import needs_own_process, run

    if needs_own_process(job.settings):
        where = {"folder": folder, "name": name, "parent": parent, "progress": progress}
        return _elsewhere(job.values, **where, resume=resume)
    record = run(
        job,
        folder=folder,
        name=name,
        parent=parent,
        resume=resume,
        recover=parent is None,
        progress=progress or terminal.progress,
        begun=lambda run: None if parent else print(f"run     {run}  {folder}", flush=True),
    )
    end = tell_training_end(record.about, steps=record.steps)
    if end:
        note(end)
    return record if record.arrays else None


def _linked(job: Job, *, name: str, parent: str, note: Callable[[str], None]) -> Any:
    """Return the record of the same job if it was finished before, and link it to the sweep."""
    from pipeline.stages.run import load_record
    from pipeline.tracking.query import find_finished, find_record
    from pipeline.tracking.run import link_run
    from pipeline.tracking.store import prepare_store

    place = job.settings.tracking
    prepare_store(place.uri, started=True)
    tags = job.identity.as_tags()
    asked = tags.pop("asked")
    done = find_finished(experiment=place.experiment, tags=tags, asked=asked)
    if done is None:  # or the store does not answer
        return None
    try:
        record = load_record(find_record(done, key="run"), key="run")
    except ConfigError:  # its record is gone: run it again
        return None
    link_run(parent, done, job=HydraConfig.get().job.num, name=name)
    beside = " with its own tags and note" if place.tags or place.note else ""
    note(f"finished before, as run {done}{beside}; sweep.rerun=true runs it again")
    return record


def _elsewhere(values: Mapping[str, Any], **arguments: Any) -> None:
    """Run one job in a fresh process: its framework was already started here in another way."""
    # A child is told the default too; in joblib's workers that is a method that no child knows.
    multiprocessing.set_start_method("spawn", force=True)
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe()
    process = context.Process(target=_child, args=(theirs, values), kwargs=arguments)
    process.start()
    theirs.close()
    try:
        error = ours.recv()
    except EOFError:
        error = RuntimeError("the job's own process died")
    except BaseException:
        process.terminate()
        raise
    finally:
        process.join()
    if error is not None:
        raise error


def _child(pipe: Any, values: Mapping[str, Any], **arguments: Any) -> None:
    """Run a job in a process of its own; send None, or a RuntimeError with the error's text."""
    catch_signals()
    try:
        run_job(resolve_job(values), **arguments)
        pipe.send(None)
    except Exception as error:
        pipe.send(RuntimeError(str(error)))


def _score(values: Mapping[str, Any]) -> int:
    """Score a finished run again; everything but the store comes from the run itself."""
    for override in HydraConfig.get().overrides.task:
        key = override.split("=")[0].lstrip("+~")
        if key not in {"stages", "run", "terminal"} and not key.startswith(_may_name(values)):
            raise ConfigError(key, override.split("=")[-1], "with run=, the config is that run's")
    if tuple(values["stages"]) != ("evaluate",):
        raise ConfigError("stages", values["stages"], "with run=, must be [evaluate]")
    from pipeline import terminal
    from pipeline.stages.run import score_again
    from pipeline.tracking.recover import close_dead_runs
    from pipeline.tracking.store import use_store

    _allow_named(values)
    use_store(values["tracking"]["uri"])
    close_dead_runs(stale=values["tracking"]["stale"])
    record, scores = score_again(values["run"])
    terminal.run(record)
    print("  ".join(f"eval/{name} {value:.9g}" for name, value in scores.items()))
    return 0
