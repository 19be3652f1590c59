"""Hydra's callback: what happens before the first job of a multirun."""

from __future__ import annotations

import shutil
from typing import Any

from hydra.experimental.callback import Callback
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf, flag_override

from pipeline.identity import flatten
from pipeline.output import be_quiet
from pipeline.redact import redact
from pipeline.sweeps import search
from pipeline.sweeps.launchers import count_workers, end_workers, ready_launcher
from pipeline.sweeps.opened import JOBS, PARENT, OpenSweep, set_open_sweep
from pipeline.sweeps.plan import check_plan, name_by_what_is_swept, name_sweep


class Refused(BaseException):
    """A multirun that must not start, and as its cause why.

    Not an `Exception`: of those that a callback raises, Hydra only warns.
    """


class OpenParent(Callback):
    """Hydra callback that checks the sweep, readies its launcher and opens the parent run."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Create the store and the parent run before any job starts."""
        try:
            jobs, fixed = check_plan(config)
            if jobs is not None:  # Hydra would compose every member again, one after the other
                setattr(Sweeper, "validate_batch_is_legal", lambda sweeper, batch: None)  # noqa: B010
            with flag_override(config.hydra, ["struct", "readonly"], [False, False]):
                ready_launcher(config)
                name_by_what_is_swept(config, fixed)
                _open_parent(config, jobs)
        except Exception as error:
            end_workers()
            raise Refused from error
        except BaseException:
            end_workers()
            raise


def _open_parent(config: DictConfig, jobs: int | None) -> None:
    """Prepare the store, open the parent run and show the board; a search finds its study first."""
    from pipeline.report.markdown import tell_asked
    from pipeline.stages.run import read_commit
    from pipeline.sweeps.live.board import Board
    from pipeline.tracking.query import is_sweep_running
    from pipeline.tracking.recover import close_dead_runs
    from pipeline.tracking.run import NOTE_TAG, create_run
    from pipeline.tracking.store import prepare_store

    overrides = list(OmegaConf.to_container(config.hydra.overrides.task))  # type: ignore[arg-type]
    place = config.tracking
    prepare_store(place.uri)
    close_dead_runs(stale=place.stale)
    if config.terminal == "quiet":
        be_quiet()
    title = config.sweep.title or name_sweep(config, overrides)
    if jobs is None:
        alone = not is_sweep_running(place.experiment)
        search.resume(config, workers=count_workers(config), alone=alone)
    tags: dict[str, Any] = flatten(OmegaConf.to_container(place.tags, resolve=True))  # type: ignore[arg-type]
    if place.note is not None:
        tags[NOTE_TAG] = place.note  # `make compare` describes the sweep anew
    tags["git.commit"] = read_commit()
    parent = create_run(
        experiment=place.experiment,
        artifacts=place.artifacts,
        name=title,
        tags=tags | {"kind": "sweep", "overrides": overrides, "jobs": jobs},
        note=tell_asked(overrides, jobs=jobs, note=place.note),
    )
    config.hydra.overrides.hydra.append(f"++hydra.job.env_set.{PARENT}='{parent.id}'")
    sweep = OpenSweep(parent=parent, config=config, title=title, jobs=jobs)
    set_open_sweep(sweep)
    shutil.rmtree(sweep.running, ignore_errors=True)  # of one that was killed in the same folder
    total = int(config.hydra.sweeper.n_trials) if jobs is None else jobs
    sweep.board = Board(sweep.running / JOBS, title=redact(title), total=total)
