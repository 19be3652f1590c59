"""The command line: Hydra's config to typed values, stages, exit codes; no science.

Nothing heavy is imported here: ``--help`` and a wrong config answer at once.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString, RangeSweep
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pipeline.config.compose import CONF
from pipeline.config.schema import read_accepted
from pipeline.config.types import ConfigError
from pipeline.naming import name_run
from pipeline.output import guard_output
from pipeline.record.record import RunRecord
from pipeline.redact import redact
from pipeline.sweeps import search
from pipeline.sweeps.callback import Refused
from pipeline.sweeps.close import finish, read_children
from pipeline.sweeps.evidence import print_step, probe_options
from pipeline.sweeps.opened import PARENT, find_open_sweep
from pipeline.sweeps.publish import publish_comparison
from pipeline.sweeps.workers import (
    ask_jobs_to_stop,
    in_worker,
    must_wait_for_jobs,
    note_failure,
    tell_job,
)

if TYPE_CHECKING:
    from pipeline.jobs.job import Job
    from pipeline.sweeps.live.job import Progress

# What the user asked for; `main` sets the first one itself, and workers inherit both.
DEBUG = os.environ.get("TWINGRAD_DEBUG", os.environ.get("HYDRA_FULL_ERROR")) == "1"
_exit = 0
_received: int | None = None


# A terminal that is closed sends the last, which some systems do not have.
_STOPPING = [s for s in signal.Signals if s.name in ("SIGINT", "SIGTERM", "SIGHUP")]


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP arrived; handled as Ctrl-C is, but for the exit code."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    guard_output()
    os.environ["TWINGRAD_DEBUG"] = str(int(DEBUG))
    # Hydra copies its store with each look at a group, which is half of what ``--help`` takes. What
    # it reads from the store it copies as well.
    setattr(ConfigStore, "__deepcopy__", lambda store, memo: store)  # noqa: B010
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's errors shall reach `_code`, not stderr
    # Hydra's parser wants the flag in front of the overrides; people write it anywhere.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))
    _catch_signals()
    interrupted, code = False, 0
    try:
        _check_words(sys.argv[1:])
        try:
            _command()
        finally:
            _end_waiting()
        code = _exit
    except KeyboardInterrupt:
        interrupted, code = True, _stopped()
    except OSError as error:  # a job's own errors do not get here
        if isinstance(error, HydraException):
            code = _code(error)
        else:
            reason = f"the folder cannot be made ({error})"
            key = "hydra.sweep.dir" if find_open_sweep() else "hydra.run.dir"
            code = _code(ConfigError(key, "", reason))
    except BaseException as error:
        code = _code(error)
    if code == 0 or find_open_sweep():
        try:
            closing = finish(interrupted=interrupted)
            code = code or closing
        except KeyboardInterrupt:
            code = _stopped()
        except BaseException as error:
            code = code or _code(error) or 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    sys.exit(code)


def _check_words(words: Sequence[str]) -> None:
    """Refuse what Hydra takes for something else, before it composes anything.

    A group given a number, null or a list; an option outside of its group; a range without an end;
    ``hydra.launcher=name``, which replaces the launcher's settings by a word.
    """
    for flag, choice in itertools.pairwise(words):
        if flag in ("--cfg", "-c") and choice not in ("job", "hydra", "all"):
            raise ConfigError("--cfg", choice, "must be job, hydra or all")
    if {"-m", "--multirun"} & set(words) and {"--run", "-r"} & set(words):
        raise ConfigError("--run", "", "does not go with --multirun")
    given = [word for word in words if "=" in word and not word.startswith("-")]
    for override in OverridesParser.create().parse_overrides(given):
        key, value = override.key_or_group, override.value()
        text = str(override.input_line).partition("=")[2]
        if key in ("hydra.launcher", "hydra.sweeper"):
            raise ConfigError(key, text, f"is a group; {key.replace('.', '/')}=name chooses one")
        if key == "hydra.output_subdir" and ("/" in text or ".." in text):
            raise ConfigError(key, text, "must be the name of a folder, or null")
        if isinstance(value, RangeSweep) and not all(
            math.isfinite(number or 0) for number in (value.start, value.stop, value.step)
        ):
            raise ConfigError(key, text, "has no end")
        if (CONF / key).is_dir() and not override.is_sweep_override() and not override.is_delete():
            options = sorted(path.stem for path in (CONF / key).glob("*.yaml"))
            if not isinstance(value, str | QuotedString) or ".." in str(value):
                raise ConfigError(key, text, f"must be one of {', '.join(options)}")


def _job(cfg: DictConfig) -> Any:
    """Run what one composed config asks for."""
    global _exit
    folder = Path(HydraConfig.get().runtime.output_dir)
    with _no_empty_folder(folder):
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return _member(cfg, folder)
        try:
            _exit = _single(_values(cfg), folder)
        except Exception as error:
            _exit = _code(error)
    return None


# Beside `_job`, not around it: workers are told the function by its name.
_command = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(_job)


def _member(cfg: DictConfig, folder: Path) -> Any:
    """Run one job of a sweep, wherever it runs.

    Returns
    -------
    object
        The number a search minimises, None in a plain sweep; the reason, as text, of a failure.
    """
    name = HydraConfig.get().job.override_dirname or "run"
    parent, metric = os.environ.get(PARENT), OmegaConf.select(cfg, "sweep.metric")
    try:
        with in_worker(_stop) as wanted:
            if not wanted:
                return "stopped before it began"
            try:
                with tell_job(name) as job:
                    record = _run(
                        _resolve(_values(cfg)), folder=folder, name=name, parent=parent,
                        resume=not cfg.sweep.rerun, progress=job.progress, note=job.note,
                    )  # fmt: skip
                    if search.wanted(HydraConfig.instance().cfg):  # type: ignore[arg-type]
                        return search.value(record or RunRecord.load(folder / "record"), metric)
            except Exception as error:
                _say(f"job {HydraConfig.get().job.num} ({name}) failed: {error}")
                if DEBUG:
                    traceback.print_exc()
                place = {"tracked": cfg.tracking, "folder": folder}
                note_failure(parent, **place, name=name, error=error)
                return f"failed: {error}"
    except KeyboardInterrupt:
        if find_open_sweep():
            raise
        return "stopped"  # in a worker: whether the sweep goes on is the main process's matter
    return None


def _values(cfg: DictConfig) -> dict[str, Any]:
    """Return the composed config as plain containers, interpolations resolved."""
    values: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    return dict(values)


def _single(values: dict[str, Any], folder: Path) -> int:
    """Run a command that is no sweep, and return its exit code."""
    if "sync" in values["stages"]:
        from pipeline.config.schema import parse_config
        from pipeline.stages.sync import sync

        return sync(parse_config(values))
    if {"probe", "compare"} & set(values["stages"]):
        return _compare(values, folder)
    if values["run"] is not None:
        return _score(values)
    resume = values["resume"] is not None
    job = _interrupted(values) if resume else _resolve(values)
    record = _run(job, folder=folder, name=name_run(job.values), parent=None, resume=resume)
    if record is not None:
        from pipeline import terminal
        from pipeline.tracking.views import find_page

        terminal.run(record)
        place = values["tracking"]
        terminal.where(folder, uri=place["uri"], page=find_page(place["experiment"]))
    return 0


def _interrupted(values: Mapping[str, Any]) -> Job:
    """Return the job of the run that ``resume=`` names, with this command's store."""
    from pipeline.stages.checkpoints import find_interrupted, refuse_other

    for override in HydraConfig.get().overrides.task:
        key = override.split("=")[0].lstrip("+~")
        if key != "resume" and not key.startswith("tracking"):
            raise ConfigError(
                key, override.split("=")[-1], "with resume=, the config is that run's"
            )
    run = values["resume"]
    about = find_interrupted(run, key="resume")
    job = _resolve({**about["config"], "tracking": values["tracking"]})
    refuse_other(job, about, run=run, key="resume")
    return job


def _resolve(values: Mapping[str, Any]) -> Job:
    """Check a config whole and return what it asks for."""
    from pipeline.jobs.resolve import resolve

    return resolve(values)


def _run(
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
    )
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
    note(f"finished before, as run {done}; sweep.rerun=true runs it again")
    return record


def _elsewhere(values: Mapping[str, Any], **how: Any) -> None:
    """Run one job in a fresh process: its framework was already started here in another way."""
    # A child is told the default too; in joblib's workers that is a method that no child knows.
    multiprocessing.set_start_method("spawn", force=True)
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe()
    process = context.Process(target=_child, args=(theirs, values), kwargs=how)
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


def _child(pipe: Any, values: Mapping[str, Any], **how: Any) -> None:
    _catch_signals()
    try:
        _run(_resolve(values), **how)
        pipe.send(None)
    except Exception as error:
        pipe.send(RuntimeError(str(error)))


def _score(values: Mapping[str, Any]) -> int:
    """Score a finished run again; everything but the store comes from the run itself."""
    for override in HydraConfig.get().overrides.task:
        key = override.split("=")[0].lstrip("+~")
        if key not in {"stages", "run"} and not key.startswith("tracking"):
            raise ConfigError(key, override.split("=")[-1], "with run=, the config is that run's")
    if tuple(values["stages"]) != ("evaluate",):
        raise ConfigError("stages", values["stages"], "with run=, must be [evaluate]")
    from pipeline import terminal
    from pipeline.stages.run import score_again
    from pipeline.tracking.recover import close_dead_runs
    from pipeline.tracking.store import use_store

    use_store(values["tracking"]["uri"])
    close_dead_runs(stale=values["tracking"]["stale"])
    record, scores = score_again(values["run"])
    terminal.run(record)
    print("  ".join(f"eval/{name} {value:.9g}" for name, value in scores.items()))
    return 0


def _compare(values: Mapping[str, Any], folder: Path) -> int:
    """Probe recorded runs, compare them, or both."""
    from pipeline import terminal
    from pipeline.config.schema import parse_config
    from pipeline.record.record import found_in
    from pipeline.stages.compare import compare, may_be_probed, paired
    from pipeline.stages.probe import find_evidence, probe_and_save
    from pipeline.tracking.query import find_latest_sweep, find_record, find_sweep
    from pipeline.tracking.recover import close_dead_runs
    from pipeline.tracking.run import reopen_run
    from pipeline.tracking.store import use_store
    from pipeline.tracking.views import find_page

    settings = parse_config(values)
    if not set(settings.stages) <= {"probe", "compare"}:
        raise ConfigError("stages", list(settings.stages), "probe and compare stand alone")
    runs, chosen = list(settings.compare.runs), settings.compare.sweep
    if (len(runs) < 2) == (chosen is None):
        raise ConfigError("compare.runs", runs, "give two or more runs, or compare.sweep")
    if chosen is not None or not all(found_in(Path(run)) for run in runs):
        use_store(settings.tracking.uri)
        close_dead_runs(stale=settings.tracking.stale)
    parent, jobs, title = None, None, f"Comparison of {len(runs)} runs"
    records: list[RunRecord] = []
    unreadable: dict[str, str] = {}
    notes: list[str] = []
    if chosen is not None:
        parent, children = find_sweep(
            find_latest_sweep(settings.tracking.experiment) if chosen == "latest" else chosen
        )
        title, jobs = parent.info.run_name, json.loads(parent.data.tags.get("jobs", "null"))
        records, unreadable, notes = read_children(children, jobs=jobs)
        if not records and not unreadable:
            raise ConfigError("compare.sweep", chosen, "no run of it left a record")
    for run in runs:
        try:
            records.append(RunRecord.load(find_record(run, key="compare.runs")))
        except ValueError as error:
            unreadable[run] = str(error)
    if "probe" in settings.stages:
        for a, b in paired(records, together=len(runs) == 2)[0]:
            if not may_be_probed(a, b):
                print("not probed: other settings or other data", flush=True)
                continue
            print(f"probing {a.label()} against {b.label()}", flush=True)
            if find_evidence(a, b, **probe_options(settings)) is None:
                probe_and_save(a, b, say=print_step, **probe_options(settings))
    if "compare" not in settings.stages:
        return 0
    asked = f"compare.sweep={chosen}" if chosen else f"compare.runs=[{','.join(runs)}]"
    result = compare(
        records,
        folder=folder,
        title=title,
        formats=settings.tracking.figures,
        rtol=settings.parity.rtol,
        atol=settings.parity.atol,
        margin=settings.parity.margin,
        accept=read_accepted(settings.parity.accept),
        precision=settings.parity.precision,
        evidence=partial(find_evidence, **probe_options(settings)),
        hint=f"; python -m pipeline 'stages=[probe,compare]' '{asked}' measures it",
        notes=notes,
        unreadable=unreadable,
        together=len(runs) == 2,
    )
    tolerance = settings.parity.rtol, settings.parity.atol
    if parent is not None and tolerance == (None, None):  # another bar is no news of the sweep
        overrides = json.loads(parent.data.tags.get("overrides", "[]"))
        tracked = reopen_run(parent.info.run_id)
        publish_comparison(tracked, result, overrides=overrides, jobs=jobs, notes=notes)
    terminal.comparison(result, notes=notes)
    page = find_page(settings.tracking.experiment)
    terminal.where(folder, uri=settings.tracking.uri, page=page)
    return result.exit_code


@contextlib.contextmanager
def _no_empty_folder(folder: Path) -> Any:
    """Remove the folder that Hydra made for a job which then left nothing in it."""
    here = Path.cwd()
    try:
        yield
    finally:
        inside = (path for path in folder.parents if here in path.parents)
        with contextlib.suppress(OSError):  # the first one that holds something
            for path in (folder, *inside):
                path.rmdir()


def _catch_signals() -> None:
    """Turn the first signal to stop into an exception and ignore what follows."""
    for each in _STOPPING:
        if each.name != "SIGHUP" or signal.getsignal(each) != signal.SIG_IGN:  # as under nohup
            signal.signal(each, _stop)


def _stop(number: int, frame: Any) -> None:
    """Signal handler: ask jobs elsewhere to end, and raise; while such jobs run, a timer raises.

    Their launcher kills them once this process is interrupted, so that comes after they have saved.
    Nothing waits in a handler: until then the launcher goes on waiting for its jobs.
    """
    global _received
    _received = number  # Ray raises a plain KeyboardInterrupt instead of what a handler raised
    for each in _STOPPING:
        signal.signal(each, signal.SIG_IGN)
    sweep = find_open_sweep()
    if sweep is not None:
        ask_jobs_to_stop(sweep)
        if must_wait_for_jobs(sweep):
            signal.signal(signal.SIGALRM, _stop_when_saved)
            signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
            return
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _stop_when_saved(number: int, frame: Any) -> None:
    """Timer's handler: raise as soon as no job elsewhere is waited for."""
    sweep = find_open_sweep()
    if sweep is None or not must_wait_for_jobs(sweep):
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt


def _end_waiting() -> None:
    """Take the timer away, and raise where a signal arrived that raised nothing yet."""
    if _received is not None:
        with contextlib.suppress(AttributeError):  # a system without timers
            signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt


def _stopped() -> int:
    """Say which signal ended the command, and return the exit code it stands for."""
    number = signal.Signals(_received or signal.SIGINT)
    _say(f"stopped by {'Ctrl-C' if number == signal.SIGINT else number.name}")
    return 128 + number


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(f"twingrad: {redact(' '.join(text.split()))}", file=sys.stderr, flush=True)


def _code(error: BaseException) -> int:
    """Say what went wrong in one line, and return the exit code it stands for."""
    if isinstance(error, Refused) and error.__cause__ is not None:
        error = error.__cause__
    if DEBUG:
        traceback.print_exception(error)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    wrong = (ConfigError, HydraException, OmegaConfBaseException)
    if isinstance(error, wrong):
        _say(_explained(error))
        return 2
    _say(f"{type(error).__name__}: {error}")
    return 1


# Settings of an earlier version, and what stands in their place.
_REPLACED = {
    "parity.permutations": "noise floors of permuted batches were replaced by two tests from equal "
    "states, which need no number (docs/parity.md)",
    "parity.forced": "each step is always made from equal states (docs/parity.md)",
}


def _explained(error: BaseException) -> str:
    """Put Hydra's and OmegaConf's errors into one line: the key, the value, what is allowed."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        extra = {"ray": "ray", "optuna": "search"}.get(option)
        install = f"; pip install 'twingrad[{extra}]' brings {option}" if extra else ""
        return f"{group}={option}: must be one of {', '.join(sorted(error.options))}{install}"
    cause = error.__cause__
    replaced = _REPLACED.get(str(getattr(cause, "full_key", "")))
    if replaced is not None:
        return f"{getattr(cause, 'full_key', '')}: is gone; {replaced}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}=???: must be given"
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.parent_node is not None:
        allowed = ", ".join(sorted(map(str, cause.parent_node)))
        return f"{cause.full_key}: unknown key; allowed here: {allowed}"
    return str(error)
