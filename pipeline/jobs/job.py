"""One job, resolved: everything a training needs to know, and nothing of a framework in memory."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline import backends, seeds
from pipeline.backends.base import Backend, Masks, Model
from pipeline.config.schema import Config
from pipeline.data import Dataset
from pipeline.data.batches import Batches, StreamedBatches
from pipeline.identity import Identity
from pipeline.optimizers import Update
from pipeline.pairs.pair import Side
from pipeline.pairs.registry import find_pair


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What one config asks for; made by `pipeline.jobs.resolve.resolve`, and by nothing else.

    Attributes
    ----------
    values, settings
        The composed config as plain containers, and the same typed.
    dataset
        The samples, in float64.
    outputs
        How many outputs the model has.
    first
        The shared first weights by neutral name, in float64 as they were drawn.
    batches
        The training samples in their order, in the precision of the run.
    rates
        The learning rate of each update, shape ``(updates,)``, float64.
    masks
        Draws the dropout masks of an update; None if the model drops nothing.
    update
        The optimizer, whole.
    identity
        What makes another job the same one.
    environment
        What of the machine can change the bits of a result, by name; see `backends.environment`.
        Of a pair that is not ours, the digest of its code too.
    loss
        The loss and its settings; that of the config but for ``own``.
    given, about_pair
        Of a pair that is not ours, what its classes take beside their settings, and what was seen
        of both models; empty otherwise.
    """

    values: Mapping[str, Any]
    settings: Config
    dataset: Dataset
    outputs: int
    first: Mapping[str, np.ndarray]
    batches: Batches | StreamedBatches
    rates: np.ndarray
    masks: Masks | None
    update: Update
    identity: Identity
    environment: Mapping[str, str]
    loss: tuple[str, Mapping[str, Any]]
    given: Mapping[str, Any]
    about_pair: Mapping[str, Any]

    def twin(self) -> Side:
        """Load this job's side of the pair; this imports its framework."""
        backends.load(self.settings.backend.name)  # quiets its framework, so before the twin
        return find_pair(self.settings.model.name).load_side(self.settings.backend.name)

    def configure(self, backend: Backend, *, dtype: str | None = None) -> str:
        """Set everything global in a framework, and return the device; `dtype` None: the run's."""
        settings = self.settings.backend
        return backend.configure(
            threads=settings.threads,
            deterministic=settings.deterministic,
            device=settings.device,
            dtype=dtype or settings.dtype,
            seed=seeds.integer(self.settings.seed, f"framework.{settings.name}"),
        )

    def build(
        self,
        backend: Backend,
        *,
        values: Mapping[str, np.ndarray] | None,
        device: str,
        dtype: str | None = None,
        twin: Side | None = None,
    ) -> Model:
        """Make the model with some weights; None keeps the framework's own draw.

        `dtype` None is the run's precision, `twin` None the job's own.
        """
        return backend.build(
            twin or self.twin(),
            values=values,
            inputs=self.dataset.inputs,
            outputs=self.outputs,
            settings={k: v for k, v in self.settings.model.settings.items() if k != "inputs"}
            | dict(self.given),
            device=device,
            dtype=dtype or self.settings.backend.dtype,
        )

    def step_arguments(self) -> dict[str, Any]:
        """Return what a backend's loop takes besides model, samples, rates and masks."""
        return {
            "loop": self.settings.train.loop if self.update.brought is None else "own",
            "loss": self.loss[0],
            "loss_settings": self.loss[1],
            "update": self.update,
            "execution": self.settings.backend.execution,
            "xla": self.settings.backend.xla,
        }


def list_inexact(job: Job) -> list[str]:
    """Return what the framework's own optimizer cannot express of this job."""
    settings = job.settings
    if settings.train.loop == "manual":
        return []
    optimizer = settings.optimizer
    words = {optimizer.name, optimizer.decay}
    words |= {"schedule"} if settings.schedule.name != "constant" else set()
    words |= {"clip_norm"} if optimizer.clip_norm is not None else set()
    known = backends.traits(settings.backend.name)["INEXACT"]
    return [reason for key, reason in known.items() if words >= set(key.split("+"))]


def choose_trace(job: Job) -> tuple[bool, dict[str, Any]]:
    """Return whether every step is kept whole, and what the record says of it."""
    wanted, most = job.settings.record.trace, job.settings.record.max_bytes
    itemsize = np.dtype(job.settings.backend.dtype).itemsize
    size = sum(value.size for value in job.first.values()) * itemsize
    needed = (2 + len(job.update.slots)) * len(job.rates) * size
    full = wanted == "full" or (wanted == "auto" and needed <= most)
    why = f"{needed} bytes for parameters, gradients and slots, record.max_bytes={most}"
    return full, {"kept": "full" if full else "scalars", "why": why if wanted == "auto" else wanted}


def solve_least_squares(job: Job) -> dict[str, Any] | None:
    """Return the least-squares solution where the model has one and the data are in memory."""
    solve = getattr(find_pair(job.settings.model.name).spec, "least_squares", None)
    dataset = job.dataset
    if solve is None or dataset.classes is not None or "x_train" not in dataset.arrays:
        return None
    x, y = dataset.arrays["x_train"], dataset.arrays["y_train"]
    try:
        solution = solve(x, y, **job.settings.model.settings)
    except np.linalg.LinAlgError:  # powers of a feature that overflow
        return None
    plain: dict[str, Any]
    plain = json.loads(json.dumps({k: np.asarray(v).tolist() for k, v in solution.items()}))
    return plain


def show_layers(job: Job, *, backend: Backend, model: Model, k: int = 1) -> dict[str, np.ndarray]:
    """Return what a model shows of the first batch of update k, as ``layer/<name>``.

    Its statistics move, so `model` is one that is not trained on.
    """
    samples = job.batches
    updates = -(-samples.count // samples.group)
    offset = (k - 1) % updates * samples.group * samples.size  # rows before it in its epoch
    for x, _ in samples.blocks((k - 1) // updates + 1):
        if offset < len(x):
            x = x[offset : offset + samples.size]
            break
        offset -= len(x)
    masks = job.masks(k, [len(x)])[0] if job.masks else []
    return {f"layer/{name}": value for name, value in backend.layers(model, x, masks).items()}
