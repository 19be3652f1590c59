"""The whole config checked before anything heavy is imported or anything is created."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import backends, data, losses, metrics, optimizers, schedules, storage
from pipeline.backends.base import Masks
from pipeline.config.schema import Config, parse_config
from pipeline.config.signatures import check_settings, choose_option, list_functions
from pipeline.config.types import ConfigError
from pipeline.data import Dataset
from pipeline.identity import flatten
from pipeline.pairs import registry as pair_registry
from pipeline.pairs.own import spec as own_spec
from pipeline.pairs.own.source import brings
from pipeline.pairs.pair import Pair
from pipeline.pairs.registry import find_pair
from pipeline.redact import redact

# Tags that Twingrad and MLflow set themselves, and how the names of more of them begin.
_OWN_TAGS = {
    "kind", "backend", "sweep", "asked", "versions", "overrides", "jobs", "error", "heartbeat",
    "config.digest", "data.digest", "code.digest", "environment.digest", "git.commit",
    "native.differences", "model.missing",
}  # fmt: skip
_OWN_PREFIXES = (
    "mlflow.", "parity.", "linked.", "equivalence.", "twingrad.", "resumed.", "failed.", "search.",
)  # fmt: skip


def check_config(values: Mapping[str, Any]) -> Config:
    """Return a composed config typed, with every choice and setting known to exist.

    Loads no framework and makes no data. Raises `ConfigError` for the first thing that is wrong.
    """
    settings = parse_config(values)
    check_destinations(settings)
    _check_tags(settings)
    for group, module in (("loss", losses), ("optimizer", optimizers), ("schedule", schedules)):
        part = getattr(settings, group)
        options = list_functions(module)
        if group == "optimizer":
            options[pair_registry.FOREIGN] = own_spec.optimizer
        function = choose_option(f"{group}.name", part.name, options)
        check_settings(group, function, part.settings)
    check_settings("data", data.maker(settings.data.name), settings.data.settings)
    pair = find_pair(settings.model.name)
    check_settings("model", pair.settings, settings.model.settings)
    _check_foreign(settings, pair)
    _check_backend(settings)
    _check_loop(settings)
    _check_stages(settings)
    return settings


def _check_foreign(settings: Config, pair: Pair) -> None:
    """Refuse a pair that is not ours where it is none, and what belongs to such pairs elsewhere."""
    if not pair.is_foreign:
        for group in ("data", "loss", "optimizer"):
            if getattr(settings, group).name == pair_registry.FOREIGN:
                reason = f"belongs to model=own, not to model={settings.model.name}"
                raise ConfigError(f"{group}.name", "own", reason)
        return
    pair.spec.check(settings.model.settings)
    inputs = settings.model.settings["inputs"]
    if inputs and settings.data.name != pair_registry.FOREIGN:
        raise ConfigError("model.inputs", inputs, f"goes without data={settings.data.name}")
    optimizer = settings.optimizer
    if brings(settings.model.settings, "optimizer", optimizer.name):
        for word, given, usual in (
            ("decay", optimizer.decay, "none"),
            ("clip_norm", optimizer.clip_norm, None),
            ("accumulate", optimizer.accumulate, 1),
        ):
            if given != usual:
                reason = "the pair's own optimizer decides that; it is in its code"
                raise ConfigError(f"optimizer.{word}", given, reason)
    for key, value, allowed in (
        ("train.loop", settings.train.loop, pair.spec.LOOPS),
        ("model.init", settings.model.init, pair.spec.INITS),
    ):
        if value not in allowed:
            raise ConfigError(key, value, f"model=own has {' and '.join(allowed)}")
    if settings.data.name != "own":
        return
    train = settings.train
    batch, every = train.batch, train.evaluate_every
    for key, given, is_right in (
        ("train.batch", batch, batch is None),
        ("train.shuffle", train.shuffle, not train.shuffle),
        ("train.evaluate_every", every, every is None),
    ):
        if not is_right:
            raise ConfigError(key, given, "batches(rng) decides that; use train=full_batch")


def check_destinations(settings: Config) -> None:
    """Refuse an objective or a place for artifacts that no run can have."""
    metric, artifacts = settings.sweep.metric, settings.tracking.artifacts
    if metric is not None and metric not in metrics.OBJECTIVES:
        raise ConfigError("sweep.metric", metric, f"must be one of {', '.join(metrics.OBJECTIVES)}")
    if re.match(r"[A-Za-z][\w+.-]*:/", artifacts):
        raise ConfigError(
            "tracking.artifacts", redact(artifacts),
            "must be a folder; remote places are a server's, which tracking.uri names",
        )  # fmt: skip
    folder = Path(artifacts).absolute()
    if len(str(folder)) > 1000 or any(len(os.fsencode(part)) > 255 for part in folder.parts):
        raise ConfigError("tracking.artifacts", artifacts, "is longer than the name of a folder")
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "cannot be written to" if there.is_dir() else "is no folder"
        raise ConfigError("tracking.artifacts", artifacts, f"{there} {reason}")


def _check_tags(settings: Config) -> None:
    """Refuse tags that no run can have, or that it has already."""
    for name, value in flatten(settings.tracking.tags).items():
        key = f"tracking.tags.{name}"
        if name in _OWN_TAGS or name.startswith(_OWN_PREFIXES):
            raise ConfigError(key, value, "is a tag that Twingrad or MLflow sets itself")
        if not re.fullmatch(r"[\w. /:-]{1,250}", name):
            reason = "a tag's name has letters, digits and . _ - / : alone, 250 at most"
            raise ConfigError(key, value, reason)
        if value is None or isinstance(value, list | tuple | dict):
            raise ConfigError(key, value, "must be text, a number or a boolean")


def _check_backend(settings: Config) -> None:
    """Refuse what the backend does not have."""
    pair = find_pair(settings.model.name)
    name, traits = settings.backend.name, backends.traits(settings.backend.name)
    if settings.train.loop not in traits["LOOPS"]:
        instead = " or ".join(traits["LOOPS"])
        if settings.train.loop == "fit":
            instead += ", or backend=tensorflow, whose Keras has fit"
        raise ConfigError(
            "train.loop", settings.train.loop, f"backend={name} has no such loop; use {instead}"
        )
    rule = settings.optimizer.name
    if settings.train.loop != "manual" and rule not in traits["NATIVE"]:
        raise ConfigError(
            "train.loop", settings.train.loop,
            f"no optimizer of the framework is known for optimizer={rule}; use manual",
        )  # fmt: skip
    for key, value, there in (
        ("backend.dtype", settings.backend.dtype, traits["DTYPES"]),
        ("backend.execution", settings.backend.execution, traits["EXECUTIONS"]),
        *([] if pair.is_foreign else [("model.init", settings.model.init, traits["INITS"])]),
    ):
        if value not in there:
            raise ConfigError(key, value, f"backend={name} has {' and '.join(there)}")
    if name not in find_pair(settings.model.name).backends:
        have = ", ".join(find_pair(settings.model.name).backends)
        raise ConfigError("backend.name", name, f"model={settings.model.name} has twins for {have}")
    able = getattr(find_pair(settings.model.name).spec, "EXECUTION", traits["EXECUTIONS"])
    if settings.backend.execution not in able:
        raise ConfigError(
            "backend.execution", settings.backend.execution,
            f"model={settings.model.name} runs {' and '.join(able)} only",
        )  # fmt: skip
    if settings.backend.xla and not traits["XLA"]:
        raise ConfigError("backend.xla", "true", f"backend={name} does not compile through XLA")
    if settings.backend.xla and settings.backend.execution == "eager":
        raise ConfigError("backend.xla", "true", "needs backend.execution=compiled")
    if settings.backend.xla and settings.train.loop == "fit" and settings.backend.deterministic:
        raise ConfigError("backend.xla", "true", "Keras fit leaves XLA out when deterministic=true")
    refused = getattr(find_pair(settings.model.name).spec, "NO_DETERMINISTIC_XLA", {})
    for key, value in refused.items() if settings.backend.xla else ():
        if settings.backend.deterministic and settings.model.settings[key] == value:
            raise ConfigError(
                "backend.xla", "true",
                f"XLA has no deterministic gradient for model.{key}={value}; use another, or "
                "backend.deterministic=false",
            )  # fmt: skip


def _check_loop(settings: Config) -> None:
    """Refuse settings of the groups optimizer and train that contradict each other."""
    optimizer, train = settings.optimizer, settings.train
    if (optimizer.decay == "none") != (optimizer.weight_decay == 0):
        raise ConfigError(
            "optimizer.weight_decay", optimizer.weight_decay,
            f"does not go with optimizer.decay={optimizer.decay}; say which and how much",
        )  # fmt: skip
    if optimizer.name == "adamw" and optimizer.decay == "l2":
        raise ConfigError("optimizer.decay", "l2", "AdamW's is decoupled; for l2 take adam")
    if train.loop == "fit" and optimizer.accumulate > 1:
        raise ConfigError(
            "optimizer.accumulate", optimizer.accumulate, "train.loop=fit makes an update a batch"
        )
    if train.batch is None and train.shuffle:
        raise ConfigError("train.shuffle", "true", "needs train.batch; a full batch has no order")
    if train.evaluate_every is None:
        for key, value in (("patience", train.patience), ("monitor", train.monitor)):
            if value is not None:
                raise ConfigError(f"train.{key}", value, "needs train.evaluate_every")
        if train.weights == "best":
            raise ConfigError("train.weights", "best", "needs train.evaluate_every")
    elif train.evaluate_every > train.epochs:
        raise ConfigError(
            "train.evaluate_every", train.evaluate_every,
            f"train.epochs={train.epochs} end before the first score",
        )  # fmt: skip


def _check_stages(settings: Config) -> None:
    """Refuse stages that cannot be run together."""
    stages = settings.stages
    if len(set(stages)) < len(stages):
        raise ConfigError("stages", list(stages), "must name each stage once")
    if {"probe", "compare"} & set(stages):
        raise ConfigError("stages", list(stages), "probe and compare stand alone")
    if "train" not in stages and stages != ("generate",):
        raise ConfigError("stages", list(stages), "evaluate needs train, or run=<run>")


def count_outputs(settings: Config, dataset: Dataset) -> int:
    """Return how many outputs a model needs for this loss on this data.

    Raises
    ------
    ConfigError
        If the loss wants other targets than the data has.
    """
    name, classes = choose_loss(settings, dataset)[0], dataset.classes
    wanted = getattr(losses, name).targets
    if wanted == "any":
        return 0
    if (wanted == "values") != (classes is None):
        has = f"{classes} classes" if classes else "continuous targets"
        kinds = {"values"} if classes is None else {"classes", "binary" if classes == 2 else ""}
        instead = " or ".join(
            name
            for name, loss in sorted(list_functions(losses).items())
            if getattr(loss, "targets", None) in kinds
        )
        raise ConfigError("loss.name", name, f"data={dataset.name} has {has}; use {instead}")
    if wanted == "binary" and classes != 2:
        raise ConfigError(
            "loss.name", name, f"data={dataset.name} has {classes} classes; use cross_entropy"
        )
    return {"values": dataset.outputs, "binary": 1, "classes": classes or 0}[wanted]


def choose_loss(settings: Config, dataset: Dataset) -> tuple[str, Mapping[str, Any]]:
    """Return the loss of a config on its data, and its settings; ``own`` may mean another one."""
    name, given = settings.loss.name, settings.loss.settings
    if name != "own" or dataset.facts.get("projection"):
        return name, given
    if brings(settings.model.settings, "loss", name):
        return name, given
    return ("mse", {}) if dataset.classes is None else ("cross_entropy", {"smoothing": 0.0})


def count_batch(settings: Config, dataset: Dataset) -> int:
    """Return the samples of a batch: as set, as the pair's own batches have, or all."""
    return settings.train.batch or dataset.facts.get("batch") or dataset.rows


def check_samples(settings: Config, dataset: Dataset) -> None:
    """Refuse settings that do not fit the samples, each with what would fit."""
    _check_batch(settings, dataset)
    _check_scores(settings, dataset)
    _check_size(settings, dataset)
    _check_updates(settings, rows=dataset.rows, batch=count_batch(settings, dataset))


def check_dropout(settings: Config, masks: Masks | None) -> None:
    """Refuse dropout in the one loop that would draw its own masks."""
    if settings.train.loop == "fit" and masks is not None:
        raise ConfigError("train.loop", "fit", "Keras would draw other dropout masks; use manual")


def _check_batch(settings: Config, dataset: Dataset) -> None:
    """Refuse a batch that the training set cannot give."""
    size, rows = settings.train.batch, dataset.rows
    if size is None and dataset.source is not None:
        raise ConfigError(
            "train.batch", "null", "a streamed set is not in memory at once; give a number"
        )
    if size is not None and size > rows:
        raise ConfigError("train.batch", size, f"the training set has {rows} samples")


def _check_scores(settings: Config, dataset: Dataset) -> None:
    """Refuse scores during training that these data do not have."""
    train = settings.train
    if train.evaluate_every is not None and "x_val" not in dataset.arrays:
        sizes = (key for key in ("validation", "n_val") if key in settings.data.settings)
        instead = next((f"data.{key} makes one" for key in sizes), "null asks for no score")
        raise ConfigError(
            "train.evaluate_every", train.evaluate_every,
            f"data={dataset.name} has no validation set here; {instead}",
        )  # fmt: skip
    allowed = metrics.REGRESSION if dataset.classes is None else metrics.CLASSES
    if train.monitor is not None and train.monitor not in allowed:
        raise ConfigError(
            "train.monitor", train.monitor,
            f"data={dataset.name} is scored by {', '.join(allowed)}",
        )  # fmt: skip


_BYTES_A_STEP = 64  # rate, loss and norm of a step, each as a number of Python and in an array


def _check_updates(settings: Config, *, rows: int, batch: int) -> None:
    """Refuse updates that an epoch has no batches for, and rates or batches they cannot have."""
    size, accumulate = batch, settings.optimizer.accumulate
    if accumulate > (batches := -(-rows // size)):
        raise ConfigError(
            "optimizer.accumulate", accumulate,
            f"an epoch has {batches} batch{'es' if batches > 1 else ''}, and no update spans two",
        )  # fmt: skip
    updates = settings.train.epochs * -(-rows // (size * accumulate))
    if updates * _BYTES_A_STEP > storage.count_memory():
        raise ConfigError(
            "train.epochs", settings.train.epochs,
            f"the curves of {updates:.3g} updates do not fit into memory",
        )  # fmt: skip
    _check_rates(settings, updates=updates)
    spec = find_pair(settings.model.name).spec
    for key, value in getattr(spec, "NOT_ALONE", {}).items():
        if settings.model.settings[key] == value and (rows % size or size) == 1:
            raise ConfigError(
                "train.batch", settings.train.batch,
                f"leaves a batch of one of {rows} samples, which model.{key}={value} cannot take",
            )  # fmt: skip


def _check_size(settings: Config, dataset: Dataset) -> None:
    """Refuse samples in memory that are infinite in the precision of the run."""
    most = np.finfo(settings.backend.dtype).max
    for name, array in dataset.arrays.items():
        largest = max(array.max(), -array.min())
        if not largest <= most:
            raise ConfigError(
                "backend.dtype", settings.backend.dtype,
                f"cannot hold {largest:g}, which is in {name} of data={dataset.name}",
            )  # fmt: skip


def _check_rates(settings: Config, *, updates: int) -> None:
    """Refuse a schedule whose rate grows out of all bounds; it is largest at either end."""
    part, lr = settings.schedule, settings.optimizer.lr
    try:
        last = getattr(schedules, part.name)(updates, lr=lr, steps=updates, **part.settings)
    except OverflowError:
        last = math.inf
    if not math.isfinite(last):
        raise ConfigError(
            "schedule.name", part.name, f"makes the rate infinite within {updates} updates"
        )
