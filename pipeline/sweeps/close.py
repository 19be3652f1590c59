"""The end of a sweep: what still runs is ended, what is finished compared, the parent closed."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from typing import Any

from pipeline.config.schema import read_accepted
from pipeline.config.types import ConfigError
from pipeline.output import print_last
from pipeline.pairs.registry import FOREIGN
from pipeline.record.record import RunRecord
from pipeline.sweeps import search
from pipeline.sweeps.evidence import make_evidence
from pipeline.sweeps.launchers import end_workers
from pipeline.sweeps.opened import OpenSweep, find_open_sweep, forget_open_sweep
from pipeline.sweeps.plan import read_settings
from pipeline.sweeps.publish import log_distances, publish_comparison
from pipeline.sweeps.workers import ask_jobs_to_stop, must_wait_for_jobs, redact_multirun


def finish(*, interrupted: bool) -> int:
    """Close the sweep that this process has open, if it has one, and return the exit code.

    What still runs is ended. An empty parent is removed. The children's end is read from the store,
    where jobs of every launcher leave it; one that was killed could not, so it is closed here.
    """
    sweep = find_open_sweep()
    if sweep is None:
        return 0
    try:
        ask_jobs_to_stop(sweep)
        while must_wait_for_jobs(sweep):
            time.sleep(0.05)
        end_workers()
    finally:
        if sweep.board is not None:
            sweep.board.close()
    forget_open_sweep()
    shutil.rmtree(sweep.running, ignore_errors=True)
    with contextlib.suppress(OSError):
        sweep.running.parent.rmdir()
    redact_multirun(sweep.folder)
    return _close_parent(sweep, interrupted=interrupted)


def _close_parent(sweep: OpenSweep, *, interrupted: bool) -> int:
    """Close the parent run with what its children left, and return the exit code."""
    from pipeline.tracking.run import close_run, delete_run

    parent = sweep.parent
    children = _close_children(parent)
    if not children:
        close_run(parent.id, "KILLED" if interrupted else "FAILED")
        delete_run(parent.id)
        return 0
    status, code = ("KILLED" if interrupted else "FAILED"), 1
    try:
        unfinished = count_unfinished(children, jobs=sweep.jobs)
        worst = _report(sweep, children, interrupted=interrupted, unfinished=unfinished)
        if not unfinished and not interrupted:
            status, code = "FINISHED", worst
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        close_run(parent.id, status)
    return code


def count_unfinished(children: Sequence[Any], *, jobs: int | None) -> int:
    """Return how many jobs did not end as they should, those that never started included."""
    failed = sum(child.info.status != "FINISHED" for child in children)
    return failed + max((jobs or 0) - len(children), 0)


def _close_children(parent: Any) -> list[Any]:
    """Close the children whose process is gone, and return all of them."""
    from pipeline.tracking.query import list_children
    from pipeline.tracking.recover import awaits_end
    from pipeline.tracking.run import close_run, reopen_run

    children = list_children(parent.id)
    running = [child.info.run_id for child in children if child.info.status == "RUNNING"]
    lost = [run for run in running if not awaits_end(run)]
    for run in lost:
        tracked = reopen_run(run)
        if tracked is not None:
            tracked.log_tags({"error": "its process was killed"})
        close_run(run, "KILLED")
    return list_children(parent.id) if lost else children


def _report(sweep: OpenSweep, children: list[Any], *, interrupted: bool, unfinished: int) -> int:
    """Compare the finished children and put tables, pictures and report on the parent."""
    from pipeline import terminal
    from pipeline.report.markdown import describe_sweep, tell_command
    from pipeline.stages.compare import compare
    from pipeline.tracking.views import find_page, find_runs_address

    settings, jobs, parent = read_settings(sweep.config), sweep.jobs, sweep.parent
    overrides = list(sweep.config.hydra.overrides.task)
    records, unreadable, notes = read_children(children, jobs=jobs)
    if not records:
        notes += [f"{run}: {why}" for run, why in unreadable.items()]
        asked: dict[str, Any] = {"overrides": overrides, "jobs": jobs}
        parent.describe(describe_sweep([], notes=notes, note=settings.tracking.note, **asked))
        terminal.failures(_untold(sweep, notes))
        print_last(f"none of {unfinished} jobs finished")
        return 1
    result = compare(
        records,
        folder=sweep.folder,
        title=sweep.title,
        formats=settings.tracking.figures,
        rtol=settings.parity.rtol,
        atol=settings.parity.atol,
        margin=settings.parity.margin,
        accept=read_accepted(settings.parity.accept),
        precision=settings.parity.precision,
        evidence=make_evidence(
            settings, records, budget=0.0 if interrupted else settings.parity.budget
        ),
        hint=f"; python -m pipeline 'stages=[probe,compare]' compare.sweep={parent.id}"
        f"{tell_pair(settings.model)} measures it",
        notes=notes,
        unreadable=unreadable,
        command=tell_command([*sweep.config.hydra.overrides.hydra, *overrides], multirun=True),
        address=find_runs_address(settings.tracking.experiment, uri=settings.tracking.uri),
    )
    note = settings.tracking.note
    publish_comparison(
        parent, result, overrides=overrides, jobs=jobs, notes=notes, children=children, note=note
    )
    log_distances(parent, result, points=settings.tracking.max_points)
    terminal.comparison(result, notes=_untold(sweep, notes), show=settings.parity.show)
    if jobs is None:
        best = search.best(sweep.config)
        parent.log_tags(best)
        for key, value in best.items():
            print(f"{key}  {value}")
    page = find_page(settings.tracking.experiment)
    terminal.where(result.folder, uri=settings.tracking.uri, page=page)
    terminal.summary(result, unfinished=unfinished, best=search.tell_best(sweep.config, jobs))
    return result.exit_code if result.judges else 0


def tell_pair(model: Any) -> str:
    """Return the words by which a command names a pair that is not ours; nothing of ours."""
    if model.name != FOREIGN:
        return ""
    keys = ("path",) if model.settings["path"] is not None else ("torch", "tensorflow")
    return "".join([" model=own", *(f" model.{key}={model.settings[key]}" for key in keys)])


def _untold(sweep: OpenSweep, notes: list[str]) -> list[str]:
    """Return what did not finish and was not said when it ended."""
    told = set() if sweep.board is None else sweep.board.told
    ends = tuple(f"{name} {status}: " for name in told for status in ("FAILED", "KILLED"))
    return [note for note in notes if not note.startswith(ends)]


def read_children(
    children: list[Any], *, jobs: int | None
) -> tuple[list[RunRecord], dict[str, str], list[str]]:
    """Return the records of a sweep's runs, and in words what did not finish.

    Between the two: by id, why those of finished ones cannot be read.
    """
    from pipeline.tracking.query import find_record

    usual = {"RUNNING": "it still runs, or its end waits on disk for the store"}
    records, unreadable, notes = [], {}, []
    for child in {child.info.run_id: child for child in children}.values():
        name, status = child.info.run_name, child.info.status
        try:
            place = {"key": "run", "artifacts": child.info.artifact_uri}
            records.append(RunRecord.load(find_record(child.info.run_id, **place)))
        except (ConfigError, ValueError) as error:  # who failed may have got as far as one or not
            if status == "FINISHED":
                unreadable[child.info.run_id] = f"{error} ({name})"
        if status != "FINISHED":
            why = usual.get(status, "it was stopped, or its process died")
            notes.append(f"{name} {status}: {child.data.tags.get('error', why)}")
    if jobs is not None and len(children) < jobs:
        notes.append(f"{jobs - len(children)} of {jobs} jobs never started")
    return records, unreadable, notes
