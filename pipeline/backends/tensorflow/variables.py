"""A model's own variables in TensorFlow, by neutral name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.backends.base import State
from pipeline.backends.tensorflow.tensors import to_array, to_tensors
from pipeline.pairs.arrange import Variable, check_places, to_framework, to_neutral
from pipeline.pairs.pair import Side


def find_variables(model: keras.Model, twin: Side) -> dict[str, Variable]:
    """Return the variables that the twin's name map names; it must name all floating ones.

    One that no place leads to is told by its name, which is no path and may be another one's too.
    """
    places = twin.name_map(model)
    floating = [v for v in model.variables if tf.as_dtype(v.dtype).is_floating]
    names = (getattr(variable, "path", None) or variable.name for variable in floating)
    paths = {
        handle_of(variable).ref(): f"a variable named {name}"
        for variable, name in zip(floating, names, strict=True)
    }
    tensors = {}
    ignored = twin.ignored(model)
    for path in (*(place.path for place in places.values()), *ignored):
        variable = follow_path(model, path)
        is_variable = isinstance(variable, keras.Variable | tf.Variable)
        reference = handle_of(variable).ref() if is_variable else None
        if reference in paths:
            tensors[path] = variable
            paths[reference] = path
    learnable = {paths[handle_of(v).ref()] for v in floating if v.trainable}
    check_places(places, paths=paths.values(), learnable=learnable, ignored=ignored)
    return {
        name: Variable(tensors[place.path], place.axes, place.role == "trained")
        for name, place in places.items()
    }


def handle_of(variable: Any) -> tf.Variable:
    """Return TensorFlow's variable: a Keras 3 variable holds one."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def follow_path(model: Any, path: str) -> Any:
    """Return what the attributes and list items of a path lead to; None if they lead nowhere."""
    for word in path.split("."):
        try:
            model = model[int(word)] if word.isdigit() else getattr(model, word, None)
        except (IndexError, TypeError):
            return None
    return model


def load_values(placed: Mapping[str, Variable], values: Mapping[str, np.ndarray]) -> None:
    """Put neutral arrays into the variables of the model, as the framework holds them."""
    shapes = [tuple(place.tensor.shape) for place in placed.values()]
    for place, value in zip(placed.values(), to_framework(placed, values, shapes), strict=True):
        (tensor,) = to_tensors([value], place.tensor)
        tf.raw_ops.AssignVariableOp(resource=handle_of(place.tensor).handle, value=tensor)


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
            named[key][name] = to_neutral(place.axes, to_array(slot))
    return named
