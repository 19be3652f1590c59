"""A model's own variables in PyTorch, by neutral name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from pipeline.backends.base import State
from pipeline.backends.torch.tensors import to_array, to_tensors
from pipeline.pairs.arrange import Variable, check_places, to_framework, to_neutral
from pipeline.pairs.pair import Side


def find_variables(model: nn.Module, twin: Side) -> dict[str, Variable]:
    """Return the tensors that the twin's name map names; it must name all floating ones."""
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    tensors = {path: tensor for path, tensor in tensors.items() if tensor.is_floating_point()}
    places = twin.name_map(model)
    learnable = {path for path, tensor in tensors.items() if tensor.requires_grad}
    check_places(places, paths=tensors, learnable=learnable, ignored=twin.ignored(model))
    return {
        name: Variable(tensors[place.path], place.axes, place.role == "trained")
        for name, place in places.items()
    }


def load_values(placed: Mapping[str, Variable], values: Mapping[str, np.ndarray]) -> None:
    """Put neutral arrays into the variables of the model, as the framework holds them."""
    shapes = [tuple(place.tensor.shape) for place in placed.values()]
    with torch.no_grad():
        for place, value in zip(placed.values(), to_framework(placed, values, shapes), strict=True):
            place.tensor.copy_(torch.from_numpy(value))


def load_state(placed: Mapping[str, Variable], state: State) -> list[tuple]:
    """Load a state and return its slots, those of each trained parameter in a tuple."""
    values, named = state
    load_values(placed, values)
    trained = {name: place for name, place in placed.items() if place.trained}
    like = next(iter(trained.values())).tensor
    columns = [to_tensors(arrange_values(trained, arrays), like) for arrays in named.values()]
    return [*zip(*columns, strict=True)] if columns else [()] * len(trained)


def arrange_values(
    placed: Mapping[str, Variable], values: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """Return neutral arrays, one for each place, as the framework holds them."""
    return to_framework(placed, values, [tuple(p.tensor.shape) for p in placed.values()])


def name_parameters(placed: Mapping[str, Variable], numbers: set[int]) -> tuple[str, ...]:
    """Return the names of parameters by their numbers in the loop's order."""
    return tuple(name for i, name in enumerate(placed) if i in numbers)


def name_slots(
    placed: Mapping[str, Variable], slots: Sequence[tuple], names: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Return the optimizer's slots by their and the parameters' neutral names."""
    trained = [(name, place) for name, place in placed.items() if place.trained]
    named: dict[str, dict[str, np.ndarray]] = {slot: {} for slot in names}
    for (name, place), arrays in zip(trained, slots, strict=True):
        for key, slot in zip(names, arrays):  # noqa: B905 - Keras's fit hands out none
            named[key][name] = to_neutral(place.axes, to_array(slot).copy())
    return named
