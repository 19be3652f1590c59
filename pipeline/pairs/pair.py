"""What a pair is: a framework-free half, and one side for each backend that has a twin of it."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Collection, Mapping
from types import ModuleType
from typing import Any, Literal, NamedTuple


class Layout(NamedTuple):
    """How a framework holds a neutral array that is more than transposed.

    ``framework = neutral[..., blocks, ...].transpose(axes).reshape(shape)``.

    Attributes
    ----------
    neutral
        The shape of the neutral array.
    axes
        As in `numpy.transpose`, of the neutral array.
    shape
        The framework's shape.
    blocks
        Along axis 0 of the neutral array, which of its equal parts stands at each place in the
        framework's, as with the gates of a recurrent layer; empty where the order is the same.
    """

    neutral: tuple[int, ...]
    axes: tuple[int, ...]
    shape: tuple[int, ...]
    blocks: tuple[int, ...] = ()


Axes = tuple[int, ...] | Layout | None


class Place(NamedTuple):
    """Where a neutral parameter lives in the framework's model; a backend looks it up there.

    Attributes
    ----------
    path
        The attributes that lead from the model to the variable, joined by dots, with the number of
        an item for what stands in a list: ``convs.0.kernel``.
    axes
        The order in which the neutral array's axes stand in the framework's (as in
        ``numpy.transpose``), a `Layout` where it takes more than that, or None where both have the
        same layout.
    role
        ``statistic`` is what the forward pass itself updates, such as the running mean of batch
        normalisation.
    """

    path: str
    axes: Axes = None
    role: Literal["trained", "statistic"] = "trained"


def ignore_nothing(model: Any) -> tuple[str, ...]:
    """Return the paths of tensors that a twin leaves as they are: none."""
    return ()


class Side(NamedTuple):
    """One side of a pair.

    Attributes
    ----------
    model
        The subclass.
    name_map
        The places of its parameters by neutral name.
    ignored
        The paths of floating tensors that are no parameters, and stay as they were made.
    """

    model: Callable[..., Any]
    name_map: Callable[[Any], Mapping[str, Place]]
    ignored: Callable[[Any], Collection[str]] = ignore_nothing


@dataclasses.dataclass(frozen=True)
class Pair:
    """One model in several frameworks.

    Attributes
    ----------
    name
        As ``model.name`` has it.
    package
        The package that its halves are modules of.
    spec
        The framework-free half: `first_values` (of a pair that is not ours `settings`), and what
        else holds on every side.
    backends
        The names of the backends that have a twin, sorted.
    """

    name: str
    package: str
    spec: ModuleType
    backends: tuple[str, ...]

    @property
    def is_foreign(self) -> bool:
        """Whether its models are not ours."""
        return getattr(self.spec, "IS_FOREIGN", False)

    @property
    def settings(self) -> Callable[..., Any]:
        """The function whose annotated keyword-only parameters are the settings of the pair."""
        function: Callable[..., Any] = getattr(
            self.spec, "settings" if self.is_foreign else "first_values"
        )
        return function

    def load_side(self, backend: str) -> Side:
        """Return one side of the pair; this imports its framework."""
        module = importlib.import_module(f"{self.package}.{backend}")
        ignored = getattr(module, "list_ignored", ignore_nothing)
        return Side(getattr(module, self.name.capitalize()), module.name_map, ignored)
