"""One run of a pair, and what it takes to make any of its steps again."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import backends
from pipeline.backends.base import Arrays, Part, Start, Stepper
from pipeline.config.types import ConfigError
from pipeline.data.batches import Batches, Seen, StreamedBatches
from pipeline.jobs.job import Job
from pipeline.jobs.resolve import resolve_recorded
from pipeline.pairs.pair import Side
from pipeline.record.record import RunRecord
from pipeline.record.trace import NonFiniteLossError, Trace


class ProbedSide:
    """One run, its job, and its backend's own step in any precision.

    Parameters
    ----------
    record
        The run.
    twin
        Another twin than the project's; None for that.
    scratch
        Where steps go that are too many for memory; None holds all of them.
    configured
        By backend, which side it is configured for now, and in which precision; both sides of a
        pair share it. Configuring takes longer than a small step.
    """

    def __init__(
        self,
        record: RunRecord,
        *,
        twin: Side | None,
        scratch: Path | None,
        configured: dict[str, tuple[ProbedSide, str]] | None = None,
    ) -> None:
        self.record, self.scratch = record, scratch
        self.wide = self  # whose float64 stands for this side's; see `pipeline.probe.measure`
        self._configured = {} if configured is None else configured
        self.job: Job = resolve_recorded(record.config, record.about.get("environment", {}))
        if self.job.dataset.digest != record.about["data"]["digest"]:
            run = record.about.get("run", "?")
            raise ConfigError("compare.runs", run, "its data can no longer be made")
        self.backend = backends.load(self.job.settings.backend.name)
        self.twin = twin or self.job.twin()
        self.dtype: str = self.job.settings.backend.dtype
        self.device = ""
        self.configure(self.dtype)
        self.rates = self._all_rates()
        self._parts = _Cuts(self)
        self._models: dict[str, Any] = {}

    def _in(self, dtype: str) -> ProbedSide:
        """Return the side that makes this one's steps in a precision."""
        return self.wide if dtype == "float64" else self

    def _all_rates(self) -> np.ndarray:
        """Return the recorded rates, not what the config makes of it now."""
        recorded = self.record.arrays["lr"]
        return np.concatenate([recorded, self.job.rates[len(recorded) :]])

    @cached_property
    def first(self) -> dict[str, np.ndarray]:
        """The recorded start."""
        return {name: np.asarray(values) for name, values in self.record.named("first").items()}

    def configure(self, dtype: str) -> str:
        """Set the framework's global state for a precision, if it is another; return the device."""
        if self._in(dtype) is not self:
            return self.wide.configure(dtype)
        name = self.job.settings.backend.name
        if self._configured.get(name) != (self, dtype):
            self.device = self.job.configure(self.backend, dtype=dtype)
            self._configured[name] = (self, dtype)
        return self.device

    def build(self, dtype: str, values: Mapping[str, np.ndarray] | None = None) -> Any:
        """Configure for a precision and make the model with some weights, or the recorded start."""
        self._configured.clear()  # what is made may draw: from the run's own seed, each time
        device = self.configure(dtype)
        return self.job.build(
            self.backend, values=values or self.first, device=device, dtype=dtype, twin=self.twin
        )

    def filled(self, dtype: str, values: Mapping[str, np.ndarray]) -> Any:
        """Configure for a precision and return one model a precision, with some weights."""
        if self._in(dtype) is not self:
            return self.wide.filled(dtype, values)
        if dtype not in self._models:
            self._models[dtype] = self.build(dtype)
        self.configure(dtype)
        self.backend.write(self._models[dtype], self.twin, values)
        return self._models[dtype]

    @property
    def is_compiled(self) -> bool:
        """Whether a step is made by one graph, which is compiled once for both sides' states."""
        return self.job.settings.backend.execution == "compiled"

    def stepper(self, dtype: str, *, eager: bool = False) -> Stepper:
        """Return the run's own update in a precision, as a function of what it starts from."""
        if self._in(dtype) is not self:
            return self.wide.stepper(dtype, eager=eager)
        arguments = self.job.step_arguments()
        if eager and arguments["loop"] != "fit":
            arguments |= {"execution": "eager", "xla": False}
        model = self.build(dtype)
        return self.backend.stepper(model, self.twin, rates=self.rates, **arguments)

    def start(self, k: int, *, state: ProbedSide | None = None) -> Start:
        """Return what this side's update k starts from, with the recorded state of a side.

        The state, and the gradient that the update is given, are those of `state` (None: its own);
        the batches and their shares are this side's, as its backend cuts them.
        """
        owner = self if state is None else state
        record = owner.record
        slots: dict[str, dict[str, np.ndarray]] = {}
        for slot in self.job.update.slots:
            rows = record.named(f"slot/{slot}")
            if rows:
                slots[slot] = {
                    name: values[k - 2] if k > 1 else np.zeros_like(values[0])
                    for name, values in rows.items()
                }
        parts = self.parts(k)
        return Start(
            k=k,
            values={name: rows[k - 1] for name, rows in record.named("param").items()},
            slots=slots,
            gradients={name: rows[k - 1] for name, rows in record.named("grad").items()} or None,
            parts=parts,
            masks=self.masks(k, [len(x) for x, *_ in parts]),
        )

    def parts(self, k: int) -> list[Part]:
        """Return the batches of update k as the loop cuts them, in the run's precision."""
        return self._parts.at(k)

    def masks(self, k: int, sizes: Sequence[int]) -> list[list[np.ndarray]] | None:
        """Return the dropout masks of update k in the run's precision; None if it has none."""
        if self.job.masks is None:
            return None
        return [[mask.astype(self.dtype) for mask in drawn] for drawn in self.job.masks(k, sizes)]

    def layers(self, dtype: str, values: Mapping[str, np.ndarray]) -> Arrays:
        """Return the activations of the first batch in training mode with some weights."""
        parts = self.parts(1)
        masks = self.masks(1, [len(parts[0][0])])
        model = self.filled(dtype, values)
        x, drawn = parts[0][0], masks[0] if masks else []
        if dtype == "float64":  # exact, and no operation of the model
            x, drawn = x.astype(dtype), [mask.astype(dtype) for mask in drawn]
        shown = self._in(dtype).backend.layers(model, x, drawn)
        return {name: np.asarray(array) for name, array in shown.items()}

    def predict(self, dtype: str, values: Mapping[str, np.ndarray], *, split: str) -> np.ndarray:
        """Return the outputs in evaluation mode on a split, with some weights."""
        x = self.job.dataset.arrays[f"x_{split}"].astype(self.dtype)
        x = x.astype(dtype) if dtype == "float64" else x
        model = self.filled(dtype, values)
        outputs: np.ndarray = self._in(dtype).backend.predict(model, x)
        return outputs

    def scored(self) -> Mapping[str, np.ndarray]:
        """Return the weights that the run was scored with."""
        return self.record.named(self.job.settings.train.weights)

    def train(
        self,
        *,
        values: Mapping[str, np.ndarray] | None = None,
        dtype: str | None = None,
        steps: int | None = None,
    ) -> RunRecord:
        """Train freely, as the run did but for what is given; return what it kept."""
        dtype = dtype or self.dtype
        if self._in(dtype) is not self:
            return self.wide.train(values=values, dtype=dtype, steps=steps)
        model = self.build(dtype, values)
        first = self.backend.read(model, self.twin)
        wanted = steps or self.record.steps
        samples: Any = self.job.batches
        if dtype != self.dtype:
            samples = Cast(samples, dtype)
        updates = -(-samples.count // samples.group)
        with self.room() as folder:
            trace = Trace(rates=self.rates, full=True, folder=folder)
            with contextlib.suppress(NonFiniteLossError):
                self.backend.train(
                    model, self.twin, batches=samples, epochs=-(-wanted // updates), trace=trace,
                    seen=Seen(fixed=samples.fixed), masks=self.job.masks, resume=None,
                    after=lambda epoch, slots: trace.updates >= wanted,
                    **self.job.step_arguments(),
                )  # fmt: skip
            arrays = trace.collect(first)
        arrays |= {f"last/{k}": v for k, v in self.backend.read(model, self.twin).items()}
        return RunRecord(about=self.record.about, arrays=arrays)

    @contextlib.contextmanager
    def room(self) -> Iterator[Path | None]:
        """Give a folder for rows; those that are mapped stay readable when it is gone."""
        if self.scratch is None:
            yield None
            return
        self.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".rows-", dir=self.scratch) as folder:
            yield Path(folder)

    def of_numpy(self, dtype: str) -> ProbedSide:
        """Return the NumPy side of the run's model, on the very numbers that the run saw."""
        instead = {"name": "numpy", "dtype": dtype, "execution": "eager", "xla": False}
        config = self.record.config
        config = {**config, "backend": {**config["backend"], **instead}}
        about = {**self.record.about, "config": config}
        record = RunRecord(about=about, arrays=self.record.arrays)
        side = ProbedSide(record, twin=None, scratch=self.scratch, configured=self._configured)
        side.job = dataclasses.replace(side.job, batches=Cast(self.job.batches, dtype))  # type: ignore[arg-type]
        return side


class _Cuts:
    """The batches of a run's updates as its backend cuts them, fastest when asked for in order."""

    def __init__(self, side: ProbedSide) -> None:
        """Begin before the first update of the job of `side`."""
        self._side = side
        self._always: list[list[Part]] | None = None
        self._epoch, self._before, self._length = 0, 0, 0
        self._held: list[Part] = []
        self._next = 0  # the update that comes next; `_held` is of the one before
        self._rest: Iterator[list[Part]] = iter(())

    def _cut(self, epoch: int) -> Iterator[list[Part]]:
        """Yield the batches of each update of an epoch, as the backend of the side cuts them."""
        side, settings = self._side, self._side.job.settings
        device = side.device
        return side.backend.cut(
            side.job.batches, epoch, group=settings.optimizer.accumulate, device=device,
            dtype=side.dtype,
        )  # fmt: skip

    def at(self, k: int) -> list[Part]:
        """Return the batches of update `k`, counted from 1 over all epochs."""
        if self._side.job.batches.fixed:
            if self._always is None:
                self._always = list(self._cut(1))
            return self._always[(k - 1) % len(self._always)]
        if k == self._next - 1:
            return self._held
        if k < self._next or self._epoch == 0:
            epoch = 1 if not self._length else (k - 1) // self._length + 1
            self._begin(epoch, (epoch - 1) * self._length)
        while self._next <= k:
            parts = next(self._rest, None)
            if parts is None:
                self._length = self._next - 1 - self._before
                self._begin(self._epoch + 1, self._next - 1)
            else:
                self._held, self._next = parts, self._next + 1
        return self._held

    def _begin(self, epoch: int, before: int) -> None:
        """Begin an epoch that has `before` updates before it."""
        self._epoch, self._before, self._next = epoch, before, before + 1
        self._rest = self._cut(epoch)


class Cast:
    """Batches in another precision, of the very numbers that the run saw."""

    def __init__(self, batches: Batches | StreamedBatches, dtype: str) -> None:
        """Wrap batches to be read in `dtype`."""
        self.size, self.group, self.fixed = batches.size, batches.group, batches.fixed
        self.count, self._batches, self._dtype = batches.count, batches, dtype

    def blocks(self, epoch: int) -> Any:
        """Yield what the wrapped batches yield, in the other precision."""
        for x, y in self._batches.blocks(epoch):
            yield x.astype(self._dtype), y.astype(self._dtype)
