"""The loops in TensorFlow; read them beside ``torch.py``, line by line."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from pipeline import losses
from pipeline.backends.base import (
    After,
    Arrays,
    Masks,
    Observed,
    Part,
    Program,
    Start,
    State,
    Stepper,
)
from pipeline.config.types import ConfigError
from pipeline.data.batches import AnyBatches, Seen, cuts
from pipeline.models import (
    Placed,
    Twin,
    check_mapped_once,
    check_trained,
    to_framework,
    to_neutral,
    trained_first,
)
from pipeline.optimizers import Update
from pipeline.record.trace import Trace
from pipeline.watching import watched

LOOPS = ("manual", "native", "fit")
DTYPES = ("float32", "float64")
EXECUTIONS = ("eager", "compiled")
INITS = ("shared", "framework")
XLA = True
ONCE = ("threads", "deterministic")
PACKAGES = ("tensorflow", "keras")
FLAGS = (
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
    "ONEDNN_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "NVIDIA_TF32_OVERRIDE",
)
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
COARSE: dict[str, str] = {}


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
    from tensorflow.python.framework import op_callbacks

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
    top=lambda z: tf.stop_gradient(tf.reduce_max(z, axis=-1, keepdims=True)),
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
    check_mapped_once(placed.values(), model.variables)
    check_trained(placed.values(), model.trainable_variables)
    if values is not None:
        _load(placed, values)
    return model


def read(model: keras.Model, twin: Twin) -> dict[str, np.ndarray]:
    """Return the parameters by neutral name, in the neutral layout and native precision."""
    return {
        name: to_neutral(place, tf.convert_to_tensor(place.variable).numpy())
        for name, place in twin.name_map(model).items()
    }


def write(model: keras.Model, twin: Twin, values: Mapping[str, np.ndarray]) -> None:
    """Put neutral values into the parameters, in the model's own precision."""
    _load(twin.name_map(model), values)


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
    seen: Seen,
    after: After,
    resume: tuple[int, State] | None,
) -> None:
    """Train for some epochs with the rates of `trace`; stop where `after` an epoch is true."""
    placed = trained_first(twin.name_map(model))
    parameters = [place.variable for place in placed.values() if place.trained]
    statistics = [place.variable for place in placed.values() if not place.trained]
    layouts = {name: partial(to_neutral, p, leading=1) for name, p in placed.items()}
    trace.bind(_stack, layouts, slots=update.slots)
    if loop == "fit":
        return _fit(model, parameters, statistics, batches, epochs, loss, loss_settings, update,
                    execution, xla, trace, seen, after)  # fmt: skip
    program, as_scalars = _program(
        model, parameters, loop, loss, loss_settings, update, execution, xla, trace.rates
    )
    slots = [
        tuple(tf.zeros_like(tf.convert_to_tensor(p)) for _ in update.slots) for p in parameters
    ]
    updates = partial(_updates, batches, group=update.accumulate, like=parameters[0])
    always = list(updates(1)) if batches.fixed else None

    done = 0
    if resume is not None:
        done, begin = resume
        slots = _force(placed, begin)
    rates, k = trace.rates.tolist(), done * -(-batches.count // update.accumulate)
    for epoch in range(done + 1, epochs + 1):
        for parts in always or updates(epoch):
            k += 1
            seen.note(k, epoch, parts, _array)
            if masks is not None:
                parts = _masked(parts, masks, k)
            numbers = program.numbers(k, rates[k - 1])
            scalars = as_scalars(numbers)
            trace.start()
            value, gradients, changed, slots = program.step(parts, scalars, slots, None)
            if trace.full:
                changed += [tf.convert_to_tensor(s) for s in statistics]
                state = [s for each in slots for s in each]
                trace.keep(value, gradients, changed, state)
            else:
                trace.keep(value, _brief(gradients))
            trace.used(program.used(numbers))
            if len(program.lacking) > len(trace.without_gradient):
                trace.lacks(_names(placed, program.lacking))
        if after(epoch, partial(_named, placed, slots, update.slots)):
            return


def stepper(
    model: keras.Model,
    twin: Twin,
    *,
    loop: str,
    loss: str,
    loss_settings: Mapping[str, Any],
    update: Update,
    execution: str,
    xla: bool,
    rates: np.ndarray,
) -> Stepper:
    """Return the loop's own update as a function of everything that it starts from."""
    placed = trained_first(twin.name_map(model))
    parameters = [place.variable for place in placed.values() if place.trained]
    trained = {name: place for name, place in placed.items() if place.trained}
    program, as_scalars = _program(
        model, parameters, loop, loss, loss_settings, update, execution, xla, rates
    )

    statistics = {name: place for name, place in placed.items() if not place.trained}

    def once(start: Start) -> Arrays:
        slots = _force(placed, (start.values, start.slots))
        program.load(slots, start.k)
        masks = start.masks or [()] * len(start.parts)
        parts = []
        for (x, y, share), drawn in zip(start.parts, masks, strict=True):
            x, y, *drawn = _tensors((x, y, *drawn), parameters[0])
            parts.append((x, y, share, *drawn))
        given = None
        if start.gradients is not None:
            given = _tensors(_arranged(trained, start.gradients), parameters[0])
        numbers = program.numbers(start.k, float(rates[start.k - 1]))
        value, gradients, changed, slots = program.step(parts, as_scalars(numbers), slots, given)
        changed += [tf.convert_to_tensor(place.variable) for place in statistics.values()]
        outcome = {"loss": _array(value)}
        for (name, place), g in zip(trained.items(), gradients, strict=False):  # fit has none
            outcome[f"grad/{name}"] = to_neutral(place, _array(g))
        for slot, arrays in _named(placed, slots, update.slots).items():
            outcome |= {f"slot/{slot}/{name}": value for name, value in arrays.items()}
        for (name, place), w in zip(placed.items(), changed, strict=True):
            outcome[f"param/{name}"] = to_neutral(place, _array(w))
        used = program.used(numbers)
        return outcome | {f"scalar/{name}": np.array(float(v)) for name, v in used.items()}

    return once


def cut(
    batches: AnyBatches, epoch: int, *, group: int, device: str, dtype: str
) -> Iterator[list[Part]]:
    """Yield the batches of each update of an epoch, as the loop cuts them."""
    with tf.device(_place(device)):
        like = keras.Variable(np.zeros((), dtype), dtype=dtype)
    for parts in _updates(batches, epoch, group=group, like=like):
        yield [(_array(x), _array(y), share) for x, y, share in parts]


def _program(
    model: keras.Model,
    parameters: Sequence[keras.Variable],
    loop: str,
    loss: str,
    loss_settings: Mapping[str, Any],
    update: Update,
    execution: str,
    xla: bool,
    rates: np.ndarray,
) -> tuple[Program, Callable[[Mapping[str, float]], Mapping[str, Any]]]:
    """Return a loop's update, and how its scalars become those of its execution."""
    if loop == "fit":
        return _fitted(model, parameters, loss, loss_settings, update, execution, xla, rates), dict
    makers: dict[str, Callable] = {"manual": _manual, "native": partial(_native, rates=rates)}
    program = makers[loop](model, parameters, loss, loss_settings, update)
    if execution != "compiled":
        return program, dict
    step = _compile(program.step, xla)
    return program._replace(step=step), partial(_scalars, like=parameters[0])


def _manual(
    model: keras.Model,
    parameters: Sequence[keras.Variable],
    loss: str,
    loss_settings: Mapping[str, Any],
    update: Update,
) -> Program:
    """Return the article's step: forward, autodiff, and an update written by hand."""
    loss_of = partial(getattr(losses, loss), ops=OPS, **loss_settings)
    rule = update.rule(sqrt=tf.sqrt)
    lacking: set[int] = set()
    variables = [p.value for p in parameters]  # Keras's own `assign` takes three times as long

    def step(parts, scalars, slots, given):
        values, grown = [], []
        for x, y, share, *masks in parts:
            with tf.GradientTape() as tape:
                value = loss_of(model(x, *masks, training=True), y)
                if len(parts) > 1:
                    value = value * share
            grown.append(_filled(tape.gradient(value, variables), variables, lacking))
            values.append(value)
        gradients = grown[0] if len(grown) == 1 else [sum(g) for g in zip(*grown, strict=True)]
        changed, new_slots = [], []
        used = update.clipped(gradients if given is None else given, ops=OPS)
        for p, g, s in zip(variables, used, slots, strict=True):
            w, s = rule(p.value(), g, s, **scalars)
            changed.append(w)
            new_slots.append(s)
            p.assign(w, read_value=False)
        return values[0] if len(values) == 1 else sum(values), gradients, changed, new_slots

    return Program(step, update.scalars, lambda slots, k: None, dict, lacking)


def _native(
    model: keras.Model,
    parameters: Sequence[keras.Variable],
    loss: str,
    loss_settings: Mapping[str, Any],
    update: Update,
    rates: np.ndarray,
) -> Program:
    """Return a step with the framework's own loss and optimizer."""
    loss_of = LOSSES[loss](reduction="sum_over_batch_size", **loss_settings)
    rule = _optimizer(update)
    rule.build(parameters)
    kept_slots, load = _states(rule, update, parameters, rates)
    lacking: set[int] = set()

    def step(parts, scalars, slots, given):
        rule.learning_rate.assign(scalars["lr"])
        values, grown = [], []
        for x, y, share, *masks in parts:
            with tf.GradientTape() as tape:
                value = loss_of(y, model(x, *masks, training=True))
                if len(parts) > 1:
                    value = value * share
            grown.append(_filled(tape.gradient(value, parameters), parameters, lacking))
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


def _states(
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


def _filled(
    gradients: Sequence[tf.Tensor | None], parameters: Sequence[Any], lacking: set[int]
) -> list[tf.Tensor]:
    """Return gradients with zeros for parameters that have none, and note which those are."""
    lacking |= {i for i, g in enumerate(gradients) if g is None}
    return [
        tf.zeros_like(tf.convert_to_tensor(p)) if g is None else g
        for g, p in zip(gradients, parameters, strict=True)
    ]


def _compile(step: Callable, xla: bool) -> Callable:
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


def _fit(
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
    rule = _optimizer(update)
    rates = trace.rates.tolist()
    kept_slots, _ = _states(rule, update, parameters, trace.rates)
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
            for parts in _updates(batches, epoch, group=1, like=variables[0]):
                k += 1
                seen.note(k, epoch, parts, _array)
                yield parts[0][:2]

    _compiled_by_keras(model, rule, loss, loss_settings, execution, xla)
    model.fit(feed(), epochs=epochs, steps_per_epoch=batches.count, shuffle=False, verbose=0,
              callbacks=[Keep()])  # fmt: skip


def _fitted(
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
    rule = _optimizer(update)
    rule.build(parameters)
    kept_slots, load = _states(rule, update, parameters, rates)
    _compiled_by_keras(model, rule, loss, loss_settings, execution, xla)

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


def _compiled_by_keras(
    model: keras.Model,
    rule: keras.optimizers.Optimizer,
    loss: str,
    loss_settings: Mapping[str, Any],
    execution: str,
    xla: bool,
) -> None:
    model.compile(
        optimizer=rule,
        loss=LOSSES[loss](reduction="sum_over_batch_size", **loss_settings),
        run_eagerly=execution == "eager",
        jit_compile=xla,
    )


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


def scale(x: tf.Tensor, factors_of: Callable[[np.ndarray], np.ndarray]) -> tf.Tensor:
    """Return an intermediate result times factors that follow from its values."""
    return x * _tensor(factors_of(_array(x)), x)


def observe(call: Callable[[], object]) -> Observed:
    """Return what the operations of a call, run eagerly, were seen to do."""
    types, draws = set(), set()

    def watch(kind, inputs, attributes, outputs, name=None, graph=None):
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
        (tensor,) = _tensors([value], place.variable)
        tf.raw_ops.AssignVariableOp(resource=place.variable.value.handle, value=tensor)


def _force(placed: Mapping[str, Placed], state: State) -> list[tuple]:
    """Load a state and return its slots, those of each trained parameter in a tuple."""
    values, named = state
    _load(placed, values)
    trained = {name: place for name, place in placed.items() if place.trained}
    like = next(iter(trained.values())).variable
    columns = [_tensors(_arranged(trained, arrays), like) for arrays in named.values()]
    return [*zip(*columns, strict=True)] if columns else [()] * len(trained)


def _arranged(placed: Mapping[str, Placed], values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return neutral arrays, one for each place, as the framework holds them."""
    return to_framework(placed, values, [tuple(p.variable.shape) for p in placed.values()])


def _tensor(array: np.ndarray, like: keras.Variable) -> tf.Tensor:
    return _tensors([array], like)[0]


def _tensors(arrays: Iterable[np.ndarray], like: keras.Variable) -> list[tf.Tensor]:
    dtype = tf.as_dtype(like.dtype).as_numpy_dtype
    with tf.device((like.value if isinstance(like, keras.Variable) else like).device):
        return [tf.constant(array.astype(dtype, copy=False)) for array in arrays]


def _array(tensor: tf.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.numpy()
    return array


def _names(placed: Mapping[str, Placed], numbers: set[int]) -> tuple[str, ...]:
    """Return the names of parameters by their numbers in the loop's order."""
    return tuple(name for i, name in enumerate(placed) if i in numbers)


def _named(
    placed: Mapping[str, Placed], slots: Sequence[tuple], names: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Return the optimizer's slots by their and the parameters' neutral names."""
    trained = [(name, place) for name, place in placed.items() if place.trained]
    named: dict[str, dict[str, np.ndarray]] = {slot: {} for slot in names}
    for (name, place), arrays in zip(trained, slots, strict=True):
        for key, slot in zip(names, arrays):  # noqa: B905 - Keras's fit hands out none
            named[key][name] = to_neutral(place, _array(slot))
    return named


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
