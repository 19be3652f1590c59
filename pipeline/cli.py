"""The command line: Hydra's config to typed values, stages, exit codes; no science.

Nothing heavy is imported here: ``--help`` and a wrong config answer at once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline import sweep
from pipeline.config import Config, ConfigError

_PACKAGE = Path(__file__).parent
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
DEBUG = os.environ.get("HYDRA_FULL_ERROR") == "1"
_exit = 0


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; handled as Ctrl-C is, but for the exit code."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's errors shall reach `_code`, not stderr
    _catch_signals()
    interrupted, code = False, 0
    try:
        _job()
        code = _exit
    except KeyboardInterrupt as error:
        interrupted = True
        code = 143 if isinstance(error, Terminated) else 130
        _say("stopped by SIGTERM" if code == 143 else "stopped by Ctrl-C")
    except BaseException as error:
        code = _code(error)
    if code == 0 or sweep.is_open():
        try:
            closing = sweep.finish(interrupted=interrupted)
            code = code or closing
        except BaseException as error:
            code = code or _code(error) or 1
    sys.stdout.flush()
    sys.exit(code)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _job(cfg: DictConfig) -> Any:
    """Run what one composed config asks for; in a sweep, return the failure instead of raising."""
    global _exit
    sweep.check_opened()
    folder = Path(HydraConfig.get().runtime.output_dir)
    with _no_empty_folder(folder):
        sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
        name = HydraConfig.get().job.override_dirname or "run"
        parent = os.environ.get(sweep.PARENT) if sweeping else None
        try:
            values = _values(cfg)
            if sweeping:
                _run(values, folder=folder, name=name, parent=parent)
            else:
                _exit = _single(values, folder)
        except Exception as error:
            if not sweeping:
                _exit = _code(error)
                return None
            _say(f"job {HydraConfig.get().job.num} ({name}) failed: {error}")
            if DEBUG:
                traceback.print_exc()
            sweep.note_failure(parent, name=name, error=error)
            return f"failed: {error}"
    return None


def _values(cfg: DictConfig) -> dict[str, Any]:
    """Return the composed config as plain containers, interpolations resolved."""
    values: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    return dict(values)


def _single(values: dict[str, Any], folder: Path) -> int:
    """Run a command that is no sweep, and return its exit code."""
    if "compare" in values["stages"]:
        return _compare(values, folder)
    if values["run"] is not None:
        return _score(values)
    record = _run(values, folder=folder, name=_name(values), parent=None)
    if record is not None:
        from pipeline import terminal

        terminal.run(record)
        terminal.where(folder, uri=values["tracking"]["uri"])
    return 0


def _run(values: dict[str, Any], *, folder: Path, name: str, parent: str | None) -> Any:
    """Check a config whole, then run it, here or in a process of its own."""
    settings = _check(values)
    from pipeline.stages.check import samples_and_start

    dataset, first = samples_and_start(settings)
    from pipeline import terminal
    from pipeline.stages.run import needs_own_process, run

    if needs_own_process(settings):
        return _elsewhere(values, folder=folder, name=name, parent=parent)
    record = run(
        settings,
        values=values,
        dataset=dataset,
        first=first,
        folder=folder,
        name=name,
        parent=parent,
        progress=terminal.progress,
    )
    return record if record.arrays else None


def _check(values: Mapping[str, Any]) -> Config:
    from pipeline.stages.check import check

    settings = check(values)
    if "compare" in settings.stages:
        raise ConfigError("stages", list(settings.stages), "compare stands alone")
    if "train" not in settings.stages and settings.stages != ("generate",):
        raise ConfigError("stages", list(settings.stages), "evaluate needs train, or run=<run>")
    return settings


def _elsewhere(values: dict[str, Any], **how: Any) -> None:
    """Run one job in a fresh process: its framework was already started here in another way."""
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


def _child(pipe: Any, values: dict[str, Any], **how: Any) -> None:
    _catch_signals()
    try:
        _run(values, **how)
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
    from pipeline import terminal, tracking
    from pipeline.stages.run import score_again

    tracking.find(values["tracking"]["uri"])
    record, scores = score_again(values["run"])
    terminal.run(record)
    print("  ".join(f"eval/{name} {value:.9g}" for name, value in scores.items()))
    return 0


def _compare(values: Mapping[str, Any], folder: Path) -> int:
    """Compare recorded runs."""
    from pipeline import config, terminal, tracking
    from pipeline.stages.compare import compare
    from pipeline.stages.run import load_record

    settings = config.parse(values)
    if settings.stages != ("compare",):
        raise ConfigError("stages", list(settings.stages), "compare stands alone")
    runs, chosen = list(settings.compare.runs), settings.compare.sweep
    if (len(runs) < 2) == (chosen is None):
        raise ConfigError("compare.runs", runs, "give two or more runs, or compare.sweep")
    if chosen is not None or not all(map(_is_record, runs)):
        tracking.find(settings.tracking.uri)
    if chosen is not None:
        parent = (
            tracking.latest_sweep(settings.tracking.experiment) if chosen == "latest" else chosen
        )
        runs = tracking.finished_children(parent)
    key = "compare.runs"
    result = compare(
        [load_record(tracking.record_folder(run, key=key), key=key) for run in runs],
        folder=folder,
        title=f"Comparison of {len(runs)} runs",
        formats=settings.tracking.figures,
        rtol=settings.parity.rtol,
        atol=settings.parity.atol,
    )
    terminal.comparison(result, notes=())
    terminal.where(folder, uri=settings.tracking.uri)
    return result.exit_code


def _is_record(run: str) -> bool:
    return any((Path(run) / part).is_file() for part in ("record.json", "record/record.json"))


def _name(values: Mapping[str, Any]) -> str:
    """Return a run's name: its model, its backend, and its loop unless it is the manual one."""
    loop = values["train"]["loop"]
    parts = [values["model"]["name"], values["backend"]["name"], "" if loop == "manual" else loop]
    return " ".join(part for part in parts if part)


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
    """Turn the first SIGINT or SIGTERM into an exception and ignore what follows."""

    def stop(number: int, frame: Any) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)


def _say(text: str) -> None:
    print(f"twingrad: {' '.join(text.split())}", file=sys.stderr, flush=True)


def _code(error: BaseException) -> int:
    """Say what went wrong in one line, and return the exit code it stands for."""
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


def _explained(error: BaseException) -> str:
    """Put Hydra's and OmegaConf's errors into one line: the key, the value, what is allowed."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={option}: must be one of {', '.join(sorted(error.options))}"
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.parent_node is not None:
        allowed = ", ".join(sorted(map(str, cause.parent_node)))
        return f"{cause.full_key}: unknown key; allowed here: {allowed}"
    return str(error)
