"""The whole config checked before anything heavy is imported or anything is created."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from pipeline import backends, config, data, losses, models, optimizers, schedules, seeds
from pipeline.config import Config, ConfigError


def check(values: Mapping[str, Any]) -> Config:
    """Return a composed config typed, with every choice and setting known to exist.

    Loads no framework. Raises `ConfigError` for the first thing that is wrong.
    """
    settings = config.parse(values)
    for group, module in (("loss", losses), ("optimizer", optimizers), ("schedule", schedules)):
        part = getattr(settings, group)
        function = config.choose(f"{group}.name", part.name, config.functions(module))
        config.checked_settings(group, function, part.settings)
    config.checked_settings("data", data.maker(settings.data.name), settings.data.settings)
    first_values = models.spec(settings.model.name).first_values
    config.checked_settings("model", first_values, settings.model.settings)

    traits = backends.traits(settings.backend.name)
    loop, name = settings.train.loop, settings.backend.name
    if loop not in traits["LOOPS"]:
        instead = " or ".join(traits["LOOPS"])
        raise ConfigError(
            "train.loop", loop, f"backend={name} has no such loop; use {instead}"
            + (", or backend=tensorflow, whose Keras has fit" if loop == "fit" else "")
        )  # fmt: skip
    if loop != "manual" and settings.optimizer.name not in traits["NATIVE"]:
        known = ", ".join(traits["NATIVE"])
        raise ConfigError(
            "optimizer.name", settings.optimizer.name, f"train.loop={loop} knows {known} so far"
        )
    if settings.backend.xla and not traits["XLA"]:
        raise ConfigError("backend.xla", "true", f"backend={name} does not compile through XLA")
    if settings.backend.xla and settings.backend.execution == "eager":
        raise ConfigError("backend.xla", "true", "needs backend.execution=compiled")
    if settings.backend.xla and loop == "fit" and settings.backend.deterministic:
        raise ConfigError("backend.xla", "true", "Keras fit leaves XLA out when deterministic=true")
    if name not in models.backends_of(settings.model.name):
        have = ", ".join(models.backends_of(settings.model.name))
        raise ConfigError("backend.name", name, f"model={settings.model.name} has twins for {have}")
    return settings


def made(settings: Config) -> data.Dataset:
    """Make the data set of a config in memory."""
    stream = partial(seeds.stream, settings.seed)
    return data.make(settings.data.name, settings=settings.data.settings, stream=stream)


def samples_and_start(settings: Config) -> tuple[data.Dataset, dict[str, np.ndarray]]:
    """Make a run's samples and shared first weights, so that what does not fit is known now."""
    dataset = made(settings)
    first = models.spec(settings.model.name).first_values(
        seeds.stream(settings.seed, "init"),
        inputs=dataset.inputs,
        outputs=dataset.outputs,
        **settings.model.settings,
    )
    return dataset, first
