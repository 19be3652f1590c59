"""The loops in TensorFlow; read them beside ``torch.py``, line by line."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from pipeline import losses
from pipeline.backends.base import After, Arrays, Forced, Masks, State
from pipeline.config import ConfigError
from pipeline.data.batches import AnyBatches, cuts
from pipeline.models import (
    Placed,
    Twin,
    check_mapped_once,
    to_framework,
    to_neutral,
    trained_first,
    watched,
)
from pipeline.optimizers import Update
from pipeline.record import Trace

LOOPS = ("manual", "native", "fit")
DTYPES = ("float32", "float64")
EXECUTIONS = ("eager", "compiled")
INITS = ("shared", "framework")
XLA = True
ONCE = ("threads", "deterministic")
FLAVOR = "tensorflow"
INEXACT = {
    "momentum+schedule": "Keras keeps the rate inside the velocity, v = mu v - lr g",
    "nesterov+schedule": "Keras keeps the rate inside the velocity, v = mu v - lr g",
    "rmsprop": "Keras has epsilon inside the root, g / sqrt(v + epsilon)",
    "adagrad": "Keras has epsilon inside the root, g / sqrt(a + epsilon)",
    "adam": "Keras has epsilon beside the uncorrected root, sqrt(v) + epsilon",
    "adamw": "Keras has epsilon beside the uncorrected root, sqrt(v) + epsilon",
    "momentum+l2": "Keras's weight_decay is decoupled, also that of SGD",
    "nesterov+l2": "Keras's weight_decay is decoupled, also that of SGD",
    "rmsprop+l2": "Keras's weight_decay is decoupled, also that of RMSprop",
    "adagrad+l2": "Keras's weight_decay is decoupled, also that of Adagrad",
    "adadelta+l2": "Keras's weight_decay is decoupled, also that of Adadelta",
    "adam+l2": "Keras's weight_decay is decoupled, also that of Adam",
}


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Hold back what TensorFlow's C++ side writes to stderr while it starts, unless it fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


with _quiet_start():
    import keras
    import tensorflow as tf

OPS = SimpleNamespace(
    mean=tf.reduce_mean,
    sum=partial(tf.reduce_sum, axis=-1, keepdims=True),
    total=tf.reduce_sum,
    square=tf.square,
    sqrt=tf.sqrt,
    absolute=tf.abs,
    minimum=tf.minimum,
    maximum=tf.maximum,
    logsumexp=partial(tf.reduce_logsumexp, axis=-1, keepdims=True),
    softplus=tf.math.softplus,
)
LOSSES = {
    "mse": keras.losses.MeanSquaredError,
    "mae": keras.losses.MeanAbsoluteError,
    "huber": keras.losses.Huber,
    "bce": partial(keras.losses.BinaryCrossentropy, from_logits=True, label_smoothing=0.0, axis=-1),
    "cross_entropy": lambda *, reduction, smoothing: keras.losses.CategoricalCrossentropy(
        reduction=reduction, label_smoothing=smoothing, from_logits=True, axis=-1
    ),
}


def _optimizer(update: Update) -> keras.optimizers.Optimizer:
    """Return the framework's own optimizer with the same hyperparameters, all spelled out.

    As NumPy scalars: Keras rounds a plain Python number to float32, whatever the model's precision.
    """
    settings = {name: np.float64(value) for name, value in update.settings.items()}
    none = None if update.name != "adamw" else 0.0  # AdamW takes no None
    how = {
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
        "adadelta": lambda *, rho, **how: keras.optimizers.Adadelta(rho=float(rho), **how),
        "adam": lambda *, beta1, beta2, **how: keras.optimizers.Adam(
            beta_1=beta1, beta_2=beta2, amsgrad=False, **how
        ),
        "adamw": lambda *, beta1, beta2, **how: keras.optimizers.AdamW(
            beta_1=beta1, beta_2=beta2, amsgrad=False, **how
        ),
    }
    return make[update.name](**settings, **how)


def configure(*, threads: int, deterministic: bool, device: str, dtype: str, seed: int) -> str:
    """Set everything global, and return the device that ``auto`` means here."""
    with _quiet_start():
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        found = "cuda" if tf.config.list_physical_devices("GPU") else "cpu"
        if device == "cuda" and found != "cuda":
            raise ConfigError("backend.device", device, "TensorFlow sees no GPU; use cpu or auto")
        if deterministic:
            tf.config.experimental.enable_op_determinism()
        tf.config.experimental.enable_tensor_float_32_execution(False)
        keras.config.set_floatx(dtype)
        keras.config.disable_interactive_logging()  # no progress bars of its own
        keras.config.set_dtype_policy(dtype)
        keras.utils.set_random_seed(seed)
        tf.zeros(())
    return found if device == "auto" else device


def build(
    twin: Twin,
    *,
    values: Mapping[str, np.ndarray] | None,
    inputs: tuple[int, ...],
    outputs: int,
    settings: Mapping[str, Any],
    device: str,
    dtype: str,
) -> keras.Model:
    """Make the model and load neutral first values; None keeps the framework's own draw."""
    with tf.device(_place(device)):
        model = twin.model(inputs=inputs, outputs=outputs, **settings)
    placed = twin.name_map(model)
    trained = [place for place in placed.values() if place.trained]
    check_mapped_once(trained, model.trainable_variables)
    check_mapped_once(placed.values(), model.variables)
    if values is not None:
        _load(placed, values)
    return model


def read(model: keras.Model, twin: Twin) -> dict[str, np.ndarray]:
    """Return the parameters by neutral name, in the neutral layout and native precision."""
    return {
        name: to_neutral(place, tf.convert_to_tensor(place.variable).numpy())
        for name, place in twin.name_map(model).items()
    }


def train(
    model: keras.Model,
    twin: Twin,
    *,
    batches: AnyBatches,
    epochs: int,
    loop: str,
    loss: str,
    loss_settings: Mapping[str, Any],
    update: Update,
    execution: str,
    xla: bool,
    masks: Masks | None,
    trace: Trace,
    after: After,
    forced: Forced | None,
    resume: tuple[int, State] | None,
) -> None:
    """Train for some epochs with the rates of `trace`; stop where `after` an epoch is true."""
    placed = trained_first(twin.name_map(model))
    parameters = [place.variable for place in placed.values() if place.trained]
    statistics = [place.variable for place in placed.values() if not place.trained]
    kept = update.slots if loop == "manual" else ()  # the framework's own optimizers hide theirs
    layouts = {name: partial(to_neutral, p, leading=1) for name, p in placed.items()}
    trace.bind(_stack, layouts, slots=kept)
    if loop == "fit":
        return _fit(model, [*parameters, *statistics], batches, epochs, loss, loss_settings, update,
                    execution, xla, trace, after,
                    lambda k: forced and _force(placed, forced(k), []))  # fmt: skip
    make_step = {"manual": _manual, "native": _native}[loop]
    step, numbers = make_step(model, parameters, loss, loss_settings, update)
    as_scalars: Callable[[Mapping[str, float]], Mapping[str, Any]] = dict
    if execution == "compiled":
        step, as_scalars = _compile(step, xla), partial(_scalars, like=parameters[0])
    slots = [
        tuple(tf.zeros_like(tf.convert_to_tensor(p)) for _ in update.slots) for p in parameters
    ]
    updates = partial(_updates, batches, group=update.accumulate, like=parameters[0])
    always = list(updates(1)) if batches.fixed else None

    done = 0
    if resume is not None:
        done, begin = resume
        slots = _force(placed, begin, slots)
    rates, k = trace.rates.tolist(), done * -(-batches.count // update.accumulate)
    for epoch in range(done + 1, epochs + 1):
        for parts in always or updates(epoch):
            k += 1
            if masks is not None:
                parts = _masked(parts, masks, k)
            if forced is not None:
                slots = _force(placed, forced(k), slots)
            scalars = as_scalars(numbers(k, rates[k - 1]))
            trace.start()
            value, gradients, changed, slots = step(parts, scalars, slots)
            if trace.full:
                changed += [tf.convert_to_tensor(s) for s in statistics]
                state = [s for own in slots for s in own] if kept else ()
                trace.keep(value, gradients, changed, state)
            else:
                trace.keep(value, _brief(gradients))
        if after(epoch, partial(_named, placed, slots, kept)):
            return


def _manual(
    model: keras.Model,
    parameters: Sequence[keras.Variable],
    loss: str,
    loss_settings: Mapping[str, Any],
    update: Update,
) -> tuple[Callable, Callable]:
    """Return the article's step: forward, autodiff, and an update written by hand."""
    loss_of = partial(getattr(losses, loss), ops=OPS, **loss_settings)
    rule = update.rule(sqrt=tf.sqrt)
    variables = [p.value for p in parameters]  # Keras's own `assign` takes three times as long

    def step(parts, scalars, slots):
        values, grown = [], []
        for x, y, share, *masks in parts:
            with tf.GradientTape() as tape:
                value = loss_of(model(x, *masks, training=True), y)
                if len(parts) > 1:
                    value = value * share
            grown.append(tape.gradient(value, variables))  # starts anew
            values.append(value)
        gradients = grown[0] if len(grown) == 1 else [sum(g) for g in zip(*grown, strict=True)]
        changed, new_slots = [], []
        used = update.clipped(gradients, ops=OPS)
        for p, g, s in zip(variables, used, slots, strict=True):
            w, s = rule(p.value(), g, s, **scalars)
            changed.append(w)
            new_slots.append(s)
            p.assign(w, read_value=False)
        return values[0] if len(values) == 1 else sum(values), gradients, changed, new_slots

    return step, update.scalars


def _native(
    model: keras.Model,
    parameters: Sequence[keras.Variable],
    loss: str,
    loss_settings: Mapping[str, Any],
    update: Update,
) -> tuple[Callable, Callable]:
    """Return a step with the framework's own loss and optimizer."""
    loss_of = LOSSES[loss](reduction="sum_over_batch_size", **loss_settings)
    rule = _optimizer(update)
    rule.build(parameters)

    def step(parts, scalars, slots):
        rule.learning_rate.assign(scalars["lr"])
        values, grown = [], []
        for x, y, share, *masks in parts:
            with tf.GradientTape() as tape:
                value = loss_of(y, model(x, *masks, training=True))
                if len(parts) > 1:
                    value = value * share
            grown.append(tape.gradient(value, parameters))  # starts anew
            values.append(value)
        gradients = grown[0] if len(grown) == 1 else [sum(g) for g in zip(*grown, strict=True)]
        rule.apply_gradients(zip(gradients, parameters, strict=True))
        changed = [tf.convert_to_tensor(p) for p in parameters]
        return values[0] if len(values) == 1 else sum(values), gradients, changed, slots

    return step, lambda k, lr: {"lr": lr}


def _compile(step: Callable, xla: bool) -> Callable:
    """Compile a whole step, backward pass and update included, into one graph for each shape.

    Called by themselves, as here, graphs cost half of what `tf.function` takes to find the one.
    """
    traced, graphs = tf.function(step, jit_compile=xla), {}

    def compiled(parts, scalars, slots):
        key = tuple((len(x), share) for x, _, share, *_ in parts)
        if key not in graphs:
            graphs[key] = traced.get_concrete_function(parts, scalars, slots)
        return graphs[key](parts, scalars, slots)

    return compiled


def _fit(
    model: keras.Model,
    variables: Sequence[keras.Variable],
    batches: AnyBatches,
    epochs: int,
    loss: str,
    loss_settings: Mapping[str, Any],
    update: Update,
    execution: str,
    xla: bool,
    trace: Trace,
    after: After,
    force: Callable[[int], object],
) -> None:
    """Train with Keras's own ``compile`` and ``fit``; a callback keeps what Keras shows it.

    Keras hands out no gradients, and its loss is the running mean of its own loss metric; that is
    begun anew with each batch here, so that it is the batch's own.
    """
    rule = _optimizer(update)
    rates = trace.rates.tolist()

    class Keep(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.model.reset_metrics()
            rule.learning_rate.assign(rates[int(rule.iterations)])
            force(int(rule.iterations) + 1)
            trace.start()

        def on_train_batch_end(self, batch, logs):
            value = tf.convert_to_tensor(logs["loss"], dtype=variables[0].dtype)
            trace.keep(value, [], [tf.convert_to_tensor(v) for v in variables], ())

        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = after(epoch + 1, dict)

    def feed():
        for epoch in range(1, epochs + 1):
            for ((x, y, _),) in _updates(batches, epoch, group=1, like=variables[0]):
                yield x, y

    model.compile(
        optimizer=rule,
        loss=LOSSES[loss](reduction="sum_over_batch_size", **loss_settings),
        run_eagerly=execution == "eager",
        jit_compile=xla,
    )
    model.fit(feed(), epochs=epochs, steps_per_epoch=batches.count, shuffle=False, verbose=0,
              callbacks=[Keep()])  # fmt: skip


def predict(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """Return the model's outputs in evaluation mode."""
    return model(_tensor(x, model.variables[0]), training=False).numpy()


def layers(model: keras.Model, x: np.ndarray, masks: Sequence[np.ndarray]) -> Arrays:
    """Return what the twin shows of one batch in training mode, and its ``output``."""
    like = model.variables[0]
    with watched() as found:
        output = model(_tensor(x, like), *(_tensor(mask, like) for mask in masks), training=True)
    return {
        name: to_neutral(Placed(None, axes), value.numpy())
        for name, (value, axes) in (found | {"output": (output, None)}).items()
    }


def versions() -> dict[str, str]:
    """Return versions and flags that can change the bits of a result."""
    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "cuda": str(tf.sysconfig.get_build_info().get("cuda_version")),
    }


def _place(device: str) -> str:
    return {"cpu": "/CPU:0", "cuda": "/GPU:0"}[device]


def _load(placed: Mapping[str, Placed], values: Mapping[str, np.ndarray]) -> None:
    shapes = [tuple(place.variable.shape) for place in placed.values()]
    for place, value in zip(placed.values(), to_framework(placed, values, shapes), strict=True):
        place.variable.assign(value.astype(place.variable.dtype, copy=False))


def _force(placed: Mapping[str, Placed], state: State, slots: list[tuple]) -> list[tuple]:
    """Load a state and return its slots; an optimizer that hides its own goes on with those."""
    values, named = state
    _load(placed, values)
    if not named:
        return slots
    trained = {name: place for name, place in placed.items() if place.trained}
    shapes = [tuple(place.variable.shape) for place in trained.values()]
    like = [place.variable for place in trained.values()]
    columns = [to_framework(trained, arrays, shapes) for arrays in named.values()]
    return [
        tuple(_tensor(a, p) for a in own)
        for p, own in zip(like, zip(*columns, strict=True), strict=True)
    ]


def _tensor(array: np.ndarray, like: keras.Variable) -> tf.Tensor:
    dtype = tf.as_dtype(like.dtype).as_numpy_dtype
    with tf.device(tf.convert_to_tensor(like).device):
        return tf.convert_to_tensor(array.astype(dtype, copy=False))


def _named(
    placed: Mapping[str, Placed], slots: Sequence[tuple], names: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Return the optimizer's slots by their and the parameters' neutral names."""
    trained = [(name, place) for name, place in placed.items() if place.trained]
    found: dict[str, dict[str, np.ndarray]] = {slot: {} for slot in names}
    for (name, place), own in zip(trained, slots, strict=True):
        for key, slot in zip(names, own):  # noqa: B905 - native optimizers hide theirs
            found[key][name] = to_neutral(place, slot.numpy())
    return found


def _updates(
    batches: AnyBatches, epoch: int, *, group: int, like: keras.Variable
) -> Iterator[list]:
    """Yield what each update of an epoch sees: some batches ``(x, y, share of the update)``."""
    for x_block, y_block in batches.blocks(epoch):
        lengths, shares = cuts(len(x_block), size=batches.size, group=group)
        xs = tf.split(_tensor(x_block, like), lengths)
        ys = tf.split(_tensor(y_block, like), lengths)
        parts = list(zip(xs, ys, shares, strict=True))
        yield from (parts[i : i + group] for i in range(0, len(parts), group))


def _masked(parts: list, masks: Masks, k: int) -> list:
    """Add to each batch of an update its dropout masks."""
    drawn = masks(k, [len(y) for _, y, _ in parts])
    return [
        (x, y, share, *(_tensor(m, like=x) for m in own))
        for (x, y, share), own in zip(parts, drawn, strict=True)
    ]


def _scalars(values: Mapping[str, float], like: keras.Variable) -> dict[str, tf.Tensor]:
    """Return numbers as tensors, which a compiled step takes without being traced anew."""
    return {name: tf.constant(v, dtype=like.dtype) for name, v in values.items()}


def _brief(gradients: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
    """Return what has the gradients' norm: they themselves, or on a GPU a number, soon copied."""
    return [tf.linalg.global_norm(gradients)] if "GPU" in gradients[0].device else gradients


def _stack(tensors: Sequence[tf.Tensor]) -> np.ndarray:
    return tf.stack(tensors).numpy()
