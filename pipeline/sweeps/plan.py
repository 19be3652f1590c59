"""What a multirun asks for: how many jobs, of what kinds, under which name."""

from __future__ import annotations

import itertools
import math
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from pipeline.config.compose import to_values
from pipeline.config.schema import Config, parse_config
from pipeline.config.types import ConfigError
from pipeline.pairs.registry import FOREIGN
from pipeline.sweeps import search

MOST_JOBS = 100_000  # more is a slip of the keyboard, and would be listed before the first one ran


def check_plan(config: DictConfig) -> tuple[int | None, list[str]]:
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
    jobs = math.prod(map(len, choices.values()))
    if jobs > MOST_JOBS and not searching:
        raise ConfigError("--multirun", jobs, f"are more jobs than the {MOST_JOBS} of one sweep")
    from pipeline.jobs.check import check_destinations

    settings = read_settings(config)
    check_destinations(settings)
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
    for number, member in enumerate(itertools.product(*kinds)):
        composed = loader.load_sweep_config(config, list(member))
        if number == 0 and composed.model.name == FOREIGN:
            _prepare_pair(composed)
    return None if searching else jobs, fixed


def _prepare_pair(config: DictConfig) -> None:
    """Make what the first job needs of a pair that is not ours, so that a bad one starts no job."""
    from pipeline.jobs.resolve import resolve

    resolve(to_values(_without_hydra(config), whole=False))


def name_by_what_is_swept(config: DictConfig, fixed: list[str]) -> None:
    """Keep out of the jobs' names what they all have; workers compose that config anew."""
    key = "hydra.job.config.override_dirname.exclude_keys"
    known = [*OmegaConf.select(config, key), *fixed]
    config.hydra.overrides.hydra.append(f"{key}=[{','.join(known)}]")


def name_sweep(config: DictConfig, overrides: list[str]) -> str:
    """Return a short name for a sweep: its model and data, and what has several values."""
    parts = [part.lstrip("+~") for part in overrides]
    many = [part.split("=")[0] for part in parts if "," in part or "(" in part]
    fixed = [] if "experiment" in many else [key for key in ("model", "data") if key not in many]
    about = " on ".join(str(config[key].name) for key in fixed)
    return ": ".join(part for part in (about, " × ".join(many)) if part)


def read_settings(config: DictConfig) -> Config:
    """Return what all jobs have in common, typed; what is swept has its default there."""
    return parse_config(to_values(_without_hydra(config), whole=False))


def _without_hydra(config: DictConfig) -> DictConfig:
    """Return a copy of a config without Hydra's own settings."""
    copy = config.copy()
    OmegaConf.set_readonly(copy, False)
    OmegaConf.set_struct(copy, False)
    copy.pop("hydra")
    return copy
