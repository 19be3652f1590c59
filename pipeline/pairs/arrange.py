"""Between the neutral layout of parameters and that of a framework, and whether a map is whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from pipeline.pairs.pair import Axes, Layout, Place


class Variable(NamedTuple):
    """The framework's own variable at a `Place`, and the axes of its transpose."""

    tensor: Any
    axes: Axes
    trained: bool


def to_framework(
    variables: Mapping[str, Variable | Place],
    values: Mapping[str, np.ndarray],
    shapes: Iterable[tuple[int, ...]],
) -> list[np.ndarray]:
    """Arrange neutral values as the framework holds them, in the order of `variables`.

    Raises
    ------
    ValueError
        If a name is missing or unknown, or a shape does not fit after its listed transpose.
    """
    if set(variables) != set(values):
        raise ValueError(f"the twin maps {sorted(variables)}, the spec has {sorted(values)}")
    arranged = []
    for (name, variable), shape in zip(variables.items(), shapes, strict=True):
        value = _arrange(values[name], variable.axes)
        if value.shape != tuple(shape):
            raise ValueError(f"{name} has shape {value.shape}, the framework wants {tuple(shape)}")
        arranged.append(np.array(value, order="C"))
    return arranged


def _arrange(value: np.ndarray, axes: Axes) -> np.ndarray:
    """Return a neutral array as the framework holds it."""
    if axes is None:
        return value
    if not isinstance(axes, Layout):
        return value.transpose(axes)
    if value.shape != axes.neutral:
        return value  # which is refused by its shape
    return _take_blocks(value, axes.blocks, axis=0).transpose(axes.axes).reshape(axes.shape)


def to_neutral(axes: Axes, value: np.ndarray, *, leading: int = 0) -> np.ndarray:
    """Undo the listed arrangement of one array, or of a stack with `leading` axes in front."""
    if axes is None:
        return value
    layout = axes if isinstance(axes, Layout) else None
    order = axes.axes if isinstance(axes, Layout) else axes
    if layout is not None:
        value = value.reshape((*value.shape[:leading], *(layout.neutral[axis] for axis in order)))
    inverse = np.argsort(order) + leading
    value = value.transpose((*range(leading), *inverse))
    if layout is None or not layout.blocks:
        return value
    return _take_blocks(value, tuple(np.argsort(layout.blocks).tolist()), axis=leading)


def _take_blocks(value: np.ndarray, blocks: tuple[int, ...], *, axis: int) -> np.ndarray:
    """Return equal parts of an array along an axis in another order."""
    if not blocks:
        return value
    parts = np.split(value, len(blocks), axis=axis)
    return np.concatenate([parts[block] for block in blocks], axis=axis)


def check_places(
    places: Mapping[str, Place],
    *,
    paths: Collection[str],
    learnable: Collection[str],
    ignored: Collection[str] = (),
) -> None:
    """Refuse a name map that does not name each floating variable of a model exactly once.

    Parameters
    ----------
    places
        The map.
    paths
        The paths of the model's floating variables. Integer ones, such as the state of a random
        generator, are no parameters.
    learnable
        Those of `paths` that the framework trains. More may be placed as trained: a parameter that
        is frozen is trained with a gradient of zero, on both sides alike.
    ignored
        Those of `paths` that need no name.

    Raises
    ------
    ValueError
        Naming what is missing, what the model does not have, and what is named twice.
    """
    named = Counter(place.path for place in places.values())
    trained = {place.path for place in places.values() if place.role == "trained"}
    wrong = {
        "without a name": set(paths) - set(named) - set(ignored),
        "not in the model": set(named) - set(paths),
        "named twice": {path for path, times in named.items() if times > 1},
        "trained by the framework but not placed as trained": set(learnable) & set(named) - trained,
    }
    listed = [f"{reason}: {', '.join(sorted(them))}" for reason, them in wrong.items() if them]
    if listed:
        raise ValueError(
            f"the twin's name map must name every parameter exactly once; {'; '.join(listed)}"
        )


def trained_first(variables: Mapping[str, Variable]) -> dict[str, Variable]:
    """Return variables with the trained ones in front, each kind in the twin's order."""
    return dict(sorted(variables.items(), key=lambda item: not item[1].trained))
