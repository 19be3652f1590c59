"""What a model shows in TensorFlow: predictions, layers, and what its operations did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_callbacks

from pipeline.backends.base import (
    Arrays,
    Observed,
)
from pipeline.backends.tensorflow import edit
from pipeline.backends.tensorflow.tensors import (
    to_array,
    to_tensor,
)
from pipeline.pairs.arrange import to_neutral
from pipeline.watching import watched


def predict(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """Return the model's outputs in evaluation mode."""
    return model(to_tensor(x, model.variables[0]), training=False).numpy()


def layers(model: keras.Model, x: np.ndarray, masks: Sequence[np.ndarray]) -> Arrays:
    """Return what the twin shows of one batch in training mode, and its ``output``."""
    like = model.variables[0]
    with watched() as watched_values, edit.watch_layers(model, find_shown(model)):
        output = model(
            to_tensor(x, like), *(to_tensor(mask, like) for mask in masks), training=True
        )
    return {
        name: to_neutral(axes, value.numpy())
        for name, (value, axes) in (watched_values | {"output": (output, None)}).items()
    }


def find_shown(model: Any) -> Mapping[str, Any]:
    """Return the layers that a model which is not ours shows; a twin of ours shows its own."""
    prepared = getattr(model, "prepared", None)
    return {} if prepared is None else prepared.layers.get("tensorflow", {})


def scale(x: tf.Tensor, factors_of: Callable[[np.ndarray], np.ndarray]) -> tf.Tensor:
    """Return an intermediate result times factors that follow from its values."""
    return x * to_tensor(factors_of(to_array(x)), x)


def observe(call: Callable[[], object]) -> Observed:
    """Return what the operations of a call, run eagerly, were seen to do."""
    types, draws = set(), set()

    def watch(kind, inputs, attributes, outputs, op_name=None, graph=None):
        for value in (*inputs, *outputs):
            if getattr(value, "dtype", None) is not None and tf.as_dtype(value.dtype).is_floating:
                types.add(tf.as_dtype(value.dtype).name)
        operation = kind.decode() if isinstance(kind, bytes) else str(kind)
        if "Random" in operation or operation == "Multinomial":
            draws.add(operation)

    op_callbacks.add_op_callback(watch)
    try:
        call()
    finally:
        op_callbacks.remove_op_callback(watch)
    return Observed(frozenset(types), frozenset(draws))
