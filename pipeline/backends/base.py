"""What a backend is: seven functions and some constants, no defaults.

A backend builds the framework's side of a pair, runs the loop and reads values back as NumPy. It
knows no MLflow, draws nothing and touches no file. A test compares every backend's signatures with
these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pipeline.data.batches import AnyBatches
from pipeline.models import Twin
from pipeline.optimizers import Update
from pipeline.record import Trace

Model = Any
Arrays = dict[str, np.ndarray]
State = tuple[Mapping[str, np.ndarray], Mapping[str, Mapping[str, np.ndarray]]]
"""Neutral parameters, and by the optimizer's slot the array that goes with each trained one."""
Forced = Callable[[int], State]
Slots = Callable[[], dict[str, dict[str, np.ndarray]]]
After = Callable[[int, Slots], bool]
Masks = Callable[[int, Sequence[int]], list[list[np.ndarray]]]
"""Given an update's number and the sizes of its batches, the dropout masks of each batch."""


class Backend(Protocol):
    """A module with these names."""

    LOOPS: tuple[str, ...]
    """The values of ``train.loop`` it can run."""
    DTYPES: tuple[str, ...]
    """The values of ``backend.dtype`` it has."""
    EXECUTIONS: tuple[str, ...]
    """The values of ``backend.execution`` it has."""
    INITS: tuple[str, ...]
    """The values of ``model.init`` it has."""
    XLA: bool
    """Whether ``backend.xla=true`` means something here."""
    ONCE: tuple[str, ...]
    """The words of the group ``backend`` that cannot change once it has run in a process."""
    FLAVOR: str
    """The module of MLflow that logs its models; empty where there is none."""
    INEXACT: dict[str, str]
    """What the framework's own optimizers cannot express, and how they differ.

    Keys are words of a config joined by ``+``: an optimizer, a decay, ``clip_norm``, ``schedule``
    (one that is not constant).
    """

    def configure(
        self, *, threads: int, deterministic: bool, device: str, dtype: str, seed: int
    ) -> str:
        """Set everything global, and return the device that ``auto`` means here.

        Raises `ConfigError` when the device is not there.
        """

    def build(
        self,
        twin: Twin,
        *,
        values: Mapping[str, np.ndarray] | None,
        inputs: tuple[int, ...],
        outputs: int,
        settings: Mapping[str, Any],
        device: str,
        dtype: str,
    ) -> Model:
        """Make the model and load neutral first values; None keeps the framework's own draw."""

    def read(self, model: Model, twin: Twin) -> dict[str, np.ndarray]:
        """Return the parameters by neutral name, in the neutral layout and native precision."""

    def train(
        self,
        model: Model,
        twin: Twin,
        *,
        batches: AnyBatches,
        epochs: int,
        loop: str,
        loss: str,
        loss_settings: Mapping[str, Any],
        update: Update,
        execution: str,
        xla: bool,
        masks: Masks | None,
        trace: Trace,
        after: After,
        forced: Forced | None,
        resume: tuple[int, State] | None,
    ) -> None:
        """Train for some epochs with the rates of `trace`; stop where `after` an epoch is true.

        `after` is given the epoch and what returns the optimizer's slots. With `forced`, update k
        starts from the state that it gives for k. With `resume`, so many epochs are done, and what
        they left is the state.
        """

    def layers(self, model: Model, x: np.ndarray, masks: Sequence[np.ndarray]) -> Arrays:
        """Return what the twin shows of one batch in training mode, and its ``output``.

        Running statistics move, so `model` should be one that is not trained on.
        """

    def predict(self, model: Model, x: np.ndarray) -> np.ndarray:
        """Return the model's outputs in evaluation mode."""

    def versions(self) -> dict[str, str]:
        """Return versions and flags that can change the bits of a result."""
