"""From a config to a job: the one place that makes what a config asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from pipeline import backends, data, losses, schedules, seeds
from pipeline.align.prepare import prepare
from pipeline.backends.base import Masks
from pipeline.config.schema import Config, complete_recorded
from pipeline.config.types import ConfigError
from pipeline.data import Dataset, batches
from pipeline.data.batches import Batches, StreamedBatches
from pipeline.identity import identify
from pipeline.jobs.check import (
    check_config,
    check_dropout,
    check_samples,
    choose_loss,
    count_outputs,
)
from pipeline.jobs.job import Job
from pipeline.optimizers import Update
from pipeline.pairs.own.source import allow, check_allowed, digest_code
from pipeline.pairs.own.spec import ADAM
from pipeline.pairs.registry import FOREIGN, find_pair


def resolve(
    values: Mapping[str, Any], *, dataset: Dataset | None = None, recorded: str | None = None
) -> Job:
    """Check a composed config whole and return its job; loads no framework, creates nothing.

    Parameters
    ----------
    values
        The composed config, as plain containers.
    dataset
        Its samples, where they are made already; None makes them.
    recorded
        Of a config that a record holds, the digest of the code of its pair, which is run only if
        this process was told to; empty of a pair that is ours. None: the config is a command's.

    Raises
    ------
    ConfigError
        For the first thing that is wrong or does not fit together.
    """
    settings = check_config(values)
    pair = find_pair(settings.model.name)
    if pair.is_foreign and recorded is None:
        allow(settings.model.settings)
    elif pair.is_foreign:
        check_allowed(settings.model.settings, str(recorded))
    is_own = pair.is_foreign and settings.data.name == FOREIGN
    if dataset is None and not is_own:
        dataset = make_dataset(settings)
    prepared = prepare(settings, None if is_own else dataset) if pair.is_foreign else None
    dataset = dataset if prepared is None else prepared.dataset
    assert dataset is not None  # of one of the two
    check_samples(settings, dataset)
    outputs = count_outputs(settings, dataset)
    loss = choose_loss(settings, dataset)
    first = (
        draw_first_values(settings, inputs=dataset.inputs, outputs=outputs)
        if prepared is None else prepared.first
    )  # fmt: skip
    given = {} if prepared is None else {"prepared": prepared.prepared}
    masks = make_masks(settings, inputs=dataset.inputs, outputs=outputs, given=given)
    check_dropout(settings, masks)
    samples = make_batches(settings, dataset)
    environment = backends.environment(settings.backend.name, device=settings.backend.device)
    if prepared is not None:
        environment["pair"] = digest_code(settings.model.settings)
    optimizer = settings.optimizer
    return Job(
        values=values,
        settings=settings,
        dataset=dataset,
        outputs=outputs,
        first=first,
        batches=samples,
        rates=make_rates(
            settings.schedule.name,
            lr=optimizer.lr,
            steps=settings.train.epochs * -(-samples.count // samples.group),
            settings=settings.schedule.settings,
        ),
        masks=masks,
        update=Update(
            name="adam" if optimizer.name == FOREIGN else optimizer.name,
            settings=ADAM if optimizer.name == FOREIGN else optimizer.settings,
            decay=optimizer.decay,
            weight_decay=optimizer.weight_decay,
            clip_norm=optimizer.clip_norm,
            accumulate=optimizer.accumulate,
            **({} if prepared is None else describe_brought(settings, prepared.about)),
        ),
        identity=identify(values, data_digest=dataset.digest, environment=environment),
        environment=environment,
        loss=loss,
        given=given,
        about_pair={} if prepared is None else prepared.about,
    )


def describe_brought(settings: Config, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an `Update` is given where the pair brings its optimizers."""
    brought = about["optimizers"].get(settings.backend.name)
    if brought is None or settings.optimizer.name != FOREIGN:
        return {}
    return {"brought": tuple(brought["slots"]), "counts_steps": brought["counts_steps"]}


def allow_code(settings: Config) -> None:
    """Let this process run the code of the pair that a command's config names."""
    if find_pair(settings.model.name).is_foreign:
        find_pair(settings.model.name).spec.check(settings.model.settings)
        allow(settings.model.settings)


def draw_first_values(
    settings: Config, *, inputs: tuple[int, ...], outputs: int
) -> Mapping[str, np.ndarray]:
    """Draw the shared first weights of a config, by neutral name, in float64."""
    try:
        values: Mapping[str, np.ndarray] = find_pair(settings.model.name).spec.first_values(
            seeds.stream(settings.seed, "init"),
            inputs=inputs,
            outputs=outputs,
            **settings.model.settings,
        )
    except (MemoryError, ValueError) as error:
        if isinstance(error, ValueError) and "too big" not in str(error):
            raise
        sizes = ", ".join(f"{key}={value}" for key, value in settings.model.settings.items())
        raise ConfigError(
            "model.name", settings.model.name, f"weights do not fit into memory with {sizes}"
        ) from None
    return values


def make_dataset(settings: Config) -> Dataset:
    """Make the data set of a config in memory."""
    stream = partial(seeds.stream, settings.seed)
    return data.make(settings.data.name, settings=settings.data.settings, stream=stream)


def make_batches(settings: Config, dataset: Dataset) -> Batches | StreamedBatches:
    """Return the training samples in the order and precision of a run."""
    return batches.of(
        dataset,
        size=settings.train.batch or dataset.facts.get("batch"),
        shuffle=settings.train.shuffle,
        stream=partial(seeds.stream, settings.seed),
        dtype=settings.backend.dtype,
        encode=make_encoder(choose_loss(settings, dataset)[0], classes=dataset.classes),
        group=settings.optimizer.accumulate,
    )


def make_encoder(loss: str, *, classes: int | None) -> Callable[[np.ndarray], np.ndarray]:
    """Return what turns targets into those the loss wants: a column a class, or what is there."""
    if getattr(losses, loss).targets != "classes":
        return lambda y: y
    columns = np.eye(classes or 0)
    return lambda y: columns[y[:, 0]]


def make_rates(name: str, *, lr: float, steps: int, settings: Mapping[str, Any]) -> np.ndarray:
    """Return the learning rates of updates 1 to `steps`, shape ``(steps,)``, float64."""
    rate = getattr(schedules, name)
    return np.array([rate(step, lr=lr, steps=steps, **settings) for step in range(1, steps + 1)])


def make_masks(
    settings: Config, *, inputs: tuple[int, ...], outputs: int, given: Mapping[str, Any]
) -> Masks | None:
    """Return what draws an update's dropout masks from the seed; None if the model drops nothing.

    Update k has a stream of its own, so that no other update's draws matter to it.
    """
    draw = getattr(find_pair(settings.model.name).spec, "masks", None)
    if draw is None:
        return None
    sizes_of = {"inputs": inputs, "outputs": outputs}
    draw = partial(draw, **{**settings.model.settings, **given, **sizes_of})
    if not draw(np.random.default_rng(0), batch=1):
        return None

    def masks(k: int, sizes: Sequence[int]) -> list[list[np.ndarray]]:
        rng = seeds.stream(settings.seed, f"dropout.{k}")
        return [draw(rng, batch=size) for size in sizes]

    return masks


def resolve_recorded(values: Mapping[str, Any], environment: Mapping[str, str]) -> Job:
    """Return the job of a recorded config, also of one that the version before wrote.

    Parameters
    ----------
    values
        The config.
    environment
        What else the record says of its job.
    """
    return resolve(complete_recorded(values), recorded=environment.get("pair", ""))
