"""Model pairs: one folder each, with a framework-free ``spec.py`` and its twins.

A twin is a module with the subclass, named after the folder (``linear`` holds ``Linear``), and
`name_map`, which says where in the framework's model each neutral parameter lives.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from pipeline.config.signatures import choose_option


class Placed(NamedTuple):
    """Where a neutral parameter lives: the framework's variable and the axes of its transpose.

    `axes` is the order in which the neutral array's axes stand in the framework's (as in
    ``numpy.transpose``), or None where both have the same layout. `trained` is False for what the
    forward pass itself updates (the running statistics of batch normalisation).
    """

    variable: Any
    axes: tuple[int, ...] | None = None
    trained: bool = True


class Twin(NamedTuple):
    """One side of a pair: the subclass and its name map."""

    model: Callable[..., Any]
    name_map: Callable[[Any], dict[str, Placed]]


def names() -> list[str]:
    """Return the names of all pairs: the folders here."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


def spec(name: str) -> ModuleType:
    """Return the framework-free half of a pair."""
    choose_option("model.name", name, dict.fromkeys(names()))
    return importlib.import_module(f"{__name__}.{name}.spec")


def backends_of(name: str) -> list[str]:
    """Return the backends that have a twin of this model, without importing any."""
    package = importlib.import_module(f"{__name__}.{name}")
    found = {module.name for module in pkgutil.iter_modules(package.__path__)}
    return sorted(found - {"spec"})


def twin(name: str, backend: str) -> Twin:
    """Load one side of a pair; this imports its framework."""
    module = importlib.import_module(f"{__name__}.{name}.{backend}")
    return Twin(getattr(module, name.capitalize()), module.name_map)


def to_framework(
    placed: Mapping[str, Placed],
    values: Mapping[str, np.ndarray],
    shapes: Iterable[tuple[int, ...]],
) -> list[np.ndarray]:
    """Arrange neutral values as the framework holds them, in the order of `placed`.

    Raises
    ------
    ValueError
        If a name is missing or unknown, or a shape does not fit after its listed transpose.
    """
    if set(placed) != set(values):
        raise ValueError(f"the twin maps {sorted(placed)}, the spec has {sorted(values)}")
    arranged = []
    for (name, place), shape in zip(placed.items(), shapes, strict=True):
        value = values[name] if place.axes is None else values[name].transpose(place.axes)
        if value.shape != tuple(shape):
            raise ValueError(f"{name} has shape {value.shape}, the framework wants {tuple(shape)}")
        arranged.append(np.array(value, order="C"))
    return arranged


def to_neutral(place: Placed, value: np.ndarray, *, leading: int = 0) -> np.ndarray:
    """Undo the listed transpose of one array, or of a stack with `leading` axes in front."""
    if place.axes is None:
        return value
    inverse = np.argsort(place.axes) + leading
    return value.transpose((*range(leading), *inverse))


def check_mapped_once(placed: Iterable[Placed], variables: Iterable[Any]) -> None:
    """Assert that the places are those of the variables, each exactly once."""
    mapped = [id(place.variable) for place in placed]
    if sorted(mapped) != sorted(id(variable) for variable in variables):
        raise ValueError("the twin's name map must name every parameter exactly once")


def check_trained(placed: Iterable[Placed], learnable: Iterable[Any]) -> None:
    """Assert that all that a framework trains is placed as trained.

    More may be: a parameter that is frozen is trained with a gradient of zero, on both sides alike.
    """
    trained = {id(place.variable) for place in placed if place.trained}
    if not {id(variable) for variable in learnable} <= trained:
        raise ValueError("the twin's name map must mark every trainable parameter as trained")


def trained_first(placed: Mapping[str, Placed]) -> dict[str, Placed]:
    """Return a name map with the trained parameters in front, each kind in the twin's order."""
    return dict(sorted(placed.items(), key=lambda item: not item[1].trained))
