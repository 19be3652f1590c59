"""Parts that the steps in TensorFlow share: missing gradients, compilation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def bind_loss(model: Any, loss_of: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Return ``(x, y, *masks)`` to the loss in training mode; a model may bring one of its own."""
    if getattr(model, "brings_loss", False):
        return model.measure_loss
    return lambda x, y, *masks: loss_of(model(x, *masks, training=True), y)


def fill_gradients(
    gradients: Sequence[tf.Tensor | None], parameters: Sequence[Any], lacking: set[int]
) -> list[tf.Tensor]:
    """Return gradients with zeros for parameters that have none, and note which those are.

    Those of an embedding, which are rows of a tensor, become the whole tensor.
    """
    lacking |= {i for i, g in enumerate(gradients) if g is None}
    return [
        tf.zeros_like(tf.convert_to_tensor(p)) if g is None else tf.convert_to_tensor(g)
        for g, p in zip(gradients, parameters, strict=True)
    ]


def compile_step(step: Callable, xla: bool) -> Callable:
    """Compile a whole step, backward pass and update included, into one graph for each shape.

    Called by themselves, as here, graphs cost half of what `tf.function` takes to find the one.
    """
    traced, graphs = tf.function(step, jit_compile=xla), {}

    def compiled(parts, scalars, slots, given):
        key = (given is None, *((len(x), share) for x, _, share, *_ in parts))
        if key not in graphs:
            graphs[key] = traced.get_concrete_function(parts, scalars, slots, given)
        return graphs[key](parts, scalars, slots, given)

    return compiled
