"""What happens around a multirun: a parent run is opened before it and closed after it.

Hydra calls `OpenParent` in its own process before the first job. There everything that can be
refused is refused, the launcher is made ready, and the parent is opened. Its id travels to the
jobs, wherever they run, in an environment variable that Hydra sets around each job. Hydra does not
call back when a job raised, so jobs return their failures, and the command itself calls `finish` in
every case.

Jobs in other processes are stopped through files: each one writes its name into a folder of the
sweep while it runs, and watches for the file ``stop`` there. Launchers would kill them outright.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf, flag_override

from pipeline import search, storage
from pipeline.config.schema import Config, parse_config, read_accepted
from pipeline.config.types import ConfigError
from pipeline.output import guard_output
from pipeline.parity.evidence import METHOD_NAME
from pipeline.parity.verdict import WORST
from pipeline.record.record import RunRecord
from pipeline.redact import redact

if TYPE_CHECKING:
    from pipeline.live import Job

PARENT = "TWINGRAD_PARENT"
GRACE = 30.0  # seconds that jobs elsewhere have to save what they hold
_opened: dict[str, Any] = {}


class Refused(BaseException):
    """A multirun that must not start, and as its cause why.

    Not an `Exception`: of those that a callback raises, Hydra only warns.
    """


class OpenParent(Callback):
    """Hydra callback that checks the sweep, readies its launcher and opens the parent run."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Create the store and the parent run before any job starts."""
        try:
            jobs, fixed = _checked(config)
            if jobs is not None:  # Hydra would compose every member again, one after the other
                setattr(Sweeper, "validate_batch_is_legal", lambda sweeper, batch: None)  # noqa: B010
            with flag_override(config.hydra, ["struct", "readonly"], [False, False]):
                _ready_launcher(config)
                _name_by_what_is_swept(config, fixed)
                _open(config, jobs)
        except Exception as error:
            _end_workers()
            raise Refused from error
        except BaseException:
            _end_workers()
            raise


def _checked(config: DictConfig) -> tuple[int | None, list[str]]:
    """Compose what the sweep asks for, before anything is created.

    Every choice of options of the swept groups, each with the first value of all else: so whatever
    a composition refuses is found without composing every member.

    Returns
    -------
    jobs
        How many there will be; None in a search, which has no such number.
    fixed
        The keys that every job has the same value of.
    """
    loader: Any = GlobalHydra.instance().config_loader()
    parameters = OmegaConf.select(config, "hydra.sweeper.params") or {}
    given = [f"{key}={value}" for key, value in parameters.items()]
    given += list(config.hydra.overrides.task)
    searching = search.wanted(config)
    choices: dict[str, list[str]] = {}
    groups: dict[str, str] = {}
    fixed = []
    for override in OverridesParser.create(config_loader=loader).parse_overrides(given):
        key = override.get_key_element()
        line = str(override.input_line).partition("=")
        if override.key_or_group in ("run", "resume") and override.value() is not None:
            raise ConfigError(line[0], line[2], "names one run, which is no sweep")
        if not override.is_sweep_override():
            values = [str(override.get_value_element_as_str())]
            fixed.append(override.key_or_group)
        elif override.is_discrete_sweep():
            values = list(override.sweep_string_iterator())
        elif searching:
            values = [str(override.value().start)]  # type: ignore[union-attr]
        else:
            raise ConfigError(line[0], line[2], "an interval is searched: hydra/sweeper=optuna")
        if not values:
            raise ConfigError(line[0], line[2], "has no values")
        choices[key], groups[key] = values, override.key_or_group
    from pipeline.jobs.check import check_places

    settings = _settings(config)
    check_places(settings)
    alone = {"probe", "compare", "sync"} & set(settings.stages)
    if alone:
        raise ConfigError("stages", list(settings.stages), f"{', '.join(alone)}: is no sweep")
    if searching:
        search.check(config, any(len(values) > 1 for values in choices.values()), given)
    kinds = [
        [
            f"{key}={value}"
            for value in (values if loader.get_group_options(groups[key]) else values[:1])
        ]
        for key, values in choices.items()
    ]
    for member in itertools.product(*kinds):
        loader.load_sweep_config(config, list(member))
    return None if searching else math.prod(map(len, choices.values())), fixed


def _name_by_what_is_swept(config: DictConfig, fixed: list[str]) -> None:
    """Keep out of the jobs' names what they all have; workers compose that config anew."""
    key = "hydra.job.config.override_dirname.exclude_keys"
    known = [*OmegaConf.select(config, key), *fixed]
    config.hydra.overrides.hydra.append(f"{key}=[{','.join(known)}]")


def _ready_launcher(config: DictConfig) -> None:
    """Give the launcher what this program needs of it, where the user said nothing."""
    launcher = config.hydra.launcher
    if launcher._target_.endswith(".JoblibLauncher"):
        if launcher.n_jobs == 0:
            allowed = "must be a number of processes, or -1 for one a core"
            raise ConfigError("hydra.launcher.n_jobs", 0, allowed)
        _check_joblib(launcher)
        path = f"{__name__}.{leave_interrupts_to_main.__name__}"
        quiet = {"_target_": "hydra.utils.get_method", "path": path}
        settings: Any = OmegaConf.to_container(launcher)  # whose own schema has no such key
        config.hydra.launcher = {**settings, "initializer": quiet}
    elif launcher._target_.endswith(".RayLauncher"):
        launcher.ray.remote.setdefault("max_retries", 0)
        _start_ray(config)


def _check_joblib(launcher: DictConfig) -> None:
    """Refuse what joblib itself refuses, before a parent run is opened."""
    from joblib import Parallel

    settings: Any = OmegaConf.to_container(launcher, resolve=True)
    try:
        Parallel(**{key: value for key, value in settings.items() if key != "_target_"})
    except (ValueError, TypeError) as error:
        raise ConfigError("hydra.launcher", "joblib", str(error)) from None


def leave_interrupts_to_main() -> None:
    """Ignore Ctrl-C in a joblib worker, which gets it as well: the main process stops its job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _start_ray(config: DictConfig) -> None:
    """Start Ray here, or reach a cluster; the launcher then uses what is there.

    Started by the launcher itself it would take over this process's signals, could fail after the
    parent was opened, and would be given a memory size that a cluster refuses.
    """
    given: Any = OmegaConf.to_container(config.hydra.launcher.ray.init, resolve=True)
    address = given.get("address") or os.environ.get("RAY_ADDRESS") or "local"
    key = "hydra.launcher.ray.init.address"
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise ConfigError(key, address, f"does not answer ({type(error).__name__})") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    import ray

    usual: dict[str, Any] = {"logging_level": "error"}
    if address == "local":
        usual |= {"include_dashboard": False, "object_store_memory": 80_000_000}
    else:  # workers elsewhere have other working directories
        config.hydra.sweep.dir = str(Path(config.hydra.sweep.dir).absolute())
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(**usual | given | {"address": address})
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise ConfigError(key, address, f"Ray: {error}") from None
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _workers(config: DictConfig) -> int:
    """Return how many jobs the launcher runs at once."""
    target = config.hydra.launcher._target_
    if target.endswith(".JoblibLauncher"):
        from joblib import effective_n_jobs

        return int(effective_n_jobs(config.hydra.launcher.n_jobs))
    if target.endswith(".RayLauncher"):
        import ray

        return int(ray.cluster_resources().get("CPU", 1))
    return 1


def _open(config: DictConfig, jobs: int | None) -> None:
    from pipeline import live
    from pipeline.report.markdown import tell_asked
    from pipeline.tracking.query import is_sweep_running
    from pipeline.tracking.recover import close_dead_runs
    from pipeline.tracking.run import create_run
    from pipeline.tracking.store import prepare_store

    overrides = list(OmegaConf.to_container(config.hydra.overrides.task))  # type: ignore[arg-type]
    place = config.tracking
    prepare_store(place.uri)
    close_dead_runs(stale=place.stale)
    title = config.sweep.title or swept(overrides)
    if jobs is None:
        alone = not is_sweep_running(place.experiment)
        search.resume(config, workers=_workers(config), alone=alone)
    parent = create_run(
        experiment=place.experiment,
        artifacts=place.artifacts,
        name=title,
        tags={"kind": "sweep", "overrides": overrides, "jobs": jobs},
        note=tell_asked(overrides, jobs=jobs),
    )
    config.hydra.overrides.hydra.append(f"++hydra.job.env_set.{PARENT}='{parent.id}'")
    folder = Path(config.hydra.sweep.dir)
    _opened.update(parent=parent, folder=folder, title=title, config=config, jobs=jobs)
    _opened["running"] = running = folder.absolute() / _RUNNING
    shutil.rmtree(running, ignore_errors=True)  # of a sweep that was killed in the same folder
    total = int(config.hydra.sweeper.n_trials) if jobs is None else jobs
    _opened["board"] = live.Board(running / _JOBS, title=redact(title), total=total)


_RUNNING, _JOBS = ".running", "jobs"  # the folder of jobs that run, and in it what each one tells


@contextlib.contextmanager
def job(name: str) -> Iterator[Job]:
    """Tell the sweep's table of this job, in whatever process it runs, from start to end."""
    from pipeline import live

    hydra, board = HydraConfig.get(), _opened.get("board")
    folder = Path(hydra.runtime.cwd, hydra.sweep.dir, _RUNNING, _JOBS)
    with contextlib.suppress(OSError):  # now, since who is killed cannot do it at its end
        _redact(folder.parents[1] / "multirun.yaml")
    lines = board is not None and not board.on_screen  # of several processes they would mix
    made = live.Job(folder, number=hydra.job.num, name=redact(name), lines=lines)
    look = board.look if board is not None else lambda: None
    try:
        with made.running():
            look()
            yield made
    finally:
        look()


@contextlib.contextmanager
def in_worker(stop: Callable[[int, Any], None]) -> Iterator[bool]:
    """Let the main process stop this job, where it runs in another process than that.

    Parameters
    ----------
    stop
        Signal handler that raises what ends the job.

    Yields
    ------
    bool
        Whether the job shall run at all: not if the sweep was stopped before it began.
    """
    if is_open():
        yield True
        return
    guard_output()
    hydra = HydraConfig.get()
    with contextlib.suppress(OSError):
        os.chdir(hydra.runtime.cwd)
    folder = Path(hydra.runtime.cwd, hydra.sweep.dir, _RUNNING)
    folder.mkdir(parents=True, exist_ok=True)
    mine, asked, ended = folder / str(hydra.job.num), folder / "stop", threading.Event()
    mine.write_text(f"{socket.gethostname()} {os.getpid()}")
    main = threading.main_thread().ident or 0

    def watch() -> None:
        while not ended.wait(0.25):
            if asked.exists():
                signal.pthread_kill(main, signal.SIGTERM)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    before = signal.signal(signal.SIGTERM, stop)
    watcher.start()
    try:
        yield not asked.exists()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ended.set()
        watcher.join()
        signal.signal(signal.SIGTERM, before)
        mine.unlink(missing_ok=True)


def stop_jobs() -> None:
    """Tell the jobs in other processes to end, and wait until they have saved what they hold."""
    folder = _opened.get("running")
    if folder is None:
        return
    with contextlib.suppress(OSError):  # where nothing can be written, no job has begun
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "stop").touch()
        until = time.monotonic() + GRACE
        while any(map(_runs, folder.iterdir())) and time.monotonic() < until:
            time.sleep(0.05)


def _runs(file: Path) -> bool:
    """Whether the job that wrote a file is still there, as far as this machine can tell."""
    with contextlib.suppress(OSError, ValueError):
        host, pid = file.read_text().split()
        if host != socket.gethostname():
            return True
        os.kill(int(pid), 0)
        return True
    return False


def _end_workers() -> None:
    """End the worker processes of joblib and of a Ray that was started or reached here."""
    loky = sys.modules.get("joblib.externals.loky.reusable_executor")
    executor = getattr(loky, "_executor", None)
    if executor is not None:
        executor.shutdown(wait=True, kill_workers=True)
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def swept(overrides: list[str]) -> str:
    """Return a short name for a sweep: what has several values, and the experiment."""
    parts = [part.lstrip("+~") for part in overrides]
    many = [part.split("=")[0] for part in parts if "," in part or "(" in part]
    where = [part.split("=", 1)[1] for part in parts if part.startswith("experiment=")]
    return " ".join([*where, "×".join(many)]).strip() or "sweep"


def is_open() -> bool:
    """Whether this process opened a parent run that nobody has closed yet."""
    return "parent" in _opened


def note_failure(
    parent: str | None, *, tracked: Any, folder: Path, name: str, error: Exception
) -> None:
    """Leave a FAILED child for a job that failed before it had opened a run of its own.

    Parameters
    ----------
    tracked
        The job's config of the group `tracking`.
    folder
        The job's own; an opened run has left its config or its spool there.
    """
    if parent is None or any((folder / part).exists() for part in ("config.yaml", "spool")):
        return
    from pipeline.tracking.run import add_failed_run
    from pipeline.tracking.store import prepare_store

    prepare_store(tracked.uri, started=True)
    tags = {"kind": "run", "sweep": parent, "error": f"{type(error).__name__}: {error}"}
    add_failed_run(parent, name=name, tags=tags)


def finish(*, interrupted: bool) -> int:
    """End what still runs, close the parent with what its children left; return the exit code.

    An empty parent is removed. The children's end is read from the store, where jobs of every
    launcher leave it; one that was killed could not, so it is closed here.
    """
    board = _opened.pop("board", None)
    try:
        stop_jobs()
        _end_workers()
    finally:
        if board is not None:
            board.close()
    parent, running = _opened.pop("parent", None), _opened.pop("running", None)
    if parent is None or running is None:
        return 0
    shutil.rmtree(running, ignore_errors=True)
    with contextlib.suppress(OSError):
        running.parent.rmdir()
    _redact(_opened["folder"] / "multirun.yaml")
    from pipeline.tracking.run import close_run, delete_run

    children = _closed(parent)
    if not children:
        close_run(parent.id, "KILLED" if interrupted else "FAILED")
        delete_run(parent.id)
        return 0
    failed = [child for child in children if child.info.status != "FINISHED"]
    status, code = ("KILLED" if interrupted else "FAILED"), 1
    try:
        worst = _report(parent, children, interrupted=interrupted)
        missing = (_opened["jobs"] or 0) > len(children)
        if not failed and not interrupted and not missing:
            status, code = "FINISHED", worst
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        close_run(parent.id, status)
    return code


def _redact(path: Path) -> None:
    """Take passwords of URIs out of the file that Hydra writes of a sweep's config."""
    if not path.is_file():
        return
    text = path.read_text()
    if redact(text) != text:
        storage.write_atomic(path, lambda file: file.write(redact(text).encode()))


def _closed(parent: Any) -> list[Any]:
    """Return the children, after closing those whose process is gone."""
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


def _report(parent: Any, children: list[Any], *, interrupted: bool) -> int:
    """Compare the finished children and put tables, pictures and report on the parent."""
    from pipeline import terminal
    from pipeline.report.markdown import describe_sweep
    from pipeline.stages.compare import compare
    from pipeline.tracking.views import find_page

    settings, jobs = _settings(_opened["config"]), _opened["jobs"]
    overrides = list(_opened["config"].hydra.overrides.task)
    records, unreadable, notes = left_by(children, jobs=jobs)
    if not records:
        notes += [f"{run}: {why}" for run, why in unreadable.items()]
        parent.describe(describe_sweep([], overrides=overrides, jobs=jobs, notes=notes))
        terminal.failures(notes)
        return 1
    result = compare(
        records,
        folder=_opened["folder"],
        title=_opened["title"],
        formats=settings.tracking.figures,
        rtol=settings.parity.rtol,
        atol=settings.parity.atol,
        margin=settings.parity.margin,
        accept=read_accepted(settings.parity.accept),
        precision=settings.parity.precision,
        evidence=_evidence(settings, budget=0.0 if interrupted else settings.parity.budget),
        hint=f"; python -m pipeline 'stages=[probe,compare]' compare.sweep={parent.id} measures it",
        notes=notes,
        unreadable=unreadable,
    )
    publish(parent, result, overrides=overrides, jobs=jobs, notes=notes)
    terminal.comparison(result, notes=notes)
    if jobs is None:
        best = search.best(_opened["config"])
        parent.log_tags(best)
        for key, value in best.items():
            print(f"{key}  {value}")
    page = find_page(settings.tracking.experiment)
    terminal.where(result.folder, uri=settings.tracking.uri, page=page)
    return result.exit_code if result.judges else 0


def left_by(
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


def publish(
    parent: Any, result: Any, *, overrides: list[str], jobs: int | None, notes: list[str]
) -> None:
    """Put a comparison on the sweep's parent run: tables, figures, report and a description.

    What was put there before, by the sweep itself, is replaced; its runs are told their verdicts.
    """
    from pipeline import leaderboard
    from pipeline.report.markdown import describe_sweep
    from pipeline.report.tables import summarise_runs, tabulate_equivalences, tabulate_verdicts

    _tag(result)
    parent.log_folder(result.folder / "plots", "plots")
    for name in ("report.html", "parity.json"):
        parent.log_file(result.folder / name)
    tables = {
        "runs": summarise_runs(result.records),
        "leaderboard": result.board,
        "differences": leaderboard.differences(result.records),
        "verdicts": tabulate_verdicts(
            result.records, result.pairs, result.ladders, result.by_seeds
        ),
        "equivalence": tabulate_equivalences(result.equal),
        "pairs": result.table(),
    }
    for name, (header, rows) in tables.items():
        if rows:
            parent.log_table(header, rows, name)
    for name, test in result.equal.items():
        parent.log_tags({f"equivalence.{name}"[:250]: test.sentence()})
    if result.judges:
        parent.log_tags({"parity.verdict": result.worst, "parity.method": METHOD_NAME})
    parent.log_metrics({f"parity/{key}": v for key, v in result.largest().items()})
    text = describe_sweep(
        result.records, overrides=overrides, jobs=jobs, notes=notes, pairs=result.pairs,
        ladders=result.ladders, board=result.board, equal=result.equal,
        by_seeds=result.by_seeds,
    )  # fmt: skip
    parent.describe(text)


def _evidence(settings: Any, *, budget: float) -> Any:
    """Return what measures a pair at the end of a sweep, as long as the budget (s) lasts."""
    from pipeline.stages.probe import find_evidence, probe_and_save
    from pipeline.stages.run import needs_own_process

    left = budget

    def measured(a: RunRecord, b: RunRecord) -> Any:
        nonlocal left
        known = find_evidence(a, b, **probing(settings))
        drawn = (
            parse_config(a.config).model.init == "framework"
        )  # starts of their own: no pair to probe
        if known is not None or settings.parity.probe == "off" or drawn or not a.named("param"):
            return known
        # Both sides in both precisions from either's states, and the reference.
        expected = 5 * sum(side.about["time"].get("train_s", 0.0) for side in (a, b))
        if expected > left or any(needs_own_process(parse_config(side.config)) for side in (a, b)):
            return None
        start = time.perf_counter()
        print(f"probing {a.label()} against {b.label()}: every step from equal states", flush=True)
        try:
            return probe_and_save(a, b, say=said, **probing(settings))
        except Exception as error:  # the runs are compared all the same, by what there is
            reason = redact(f"{type(error).__name__}: {error}")
            print(f"twingrad: warning: the probe failed: {reason}", file=sys.stderr)
            return None
        finally:
            left -= time.perf_counter() - start

    return measured


def said(text: str) -> None:
    """Print what a probe does next."""
    print(f"  {text}", flush=True)


def probing(settings: Any) -> dict[str, Any]:
    """Return what a probe is told by the config."""
    parity = settings.parity
    return {
        "prove": parity.prove,
        "gradcheck": parity.gradcheck,
        "accept": read_accepted(parity.accept),
        "precision": parity.precision,
    }


def _tag(result: Any) -> None:
    """Tell each run of a pair its verdict and who its twin is; of several the worst."""
    from pipeline.tracking.run import reopen_run

    for run in result.unreadable:
        tracked = reopen_run(run)
        if tracked is not None:
            tracked.log_tags({"parity.verdict": "ERROR"})
    told: dict[str, list[tuple[str, str]]] = {}
    for pair, (verdict, _) in zip(result.pairs, result.verdicts, strict=True):
        ids = [str(side.about.get("run", "")) for side in pair]
        for own, twin in (ids, ids[::-1]):
            told.setdefault(own, []).append((verdict, twin))
    for run, found in told.items():
        worst = max((verdict for verdict, _ in found), key=WORST.__getitem__)
        twins = ", ".join(twin for _, twin in found)
        tracked = reopen_run(run)
        if tracked is not None:
            tracked.log_tags(
                {"parity.verdict": worst, "parity.twin": twins, "parity.method": METHOD_NAME}
            )


def _settings(config: DictConfig) -> Config:
    """Return what all jobs have in common, typed; what is swept has its default there."""
    values: Any = OmegaConf.to_container(_without_hydra(config), resolve=True)
    return parse_config(values)


def _without_hydra(config: DictConfig) -> DictConfig:
    copy = config.copy()
    OmegaConf.set_readonly(copy, False)
    OmegaConf.set_struct(copy, False)
    copy.pop("hydra")
    return copy
