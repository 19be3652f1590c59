"""Pairs of records made in this process, and ways to make one side of them wrong."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from hydra import compose, initialize_config_dir

from pipeline import backends
from pipeline.config.compose import to_values
from pipeline.jobs.job import show_layers
from pipeline.jobs.resolve import resolve
from pipeline.record.record import RunRecord
from pipeline.record.trace import NonFiniteLossError
from pipeline.stages.evaluate import evaluate
from pipeline.stages.probe import judge_probed, probe_pair
from pipeline.stages.run import describe_pair
from pipeline.stages.train import train

CONF = Path(__file__).parents[2] / "conf"


@functools.cache
def composed(overrides):
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        return to_values(compose("config", list(overrides)), whole=False)


@functools.cache
def job_of(overrides):
    return resolve(composed(overrides))


def recorded(*overrides, twin=None, first=None, rates=None, samples=None, into=None, **stage):
    """Train as the stages do, without a store; return the record.

    `twin`, `first`, `rates` and `samples` change one thing of the run, given what it would be;
    `into` is a record to fill, `stage` what the stage is given besides.
    """
    job = job_of(overrides)
    job = dataclasses.replace(
        job, first=first(job.first) if first else job.first,
        rates=rates(job.rates) if rates else job.rates,
    )  # fmt: skip
    batches = samples(job.batches) if samples else job.batches
    settings, backend = job.settings, backends.load(job.settings.backend.name)
    twin = twin or job.twin()
    device = job.configure(backend)
    start = job.first if settings.model.init != "framework" else None
    build = functools.partial(job.build, backend, values=start, device=device, twin=twin)
    model = build()
    record = into or RunRecord(about={})
    record.about |= {
        "config": job.values, "status": "FINISHED", "scores": {}, "device": device,
        "environment": dict(job.environment), "versions": backend.versions(),
        **describe_pair(job.about_pair),
        "data": {"digest": job.dataset.digest, "name": job.dataset.name, "facts": job.dataset.facts},
        "updates_per_epoch": -(-job.batches.count // job.batches.group),
    }  # fmt: skip
    copy = job.build(backend, values=backend.read(model, twin), device=device, twin=twin)
    record.arrays |= show_layers(job, backend=backend, model=copy)
    options = {"full": True, "evaluate_every": settings.train.evaluate_every,
               "patience": settings.train.patience, "monitor": settings.train.monitor} | stage  # fmt: skip
    try:
        train(
            record, backend=backend, model=model, twin=twin, batches=batches, dataset=job.dataset,
            epochs=settings.train.epochs, rates=job.rates, progress=lambda *told: None,
            log_every=10**9, masks=job.masks, **options, **job.step_arguments(),
        )  # fmt: skip
    except NonFiniteLossError as error:
        record.about |= {"status": "FAILED", "message": str(error)}
        return record
    if settings.train.weights == "best":
        model = job.build(backend, values=record.named("best"), device=device, twin=twin)
    evaluate(record, backend=backend, model=model, dataset=job.dataset)
    return record


def ladder(a, b, *, twins=None, accept=None, precision="fail", **more):
    evidence = probe_pair(a, b, twins=twins, accept=accept, precision=precision, **more)
    return judge_probed(a, b, evidence, accept=accept, precision=precision)


def show(found):
    for rung in found.rungs:
        print(f"{rung.name:11s} {rung.verdict:7s} {rung.kind:9s} {rung.by:9s} {rung.tensor:18s} {rung.step} "
              f"d={rung.distance} b={rung.bound} apart={rung.apart} | {rung.why}")  # fmt: skip
    print(
        found.verdict, found.kind, found.sentence(), found.notes, found.growth and found.growth.text
    )
