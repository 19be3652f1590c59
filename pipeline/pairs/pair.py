"""What a pair is: a framework-free half, and one side for each backend that has a twin of it."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal, NamedTuple


class Place(NamedTuple):
    """Where a neutral parameter lives in the framework's model; a backend looks it up there.

    Attributes
    ----------
    path
        The attributes that lead from the model to the variable, joined by dots, with the number of
        an item for what stands in a list: ``convs.0.kernel``.
    axes
        The order in which the neutral array's axes stand in the framework's (as in
        ``numpy.transpose``), or None where both have the same layout.
    role
        ``statistic`` is what the forward pass itself updates, such as the running mean of batch
        normalisation.
    """

    path: str
    axes: tuple[int, ...] | None = None
    role: Literal["trained", "statistic"] = "trained"


class Side(NamedTuple):
    """One side of a pair: the subclass, and the places of its parameters by neutral name."""

    model: Callable[..., Any]
    name_map: Callable[[Any], dict[str, Place]]


@dataclasses.dataclass(frozen=True)
class Pair:
    """One model in several frameworks.

    Attributes
    ----------
    name
        As ``model.name`` has it.
    spec
        The framework-free half: `first_values`, and what else holds on every side.
    backends
        The names of the backends that have a twin, sorted.
    """

    name: str
    spec: ModuleType
    backends: tuple[str, ...]

    def load_side(self, backend: str) -> Side:
        """Return one side of the pair; this imports its framework."""
        module = importlib.import_module(f"pipeline.pairs.builtin.{self.name}.{backend}")
        return Side(getattr(module, self.name.capitalize()), module.name_map)
