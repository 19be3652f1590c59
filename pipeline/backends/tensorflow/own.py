"""The step with the optimizer that a pair brings itself, judged as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from pipeline.backends.base import Program
from pipeline.backends.tensorflow.step import fill_gradients
from pipeline.backends.tensorflow.variables import handle_of
from pipeline.optimizers import Update

# What optimizers call their arrays, by class and by the name of our own rules. That of SGD is the
# velocity times the rate, with the other sign.
ARRAYS: dict[str, dict[str, str]] = {
    "SGD": {"v": "momentums"},
    "Adam": {"m": "_momentums", "v": "_velocities"},
    "AdamW": {"m": "_momentums", "v": "_velocities"},
    "RMSprop": {"v": "_velocities"},
    "Adagrad": {"a": "_accumulators"},
    "Adadelta": {"u": "_accumulated_delta_vars", "v": "_accumulated_grads"},
}


def make_optimizer(model: Any) -> keras.optimizers.Optimizer:
    """Return the pair's own optimizer for its model; anything else is refused."""
    rule = model.call(model.functions.optimizer, model.module)
    if not isinstance(rule, keras.optimizers.Optimizer):
        kind = type(rule).__name__
        model.refuse(f"tensorflow_optimizer returned a {kind}, no keras.optimizers.Optimizer")
    return rule


def list_slots(rule: keras.optimizers.Optimizer, count: int) -> dict[str, Sequence[Any]]:
    """Return by attribute the lists that an optimizer keeps of a variable for each parameter."""
    return {
        name: value
        for name, value in vars(rule).items()
        if isinstance(value, list) and len(value) == count and name != "_trainable_variables"
        and all(isinstance(each, keras.Variable) for each in value)
    }  # fmt: skip


def make_own(
    model: Any,
    parameters: Sequence[Any],
    loss_of: Callable[..., tf.Tensor],
    update: Update,
) -> Program:
    """Return a step with the pair's own optimizer."""
    rule = make_optimizer(model)
    trained = [i for i, p in enumerate(parameters) if p.trainable]
    rule.build([parameters[i] for i in trained])
    arrays_of, there = ARRAYS[type(rule).__name__], list_slots(rule, len(trained))
    kept = {name: there[arrays_of[name]] for name in update.slots}
    is_scaled = type(rule).__name__ == "SGD"
    begun = float(tf.convert_to_tensor(rule.learning_rate))
    if is_scaled and kept and not begun:
        model.refuse("tensorflow_optimizer: its momentum has no meaning at a first rate of 0")
    is_scaled = is_scaled and bool(kept)
    scale = -1 / begun if is_scaled else 1.0
    begin = {name: [tf.convert_to_tensor(v) for v in values] for name, values in kept.items()}
    variables = [handle_of(p) for p in parameters]
    lacking: set[int] = set()
    rate = {"lr": 0.0}

    def step(parts, scalars, slots, given):
        values, grown, without = [], [], set(range(len(parameters)))
        for x, y, share, *masks in parts:
            with tf.GradientTape() as tape:
                value = loss_of(x, y, *masks)
                if len(parts) > 1:
                    value = value * share
            raw = tape.gradient(value, variables)
            without &= {i for i, g in enumerate(raw) if g is None}
            grown.append(fill_gradients(raw, variables, lacking))
            values.append(value)
        gradients = grown[0] if len(grown) == 1 else [sum(g) for g in zip(*grown, strict=True)]
        used = gradients if given is None else given
        rate["lr"] = float(tf.convert_to_tensor(rule.learning_rate))
        rule.apply_gradients([(used[i], parameters[i]) for i in trained if i not in without])
        changed = [tf.convert_to_tensor(p) for p in parameters]
        value = values[0] if len(values) == 1 else sum(values)
        return value, gradients, changed, read_slots()

    def read_slots():
        rows = []
        for i, p in enumerate(parameters):
            if i in trained:
                place = trained.index(i)
                arrays = [tf.convert_to_tensor(kept[n][place]) for n in update.slots]
                rows.append(tuple(array * scale if is_scaled else array for array in arrays))
            else:
                rows.append(tuple(tf.zeros_like(tf.convert_to_tensor(p)) for _ in update.slots))
        return rows

    def load(slots, k):
        """Put slots where the optimizer keeps them, and its count of steps before k."""
        rule.iterations.assign(k - 1)
        for number, name in enumerate(update.slots):
            for place, i in enumerate(trained):
                value = begin[name][place] if k == 1 else slots[i][number] / scale
                kept[name][place].assign(value)

    return Program(step, lambda k, lr: {"lr": lr}, load, lambda scalars: dict(rate), lacking)


def describe_optimizer(model: Any) -> dict[str, Any]:
    """Return what the pair's own optimizer keeps, and its settings in the meaning of both sides."""
    rule = make_optimizer(model)
    trained = [v for v in model.variables if v.trainable]
    rule.build(trained)
    known, there = ARRAYS.get(type(rule).__name__, {}), list_slots(rule, len(trained))
    unknown = sorted(set(there) - set(known.values()))
    rest = [v for v in rule.variables if v.name not in ("iteration", "learning_rate")]
    if unknown or not known or len(rest) != len(there) * len(trained):
        listed = ", ".join(unknown) or type(rule).__name__
        model.refuse(f"tensorflow_optimizer: no step can begin from the state of {listed}")
    names = [name for name, key in known.items() if key in there]
    config = rule.get_config()
    settings: dict[str, Any] = {"class": type(rule).__name__}
    rate = config.get("learning_rate")
    if isinstance(rate, int | float):
        settings["rate"] = float(tf.convert_to_tensor(rule.learning_rate))
    for ours, theirs in (("epsilon", "epsilon"), ("momentum", "momentum"), ("rho", "rho"),
                         ("beta1", "beta_1"), ("beta2", "beta_2")):  # fmt: skip
        if config.get(theirs) is not None:
            settings[ours] = float(config[theirs])
    clips = [k for k in ("clipnorm", "clipvalue", "global_clipnorm") if config.get(k) is not None]
    settings["clipping"] = {key: config[key] for key in clips} or None
    settings["schedule"] = None
    if isinstance(rate, dict):
        settings["schedule"] = str(rate.get("class_name"))
    settings["average"] = bool(config.get("use_ema"))
    settings["weight decay"] = float(config.get("weight_decay") or 0.0)
    return {"slots": names, "counts_steps": True, "settings": settings}
