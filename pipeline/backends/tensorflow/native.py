"""The step with TensorFlow's own loss and optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.backends.base import (
    Program,
)
from pipeline.backends.tensorflow.step import fill_gradients
from pipeline.optimizers import Update

LOSSES = {
    "mse": keras.losses.MeanSquaredError,
    "mae": keras.losses.MeanAbsoluteError,
    "huber": keras.losses.Huber,
    "bce": partial(keras.losses.BinaryCrossentropy, from_logits=True, label_smoothing=0.0, axis=-1),
    "cross_entropy": lambda *, reduction, smoothing: keras.losses.CategoricalCrossentropy(
        reduction=reduction, label_smoothing=smoothing, from_logits=True, axis=-1
    ),
}


# What the framework's own optimizers call the slots of each rule, in the rule's order.
STATES: dict[str, tuple[str, ...]] = {
    "gd": (),
    "momentum": ("momentums",),
    "nesterov": ("momentums",),
    "rmsprop": ("_velocities",),
    "adagrad": ("_accumulators",),
    "adadelta": ("_accumulated_delta_vars", "_accumulated_grads"),
    "adam": ("_momentums", "_velocities"),
    "adamw": ("_momentums", "_velocities"),
}


def make_optimizer(update: Update) -> keras.optimizers.Optimizer:
    """Return the framework's own optimizer with the same hyperparameters, all spelled out.

    As NumPy scalars: Keras rounds a plain Python number to float32, whatever the model's precision.
    """
    settings = {name: np.float64(value) for name, value in update.settings.items()}
    none = None if update.name != "adamw" else 0.0  # AdamW takes no None
    options = {
        "learning_rate": 1.0,
        "weight_decay": none if update.decay == "none" else np.float64(update.weight_decay),
        "clipnorm": None,
        "clipvalue": None,
        "global_clipnorm": update.clip_norm,
        "use_ema": False,
        "loss_scale_factor": None,
        "gradient_accumulation_steps": None,
    }
    make: dict[str, Callable[..., keras.optimizers.Optimizer]] = {
        "gd": partial(keras.optimizers.SGD, momentum=0.0, nesterov=False),
        "momentum": partial(keras.optimizers.SGD, nesterov=False),
        "nesterov": partial(keras.optimizers.SGD, nesterov=True),
        "rmsprop": partial(keras.optimizers.RMSprop, momentum=0.0, centered=False),
        "adagrad": partial(keras.optimizers.Adagrad, initial_accumulator_value=0.0),
        "adadelta": lambda *, rho, **options: keras.optimizers.Adadelta(rho=float(rho), **options),
        "adam": lambda *, beta1, beta2, **options: keras.optimizers.Adam(
            beta_1=beta1, beta_2=beta2, amsgrad=False, **options
        ),
        "adamw": lambda *, beta1, beta2, **options: keras.optimizers.AdamW(
            beta_1=beta1, beta_2=beta2, amsgrad=False, **options
        ),
    }
    return make[update.name](**settings, **options)


def make_native(
    model: keras.Model,
    parameters: Sequence[keras.Variable],
    loss: str,
    loss_settings: Mapping[str, Any],
    update: Update,
    rates: np.ndarray,
) -> Program:
    """Return a step with the framework's own loss and optimizer."""
    loss_of = LOSSES[loss](reduction="sum_over_batch_size", **loss_settings)
    rule = make_optimizer(update)
    rule.build(parameters)
    kept_slots, load = open_slots(rule, update, parameters, rates)
    lacking: set[int] = set()

    def step(parts, scalars, slots, given):
        rule.learning_rate.assign(scalars["lr"])
        values, grown = [], []
        for x, y, share, *masks in parts:
            with tf.GradientTape() as tape:
                value = loss_of(y, model(x, *masks, training=True))
                if len(parts) > 1:
                    value = value * share
            grown.append(fill_gradients(tape.gradient(value, parameters), parameters, lacking))
            values.append(value)
        gradients = grown[0] if len(grown) == 1 else [sum(g) for g in zip(*grown, strict=True)]
        used = gradients if given is None else given
        rule.apply_gradients(zip(used, parameters, strict=True))
        changed = [tf.convert_to_tensor(p) for p in parameters]
        value = values[0] if len(values) == 1 else sum(values)
        return value, gradients, changed, kept_slots(used)

    def used(scalars):
        return {"lr": tf.convert_to_tensor(rule.learning_rate)}

    return Program(step, lambda k, lr: {"lr": lr}, load, used, lacking)


def open_slots(
    rule: keras.optimizers.Optimizer,
    update: Update,
    parameters: Sequence[keras.Variable],
    rates: np.ndarray,
) -> tuple[Callable, Callable]:
    """Return what reads the slots that an optimizer keeps, and what puts slots there.

    Keras has the velocity of momentum as ``−lr·v``: with a rate that changes that is another thing
    than v, and is told as v at the first rate.
    """
    names = STATES[update.name]
    scale = -1 / float(rates[0]) if "momentums" in names else 1.0

    def kept_slots(gradients):
        # Without momentum there is no velocity: it is the gradient.
        columns = [getattr(rule, name, None) or [g / scale for g in gradients] for name in names]
        read = [[tf.convert_to_tensor(v) * scale for v in column] for column in columns]
        return [*zip(*read, strict=True)] if names else [()] * len(parameters)

    def load(slots, k):
        rule.iterations.assign(k - 1)
        for name, column in zip(names, zip(*slots, strict=True), strict=True):
            for variable, array in zip(getattr(rule, name, None) or (), column, strict=False):
                variable.assign(array / scale)

    return kept_slots, load
