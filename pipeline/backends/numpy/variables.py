"""A model's own variables in NumPy, by neutral name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.backends.base import State
from pipeline.pairs.arrange import Variable, check_places, to_neutral
from pipeline.pairs.pair import Side


def find_variables(model: Any, twin: Side) -> dict[str, Variable]:
    """Return the arrays that the twin's name map names; it must name all."""
    places = twin.name_map(model)
    check_places(places, paths=model.p, learnable=())
    return {
        name: Variable(model.p[place.path], place.axes, place.role == "trained")
        for name, place in places.items()
    }


def load_state(placed: Mapping[str, Variable], state: State) -> list[tuple]:
    """Load a state and return its slots, those of each trained parameter in a tuple."""
    values, named = state
    for name, place in placed.items():
        place.tensor[...] = values[name]
    return [
        tuple(arrays[name].astype(place.tensor.dtype).copy() for arrays in named.values())
        for name, place in placed.items()
        if place.trained
    ]


def name_slots(
    placed: Mapping[str, Variable], slots: Sequence[tuple], names: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Return the optimizer's slots by their and the parameters' neutral names."""
    trained = [(name, place) for name, place in placed.items() if place.trained]
    named: dict[str, dict[str, np.ndarray]] = {slot: {} for slot in names}
    for (name, place), arrays in zip(trained, slots, strict=True):
        for key, slot in zip(names, arrays, strict=True):
            named[key][name] = to_neutral(place.axes, np.array(slot))
    return named
