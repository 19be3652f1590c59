"""What a backend is: six functions and five constants, no defaults.

A backend builds the framework's side of a pair, runs the loop and reads values back as NumPy. It
knows no MLflow, draws nothing and touches no file. A test compares every backend's signatures with
these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from pipeline.models import Twin
from pipeline.record import Trace

Model = Any


class Backend(Protocol):
    """A module with these names."""

    LOOPS: tuple[str, ...]
    """The values of ``train.loop`` it can run."""
    NATIVE: tuple[str, ...]
    """The optimizers it can hand to its framework for the loops ``native`` and ``fit``."""
    XLA: bool
    """Whether ``backend.xla=true`` means something here."""
    ONCE: tuple[str, ...]
    """The words of the group ``backend`` that cannot change once it has run in a process."""
    FLAVOR: str
    """The module of MLflow that logs its models."""

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
        x: np.ndarray,
        y: np.ndarray,
        loop: str,
        loss: str,
        loss_settings: Mapping[str, Any],
        optimizer: str,
        optimizer_settings: Mapping[str, Any],
        execution: str,
        xla: bool,
        trace: Trace,
        report: Callable[[int], None],
        log_every: int,
    ) -> None:
        """Make one update a learning rate of `trace`; call `report` every `log_every` updates."""

    def predict(self, model: Model, x: np.ndarray) -> np.ndarray:
        """Return the model's outputs in evaluation mode."""

    def versions(self) -> dict[str, str]:
        """Return versions and flags that can change the bits of a result."""
