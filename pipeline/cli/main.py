"""The command itself: the only `hydra.main`, and how a command ends."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pipeline.cli.commands import (
    resolve_job,
    run_job,
    run_single,
)
from pipeline.cli.errors import DEBUG, tell_error
from pipeline.cli.signals import (
    catch_signals,
    end_waiting,
    stop,
    tell_stopped,
)
from pipeline.cli.words import check_words
from pipeline.config.compose import CONF, allow_tags, to_values
from pipeline.config.types import ConfigError
from pipeline.output import be_quiet, guard_output
from pipeline.record.record import RunRecord
from pipeline.sweeps import search
from pipeline.sweeps.close import finish
from pipeline.sweeps.opened import PARENT, find_open_sweep
from pipeline.sweeps.workers import (
    in_worker,
    note_failure,
    tell_job,
)

_exit = 0


def main() -> None:
    """Run the command line and leave with its exit code."""
    guard_output()
    os.environ["TWINGRAD_DEBUG"] = str(int(DEBUG))
    # Hydra copies its store with each look at a group, which is half of what ``--help`` takes. What
    # it reads from the store it copies as well.
    setattr(ConfigStore, "__deepcopy__", lambda store, memo: store)  # noqa: B010
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's errors shall reach `tell_error`, not stderr
    # Hydra's parser wants the flag in front of the overrides; people write it anywhere.
    words = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))
    sys.argv[1:] = allow_tags(words)
    catch_signals()
    interrupted, code = False, 0
    try:
        check_words(sys.argv[1:])
        try:
            _command()
        finally:
            end_waiting()
        code = _exit
    except KeyboardInterrupt:
        interrupted, code = True, tell_stopped()
    except OSError as error:  # a job's own errors do not get here
        if isinstance(error, HydraException):
            code = tell_error(error)
        else:
            key = "hydra.sweep.dir" if find_open_sweep() else "hydra.run.dir"
            reason = f"the folder cannot be made ({error.strerror})"
            code = tell_error(ConfigError(key, error.filename, reason))
    except BaseException as error:
        code = tell_error(error)
    if code == 0 or find_open_sweep():
        try:
            closing = finish(interrupted=interrupted)
            code = code or closing
        except KeyboardInterrupt:
            code = tell_stopped()
        except BaseException as error:
            code = code or tell_error(error) or 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    sys.exit(code)


def _job(cfg: DictConfig) -> Any:
    """Run what one composed config asks for."""
    global _exit
    folder = Path(HydraConfig.get().runtime.output_dir)
    with _no_empty_folder(folder):
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return _member(cfg, folder)
        _settle_terminal(cfg)
        try:
            _exit = run_single(to_values(cfg), folder)
        except Exception as error:
            _exit = tell_error(error)
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
    _settle_terminal(cfg)
    name = HydraConfig.get().job.override_dirname or "run"
    name = f"{cfg.tracking.run_name}: {name}" if cfg.tracking.run_name else name
    parent, metric = os.environ.get(PARENT), OmegaConf.select(cfg, "sweep.metric")
    try:
        with in_worker(stop) as wanted:
            if not wanted:
                return "stopped before it began"
            try:
                with tell_job(name) as job:
                    record = run_job(
                        resolve_job(to_values(cfg)), folder=folder, name=name, parent=parent,
                        resume=not cfg.sweep.rerun, progress=job.progress, note=job.note,
                    )  # fmt: skip
                    if search.wanted(HydraConfig.instance().cfg):  # type: ignore[arg-type]
                        return search.value(record or RunRecord.load(folder / "record"), metric)
            except Exception as error:
                if DEBUG:
                    traceback.print_exc()
                place = {"tracked": cfg.tracking, "folder": folder}
                note_failure(parent, **place, name=name, error=error)
                return f"failed: {error}"  # the main process says it: see `sweeps.live.board`
    except KeyboardInterrupt:
        if find_open_sweep():
            raise
        return "stopped"  # in a worker: whether the sweep goes on is the main process's matter
    return None


def _settle_terminal(cfg: DictConfig) -> None:
    """Let this process be as quiet as the config asks for."""
    if cfg.terminal == "quiet":
        be_quiet()


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
