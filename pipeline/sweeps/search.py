"""Searches: what a multirun with Optuna minimises, and the study that remembers it.

The study lies in a file of its own beside the MLflow store, named after what is searched, so that
the same command continues it. Not to be confused with the sweep's parent run, of which every
command makes its own. Optuna is imported at the last moment: only searches need it.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline import losses, metrics, seeds
from pipeline.config.types import ConfigError
from pipeline.record.record import RunRecord


def wanted(config: DictConfig) -> bool:
    """Whether the sweeper of a composed config is Optuna's."""
    return str(config.hydra.sweeper._target_).endswith(".OptunaSweeper")


def check(config: DictConfig, several: bool, given: Sequence[str]) -> None:
    """Refuse a search without a metric or without anything to search.

    Parameters
    ----------
    config
        The multirun's config.
    several
        Whether some parameter has several values.
    given
        The overrides; an interval is written as a function.
    """
    metric = OmegaConf.select(config, "sweep.metric")
    if metric not in metrics.OBJECTIVES:
        allowed = f"a search needs a metric, one of {', '.join(metrics.OBJECTIVES)}"
        raise ConfigError("sweep.metric", "null" if metric is None else metric, allowed)
    (kind, score), name = metric.split("/"), str(config.loss.name)
    apart = any(t.startswith(("loss=", "experiment=")) and "," in t for t in given)
    loss = getattr(losses, name, None)
    if kind in ("eval", "val") and loss is not None and not apart:
        there = metrics.REGRESSION if loss.targets == "values" else metrics.CLASSES
        if score not in there:
            raise ConfigError("sweep.metric", metric, f"loss={name} goes with {', '.join(there)}")
    trials = config.hydra.sweeper.n_trials
    if not isinstance(trials, int) or trials < 1:
        raise ConfigError("hydra.sweeper.n_trials", trials, "must be a number from 1 on")
    direction = str(getattr(config.hydra.sweeper.direction, "name", config.hydra.sweeper.direction))
    if score in metrics.HIGHER and direction == "minimize":
        raise ConfigError("sweep.metric", metric, "rises; add hydra.sweeper.direction=maximize")
    if not several and not any("interval(" in text for text in given):
        raise ConfigError("hydra/sweeper", "optuna", "nothing to search: give a parameter a range")


def resume(config: DictConfig, *, workers: int, alone: bool) -> None:
    """Make or find the study, and let the sweeper run what its number of trials still lacks.

    Parameters
    ----------
    config
        The multirun's config; its sweeper is changed.
    workers
        How many trials the launcher runs at once.
    alone
        Whether no other sweep runs: then a trial that still counts as running was killed, and is
        closed as failed.

    Raises
    ------
    SystemExit
        If nothing is lacking: with code 0, or 1 if every trial failed.
    """
    sweeper = config.hydra.sweeper
    given = [text.split("=")[0] for text in config.hydra.overrides.hydra]
    if "hydra.sweeper.n_jobs" not in given:
        sweeper.n_jobs = workers
    sweeper.storage = sweeper.storage or _beside(config.tracking.uri)
    sweeper.study_name = sweeper.study_name or _name(config)
    study = _study(config)
    if alone:
        _close_killed(study)
    states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
    done = sum(state in {"COMPLETE", "FAIL"} for state in states)
    if done >= sweeper.n_trials:
        tags = "  ".join(f"{key} {value}" for key, value in best(config).items())
        print(f"nothing to do: the study has {done} trials  {tags}")
        if "COMPLETE" not in states:
            print("twingrad: every trial failed", file=sys.stderr)
            raise SystemExit(1)
        raise SystemExit(0)
    sweeper.n_trials -= done
    if "seed" in sweeper.sampler:
        # Of its own for each continuation: the same seed would draw the first trials once more.
        given = sweeper.sampler.seed
        if given is None or done:
            base = config.seed if given is None else given
            sweeper.sampler.seed = seeds.integer(base, f"search.{done}")


def _close_killed(study: Any) -> None:
    """Close the trials that no process runs any more; they count as failed."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)


def value(record: RunRecord, metric: str) -> float:
    """Return the number that a search compares runs by.

    Raises
    ------
    ConfigError
        If the run has no such number, or none that can be compared.
    """
    scores, times = record.about["scores"], record.about["time"]
    numbers = {f"eval/{key}": score for key, score in scores.items()}
    numbers |= {f"time/{key}": number for key, number in times.items()}
    numbers |= {f"val/{key}": curve[-1] for key, curve in record.named("val").items() if len(curve)}
    if "loss" in record.arrays:
        numbers["train/loss"] = record.arrays["loss"][-1]
    if metric not in numbers:
        have = ", ".join(sorted(set(numbers) & set(metrics.OBJECTIVES)))
        raise ConfigError("sweep.metric", metric, f"this run has {have}")
    if not math.isfinite(numbers[metric]):
        raise ConfigError("sweep.metric", metric, f"is {numbers[metric]} in this run")
    return float(numbers[metric])


def best(config: DictConfig) -> dict[str, str]:
    """Return what the study found so far, as tags."""
    study = _study(config)
    tags = {"search.study": study.study_name, "search.storage": _shown(config)}
    done = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    if done:
        winner = study.best_trial
        chosen = " ".join(f"{key}={choice}" for key, choice in winner.params.items())
        tags |= {"search.best": chosen, "search.best_value": f"{winner.value:.9g}"}
    return tags | {"search.metric": str(config.sweep.metric), "search.trials": str(len(done))}


def tell_best(config: DictConfig, jobs: int | None) -> str | None:
    """Return in words what a search found by its metric; None of a plain sweep."""
    if jobs is not None:
        return None
    tags = best(config)
    if "search.best" not in tags:
        return ""
    return f"best {tags['search.best']} ({tags['search.metric']} {tags['search.best_value']})"


def _study(config: DictConfig) -> Any:
    """Open the study, made if it is not there."""
    import optuna
    from optuna.storages import RDBStorage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sweeper = config.hydra.sweeper
    try:
        if isinstance(sweeper.storage, str):
            # Optuna 2 leaves the version of a new store uncommitted with SQLAlchemy 2, and then
            # cannot open it; so it is made once with every statement committed by itself.
            RDBStorage(sweeper.storage, engine_kwargs={"isolation_level": "AUTOCOMMIT"})
        direction = getattr(sweeper.direction, "name", sweeper.direction)
        return optuna.create_study(
            study_name=sweeper.study_name,
            storage=sweeper.storage,
            direction=direction,
            load_if_exists=True,
        )
    except Exception as error:  # whatever a store raises, it is of no use
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError("hydra.sweeper.storage", _shown(config), f"fails ({reason})") from None


def _beside(uri: str) -> str:
    """Return where the studies of a local store lie; those of a server's runs lie in outputs."""
    from sqlalchemy.engine import make_url

    local = uri.startswith("sqlite:")
    folder = Path(make_url(uri).database or "").parent if local else Path("outputs")
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'optuna.db'}"


def _name(config: DictConfig) -> str:
    """Name a study after what is searched for, where, and with what else fixed."""
    sweeper = config.hydra.sweeper
    parameters = [f"{key}={text}" for key, text in (sweeper.params or {}).items()]
    aside = ("tracking.", "sweep.", "parity.", "compare.", "terminal=")
    fixed = [
        text for text in config.hydra.overrides.task if not text.lstrip("+~").startswith(aside)
    ]
    words = sorted({*parameters, *fixed, f"direction={sweeper.direction}"})
    return f"{config.sweep.metric} {hashlib.sha256(repr(words).encode()).hexdigest()[:10]}"


def _shown(config: DictConfig) -> str:
    """Return the store's address without the password it may carry."""
    from sqlalchemy.engine import make_url

    storage = config.hydra.sweeper.storage
    return make_url(storage).render_as_string() if isinstance(storage, str) else "its own"
