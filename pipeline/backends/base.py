"""What a backend is: some functions and constants, no defaults.

A backend builds the framework's side of a pair, runs the loop and reads values back as NumPy. It
knows no MLflow, draws nothing and touches no file. A test compares every backend's signatures with
these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from pipeline.data.batches import AnyBatches, Seen
from pipeline.optimizers import Update
from pipeline.pairs.pair import Side
from pipeline.record.trace import Trace

Model = Any
Arrays = dict[str, np.ndarray]
State = tuple[Mapping[str, np.ndarray], Mapping[str, Mapping[str, np.ndarray]]]
"""Neutral parameters, and by the optimizer's slot the array that goes with each trained one."""
Slots = Callable[[], dict[str, dict[str, np.ndarray]]]
After = Callable[[int, Slots], bool]
Masks = Callable[[int, Sequence[int]], list[list[np.ndarray]]]
"""Given an update's number and the sizes of its batches, the dropout masks of each batch."""
Part = tuple[np.ndarray, np.ndarray, float]
"""One batch of an update: samples, targets, and its share of the update."""


class Start(NamedTuple):
    """What one update starts from; everything it depends on.

    With `gradients` the rule is given those instead of the ones that the step computes (and
    returns all the same), so that a difference of gradients does not show in the update as well.
    """

    k: int
    values: Mapping[str, np.ndarray]
    slots: Mapping[str, Mapping[str, np.ndarray]]
    gradients: Mapping[str, np.ndarray] | None
    parts: Sequence[Part]
    masks: Sequence[Sequence[np.ndarray]] | None


Stepper = Callable[[Start], Arrays]
"""Makes one update from a `Start`; returns it as rows of a record: ``loss``, ``grad/<name>``,
``slot/<slot>/<name>``, ``param/<name>``, ``scalar/<name>``."""


class Program(NamedTuple):
    """One update as a function of a loop, and what belongs to it.

    Attributes
    ----------
    step
        ``(parts, scalars, slots, given)`` to the loss, the gradients, the new slots (and new
        parameters, where they are new tensors); `given` are gradients to use, or None.
    numbers
        The scalars of update k at a rate.
    load
        Puts given slots into an optimizer that keeps its own, before update k.
    used
        The scalars that the update really had, given those that it was to have.
    lacking
        Numbers of the trained parameters that were seen to have no gradient; theirs counts as 0.
    """

    step: Callable
    numbers: Callable[[int, float], Mapping[str, float]]
    load: Callable[[Sequence[tuple], int], object]
    used: Callable[[Mapping[str, float]], Mapping[str, Any]]
    lacking: set[int]


class Tensor(NamedTuple):
    """A floating tensor of any model, as its framework has it.

    Attributes
    ----------
    path
        As in `pipeline.pairs.pair.Place`.
    name
        What the user's own model calls it.
    shape
        In the framework's layout.
    trained
        Whether the framework trains it.
    is_buffer
        Whether it is no parameter that is or could be trained.
    layer
        The path of the layer that holds it.
    owner
        The framework's class that the layer is or comes from; else the layer's own class.
    attribute
        What it is called in that layer.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    trained: bool
    is_buffer: bool
    layer: str
    owner: str
    attribute: str


class Settings(NamedTuple):
    """What can be read of a layer's settings without running it.

    Attributes
    ----------
    owner
        As in `Tensor`.
    values
        By neutral name: ``epsilon``, ``decay`` (what running statistics keep), ``rate`` (of
        dropout), ``stride``, ``dilation``, ``groups``, ``bias``, ``padding`` (before and after each
        axis, or a word where it depends on the input).
    """

    owner: str
    values: Mapping[str, Any]


class Observed(NamedTuple):
    """What the operations of a call were seen to do.

    Attributes
    ----------
    types
        The floating types of their inputs and outputs, by name.
    draws
        The operations that drew from a random generator.
    """

    types: frozenset[str]
    draws: frozenset[str]


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
    PACKAGES: tuple[str, ...]
    """The distributions whose versions can change the bits of its results."""
    FLAGS: tuple[str, ...]
    """The environment variables that can; not those that `configure` itself sets."""
    FLAVOR: str
    """The module of MLflow that logs its models; empty where there is none."""
    NATIVE: tuple[str, ...]
    """The optimizers that the framework has, too."""
    INEXACT: dict[str, str]
    """What the framework's own optimizers cannot express, and how they differ.

    Keys are words of a config joined by ``+``: an optimizer, a decay, ``clip_norm``, ``schedule``
    (one that is not constant).
    """

    COARSE: dict[str, str]
    """Formulas of the framework that are known to be coarse in their loss, and why; keys as above.

    What a probe measures of them is a note, not a FAIL.
    """

    def configure(
        self, *, threads: int, deterministic: bool, device: str, dtype: str, seed: int
    ) -> str:
        """Set everything global, and return the device that ``auto`` means here.

        Raises `ConfigError` when the device is not there.
        """

    def build(
        self,
        twin: Side,
        *,
        values: Mapping[str, np.ndarray] | None,
        inputs: tuple[int, ...],
        outputs: int,
        settings: Mapping[str, Any],
        device: str,
        dtype: str,
    ) -> Model:
        """Make the model and load neutral first values; None keeps the framework's own draw."""

    def read(self, model: Model, twin: Side) -> dict[str, np.ndarray]:
        """Return the parameters by neutral name, in the neutral layout and native precision."""

    def write(self, model: Model, twin: Side, values: Mapping[str, np.ndarray]) -> None:
        """Put neutral values into the parameters, in the model's own precision."""

    def train(
        self,
        model: Model,
        twin: Side,
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
        seen: Seen,
        after: After,
        resume: tuple[int, State] | None,
    ) -> None:
        """Train for some epochs with the rates of `trace`; stop where `after` an epoch is true.

        `after` is given the epoch and what returns the optimizer's slots. `seen` notes the batches
        as they were cut. With `resume`, so many epochs are done, and what they left is the state.
        """

    def stepper(
        self,
        model: Model,
        twin: Side,
        *,
        loop: str,
        loss: str,
        loss_settings: Mapping[str, Any],
        update: Update,
        execution: str,
        xla: bool,
        rates: np.ndarray,
    ) -> Stepper:
        """Return the loop's own update as a function of everything that it starts from."""

    def cut(
        self, batches: AnyBatches, epoch: int, *, group: int, device: str, dtype: str
    ) -> Iterator[list[Part]]:
        """Yield the batches of each update of an epoch, as the loop cuts them."""

    def scale(self, x: Any, factors_of: Callable[[np.ndarray], np.ndarray]) -> Any:
        """Return an intermediate result times factors that follow from its values."""

    def observe(self, call: Callable[[], object]) -> Observed:
        """Return what the operations of a call, run eagerly, were seen to do."""

    def layers(self, model: Model, x: np.ndarray, masks: Sequence[np.ndarray]) -> Arrays:
        """Return what the twin shows of one batch in training mode, and its ``output``.

        Running statistics move, so `model` should be one that is not trained on.
        """

    def predict(self, model: Model, x: np.ndarray) -> np.ndarray:
        """Return the model's outputs in evaluation mode."""

    def versions(self) -> dict[str, str]:
        """Return versions and flags that can change the bits of a result."""
