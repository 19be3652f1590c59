"""Training by Keras's own ``compile`` and ``fit``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.backends.base import (
    After,
    Program,
)
from pipeline.backends.tensorflow.native import LOSSES, make_optimizer, open_slots
from pipeline.backends.tensorflow.tensors import (
    cut_updates,
    to_array,
)
from pipeline.data.batches import AnyBatches, Seen
from pipeline.optimizers import Update
from pipeline.record.trace import Trace


def train_by_fit(
    model: keras.Model,
    parameters: Sequence[keras.Variable],
    statistics: Sequence[keras.Variable],
    batches: AnyBatches,
    epochs: int,
    loss: str,
    loss_settings: Mapping[str, Any],
    update: Update,
    execution: str,
    xla: bool,
    trace: Trace,
    seen: Seen,
    after: After,
) -> None:
    """Train with Keras's own ``compile`` and ``fit``; a callback keeps what Keras shows it.

    Keras hands out no gradients, and its loss is the running mean of its own loss metric; that is
    begun anew with each batch here, so that it is the batch's own.
    """
    rule = make_optimizer(update)
    rates = trace.rates.tolist()
    kept_slots, _ = open_slots(rule, update, parameters, trace.rates)
    variables = [*parameters, *statistics]

    class Keep(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.model.reset_metrics()
            rule.learning_rate.assign(rates[int(rule.iterations)])
            trace.start()

        def on_train_batch_end(self, batch, logs):
            value = tf.convert_to_tensor(logs["loss"], dtype=variables[0].dtype)
            state = [s for each in kept_slots([]) for s in each]
            trace.keep(value, [], [tf.convert_to_tensor(v) for v in variables], state)
            trace.used({"lr": tf.convert_to_tensor(rule.learning_rate)})

        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = after(epoch + 1, dict)

    def feed():
        k = 0
        for epoch in range(1, epochs + 1):
            for parts in cut_updates(batches, epoch, group=1, like=variables[0]):
                k += 1
                seen.note(k, epoch, parts, to_array)
                yield parts[0][:2]

    compile_by_keras(model, rule, loss, loss_settings, execution, xla)
    model.fit(feed(), epochs=epochs, steps_per_epoch=batches.count, shuffle=False, verbose=0,
              callbacks=[Keep()])  # fmt: skip


def make_fit_batch(
    model: keras.Model,
    parameters: Sequence[keras.Variable],
    loss: str,
    loss_settings: Mapping[str, Any],
    update: Update,
    execution: str,
    xla: bool,
    rates: np.ndarray,
) -> Program:
    """Return one batch of `fit`, which takes no gradients and hands out none."""
    rule = make_optimizer(update)
    rule.build(parameters)
    kept_slots, load = open_slots(rule, update, parameters, rates)
    compile_by_keras(model, rule, loss, loss_settings, execution, xla)

    def step(parts, scalars, slots, given):
        ((x, y, _),) = parts
        rule.learning_rate.assign(scalars["lr"])
        model.reset_metrics()
        value = model.train_on_batch(x, y, return_dict=True)["loss"]
        changed = [tf.convert_to_tensor(p) for p in parameters]
        return tf.convert_to_tensor(value, parameters[0].dtype), [], changed, kept_slots([])

    def used(scalars):
        return {"lr": tf.convert_to_tensor(rule.learning_rate)}

    return Program(step, lambda k, lr: {"lr": lr}, load, used, set())


def compile_by_keras(
    model: keras.Model,
    rule: keras.optimizers.Optimizer,
    loss: str,
    loss_settings: Mapping[str, Any],
    execution: str,
    xla: bool,
) -> None:
    """Compile a model for `fit`: Keras's loss, a mean over the batch, and Keras's optimizer."""
    model.compile(
        optimizer=rule,
        loss=LOSSES[loss](reduction="sum_over_batch_size", **loss_settings),
        run_eagerly=execution == "eager",
        jit_compile=xla,
    )
