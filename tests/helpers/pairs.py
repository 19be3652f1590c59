"""Pairs of records made in this process, and ways to make one side of them wrong."""

from __future__ import annotations

import functools
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pipeline import backends, models
from pipeline.parity.ladder import Evidence, judge
from pipeline.record import RunRecord
from pipeline.stages.check import check, outputs_of, samples_and_start
from pipeline.stages.evaluate import evaluate
from pipeline.stages.probe import probe
from pipeline.stages.run import how, layers_of, rates_of, samples_of
from pipeline.stages.train import train

CONF = Path(__file__).parents[2] / "conf"


@functools.cache
def composed(overrides):
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("config", list(overrides)), resolve=True)


def recorded(*overrides, twin=None, first=None, rates=None, samples=None, into=None, **stage):
    """Train as the stages do, without a store; return the record.

    `twin`, `first`, `rates` and `samples` change one thing of the run, given what it would be;
    `into` is a record to fill, `stage` what the stage is given besides.
    """
    values = composed(overrides)
    settings = check(values)
    dataset, start = samples_and_start(settings)
    start = first(start) if first else start
    backend = backends.load(settings.backend.name)
    device = backend.configure(
        threads=1, deterministic=True, device="cpu", dtype=settings.backend.dtype, seed=0
    )
    twin = twin or models.twin(settings.model.name, settings.backend.name)

    def build():
        return backend.build(
            twin, values=start, inputs=dataset.inputs, outputs=outputs_of(settings, dataset),
            settings=settings.model.settings, device=device, dtype=settings.backend.dtype,
        )  # fmt: skip

    batches = samples_of(settings, dataset)
    record = into or RunRecord(about={})
    record.about |= {
        "config": values, "status": "FINISHED", "scores": {},
        "data": {"digest": dataset.digest, "name": dataset.name, "facts": dataset.facts},
        "updates_per_epoch": -(-batches.count // batches.group),
    }  # fmt: skip
    record.arrays |= layers_of(settings, dataset, backend=backend, model=build())
    lr = rates_of(settings, batches)
    train(
        record, backend=backend, model=(model := build()), twin=twin,
        batches=samples(batches) if samples else batches, dataset=dataset,
        epochs=settings.train.epochs, rates=rates(lr) if rates else lr,
        progress=lambda step, loss: None, log_every=10**9,
        **{"full": True, "evaluate_every": None, "patience": None, "monitor": None} | stage,
        **how(settings, dataset),
    )  # fmt: skip
    evaluate(record, backend=backend, model=model, dataset=dataset)
    return record


def ladder(a, b, *, twins=None, **more):
    return judge(a, b, evidence=Evidence(probe(a, b, twins=twins, **more)))


def show(found):
    for rung in found.rungs:
        print(f"{rung.name:11s} {rung.verdict:7s} {rung.by:9s} {rung.tensor:18s} {rung.step} "
              f"d={rung.distance} b={rung.bound} | {rung.why}")  # fmt: skip
    print(found.verdict, found.sentence(), found.notes, found.growth and found.growth.text)
