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

from pipeline import losses, optimizers
from pipeline.config import ConfigError
from pipeline.models import Twin, check_mapped_once, to_framework, to_neutral
from pipeline.record import Trace

NATIVE = ("gd",)
LOOPS = ("manual", "native", "fit")
XLA = True
ONCE = ("threads", "deterministic")
FLAVOR = "tensorflow"


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

OPS = SimpleNamespace(mean=tf.reduce_mean, square=tf.square, absolute=tf.abs)
LOSSES = {"mse": keras.losses.MeanSquaredError, "mae": keras.losses.MeanAbsoluteError}
OPTIMIZERS = {
    "gd": partial(
        keras.optimizers.SGD,
        momentum=0.0,
        nesterov=False,
        weight_decay=None,
        clipnorm=None,
        clipvalue=None,
        global_clipnorm=None,
        use_ema=False,
        loss_scale_factor=None,
        gradient_accumulation_steps=None,
    )
}


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
    check_mapped_once(placed, model.trainable_variables)
    if values is not None:
        shapes = [tuple(place.variable.shape) for place in placed.values()]
        arranged = to_framework(placed, values, shapes)
        for place, value in zip(placed.values(), arranged, strict=True):
            place.variable.assign(value.astype(dtype))
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
    x: np.ndarray,
    y: np.ndarray,
    loop: str,
    loss: str,
    loss_settings: Mapping[str, Any],
    optimizer: str,
    optimizer_settings: Mapping[str, Any],
    execution: str,
    xla: bool,
    trace: Trace,
    report: Callable[[int], None],
    log_every: int,
) -> None:
    """Make one update a learning rate of `trace`; call `report` every `log_every` updates."""
    placed = twin.name_map(model)
    parameters = [place.variable for place in placed.values()]
    trace.bind(_stack, [partial(to_neutral, place, leading=1) for place in placed.values()])
    if loop == "fit":
        return _fit(model, parameters, x, y, loss, loss_settings, optimizer, optimizer_settings,
                    execution, xla, trace, report, log_every)  # fmt: skip
    make_step = {"manual": _manual, "native": _native}[loop]
    step = make_step(model, parameters, loss, loss_settings, optimizer, optimizer_settings)
    rule = getattr(optimizers, optimizer)
    as_scalars: Callable[[Mapping[str, float]], Mapping[str, Any]] = dict
    if execution == "compiled":
        step, as_scalars = _compile(step, xla), partial(_scalars, like=parameters[0])
    x, y = _tensor(x, parameters[0]), _tensor(y, parameters[0])
    slots = [
        tuple(tf.zeros_like(tf.convert_to_tensor(p)) for _ in range(rule.slots)) for p in parameters
    ]

    for k, lr in enumerate(trace.rates.tolist(), start=1):
        scalars = as_scalars(rule.scalars(k, lr, **optimizer_settings))
        trace.start()
        value, gradients, after, slots = step(x, y, scalars, slots)
        if trace.full:
            trace.keep(value, gradients, after)
        else:
            trace.keep(value, [tf.linalg.global_norm(gradients)], [])
        if k % log_every == 0:
            report(k)


def _manual(
    model: keras.Model,
    parameters: Sequence[keras.Variable],
    loss: str,
    loss_settings: Mapping[str, Any],
    optimizer: str,
    optimizer_settings: Mapping[str, Any],
) -> Callable:
    """Return the article's step: forward, autodiff, and an update written by hand."""
    loss_of = partial(getattr(losses, loss), ops=OPS, **loss_settings)
    rule = partial(getattr(optimizers, optimizer), sqrt=tf.sqrt, **optimizer_settings)

    def step(x, y, scalars, slots):
        with tf.GradientTape() as tape:
            value = loss_of(model(x, training=True), y)
        gradients = tape.gradient(value, parameters)
        after, new_slots = [], []
        for p, g, s in zip(parameters, gradients, slots, strict=True):
            w, s = rule(p.value.value(), g, s, **scalars)
            after.append(w)
            new_slots.append(s)
            p.assign(w)
        return value, gradients, after, new_slots

    return step


def _native(
    model: keras.Model,
    parameters: Sequence[keras.Variable],
    loss: str,
    loss_settings: Mapping[str, Any],
    optimizer: str,
    optimizer_settings: Mapping[str, Any],
) -> Callable:
    """Return a step with the framework's own loss and optimizer."""
    loss_of = LOSSES[loss](reduction="sum_over_batch_size", **loss_settings)
    rule = OPTIMIZERS[optimizer](learning_rate=1.0, **optimizer_settings)
    rule.build(parameters)

    def step(x, y, scalars, slots):
        rule.learning_rate.assign(scalars["lr"])
        with tf.GradientTape() as tape:
            value = loss_of(y, model(x, training=True))
        gradients = tape.gradient(value, parameters)
        rule.apply_gradients(zip(gradients, parameters, strict=True))
        after = [tf.convert_to_tensor(p) for p in parameters]
        return value, gradients, after, slots

    return step


def _compile(step: Callable, xla: bool) -> Callable:
    """Compile a whole step, backward pass and update included, into one graph."""
    return tf.function(step, jit_compile=xla)


def _fit(
    model: keras.Model,
    parameters: Sequence[keras.Variable],
    x: np.ndarray,
    y: np.ndarray,
    loss: str,
    loss_settings: Mapping[str, Any],
    optimizer: str,
    optimizer_settings: Mapping[str, Any],
    execution: str,
    xla: bool,
    trace: Trace,
    report: Callable[[int], None],
    log_every: int,
) -> None:
    """Train with Keras's own ``compile`` and ``fit``; a callback keeps what Keras shows it.

    Keras hands out no gradients, and its loss is the running mean of its own loss metric.
    """
    rule = OPTIMIZERS[optimizer](learning_rate=1.0, **optimizer_settings)
    rates = trace.rates.tolist()

    class Keep(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            rule.learning_rate.assign(rates[int(rule.iterations)])
            trace.start()

        def on_train_batch_end(self, batch, logs):
            value = tf.convert_to_tensor(logs["loss"], dtype=parameters[0].dtype)
            trace.keep(value, [], [tf.convert_to_tensor(p) for p in parameters])
            if int(rule.iterations) % log_every == 0:
                report(int(rule.iterations))

    model.compile(
        optimizer=rule,
        loss=LOSSES[loss](reduction="sum_over_batch_size", **loss_settings),
        run_eagerly=execution == "eager",
        jit_compile=xla,
    )
    model.fit(
        x, y, batch_size=len(x), epochs=len(rates), shuffle=False, verbose=0, callbacks=[Keep()]
    )


def predict(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """Return the model's outputs in evaluation mode."""
    return model(_tensor(x, model.variables[0]), training=False).numpy()


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


def _tensor(array: np.ndarray, like: keras.Variable) -> tf.Tensor:
    with tf.device(tf.convert_to_tensor(like).device):
        return tf.convert_to_tensor(array.astype(like.dtype))


def _scalars(values: Mapping[str, float], like: keras.Variable) -> dict[str, tf.Tensor]:
    """Return numbers as tensors, which a compiled step takes without being traced anew."""
    return {name: tf.constant(v, dtype=like.dtype) for name, v in values.items()}


def _stack(tensors: Sequence[tf.Tensor]) -> np.ndarray:
    return tf.stack(tensors).numpy()
