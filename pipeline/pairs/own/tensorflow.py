"""A model that is not ours, in TensorFlow, as the loops and the ladder take it."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.ops import nn_ops

from pipeline.config.types import ConfigError
from pipeline.pairs.own.prepared import Prepared, unpack
from pipeline.pairs.own.results import list_outputs
from pipeline.pairs.own.source import find_files, load_functions, run
from pipeline.pairs.pair import Place

SIDE = "tensorflow"


class Own:
    """The user's model, unchanged, called with the arrays that a row of samples holds."""

    def __init__(
        self, *, inputs: tuple[int, ...], outputs: int, prepared: Prepared, **settings: Any
    ) -> None:
        """Make the user's model; `inputs` and `outputs` are the data's, which it may not fit."""
        self.located, self.prepared = find_files(settings)[SIDE], prepared
        self.functions = load_functions(settings, SIDE)
        self.brings_loss = prepared.brings_loss
        self.module = make_model(self.functions.make, run_dtype=prepared.run_dtype)
        if not (callable(self.module) and hasattr(type(self.module), "variables")):
            made = tell_type(self.module)
            self.refuse(f"{self.located.factory}() returned {made}, no keras.Model or tf.Module")
        self.takes_training = find_training(self.module)
        sample = prepared.sample.astype(keras.config.floatx())
        self(tf.constant(sample), training=False)  # makes its variables
        self.tensors = self.variables = list_once(self.module.variables)

    def __call__(self, x: tf.Tensor, *draws: tf.Tensor, training: bool) -> tf.Tensor:
        """Return the tensor that counts of what the model makes of some rows.

        Dropout takes the numbers of `draws` in place of random ones, in their order.
        """
        training = training and self.prepared.trains
        batch = self.to_batch(unpack(x.numpy(), self.prepared.x, name="x"), like=x)
        with replaced(self.in_order(draws)):
            return self.to_output(self.call(self.call_module, batch, training))

    def measure_loss(self, x: tf.Tensor, y: tf.Tensor, *draws: tf.Tensor) -> tf.Tensor:
        """Return the user's own loss of some rows and their targets, a scalar."""
        arrays = unpack(x.numpy(), self.prepared.x, name="x")
        if self.prepared.y is not None:
            arrays |= unpack(y.numpy(), self.prepared.y, name="y")
        with replaced(self.in_order(draws)):
            value = self.call(self.functions.loss, self.module, self.to_batch(arrays, like=x))
        if not tf.is_tensor(value) or value.shape.num_elements() != 1:
            self.refuse(f"tensorflow_loss returned {tell_type(value)}, no scalar tensor")
        return tf.reshape(value, ())

    def in_order(self, draws: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Return the numbers for dropout in the order in which this model draws them."""
        return [draws[number] for number in self.prepared.draw_order] if draws else []

    def to_batch(self, arrays: Mapping[str, np.ndarray], *, like: tf.Tensor) -> Any:
        """Return what the model takes; by default the arrays as they are."""
        batch: Any = dict(arrays)
        if self.functions.batch is not None:
            batch = self.call(self.functions.batch, batch)
        return tf.nest.map_structure(lambda leaf: to_tensor(leaf, like), batch)

    def call_module(self, batch: Any, training: bool) -> Any:
        """Call the model with one array, several by name, or a tuple."""
        mode = {"training": training} if self.takes_training else {}
        if isinstance(batch, Mapping):
            batch = {name: value for name, value in batch.items() if name != "y"}
            if [*batch] == ["x"]:
                return self.module(*batch.values(), **mode)
            first = next(iter(inspect.signature(find_call(self.module)).parameters), "")
            if first not in batch:
                return self.module(batch, **mode)
            return self.module(batch.pop(first), **batch, **mode)
        return self.module(*(batch if isinstance(batch, tuple) else (batch,)), **mode)

    def to_output(self, result: Any) -> tf.Tensor:
        """Return the tensor that counts; several are joined, each as a row for each sample."""
        if self.functions.output is not None:
            result = self.call(self.functions.output, result)
        outputs = list_outputs(result, tf.Tensor)
        if not outputs or any(output.shape.rank == 0 for output in outputs):
            made = tell_type(result)
            self.refuse(f"the model returned {made}; tensorflow_output(result) says what counts")
        if len(outputs) == 1:
            return outputs[0]
        return tf.concat([tf.reshape(each, (each.shape[0], -1)) for each in outputs], axis=1)

    def call(self, function: Any, *arguments: Any) -> Any:
        """Call code of the pair; what it raises becomes one line."""
        return run(self.located, function, *arguments)

    def refuse(self, reason: str) -> Any:
        """Say what is wrong with the pair's code."""
        raise ConfigError(self.located.key, self.located.text, reason)


def make_model(make: Callable[[], Any], *, run_dtype: str) -> Any:
    """Return the user's model, in the precision of now where it is one of tf_keras, too.

    That package has a precision of its own, which is known to be needed once it was imported.

    Parameters
    ----------
    make
        The user's factory.
    run_dtype
        The precision of the run, of which this may be a copy in float64.
    """
    floatx = keras.config.floatx()
    module, legacy = make(), sys.modules.get("tf_keras")
    if legacy is None:
        return module
    is_copy = floatx != run_dtype
    if is_copy and legacy.backend.floatx() != run_dtype:
        legacy.backend.set_floatx(run_dtype)
        module = make()
    fused = [layer.fused is not False for layer in find_norms(module)]
    if legacy.backend.floatx() != floatx:
        legacy.backend.set_floatx(floatx)
        module = make()
    for layer, was_fused in zip(find_norms(module), fused, strict=True):
        if is_copy and was_fused and layer.fused is False:
            unbias_variance(layer)
    return module


def find_norms(module: Any) -> list[Any]:
    """Return the batch norms of tf_keras in a model; Keras 3 has no fused ones."""
    layers = module._flatten_layers() if hasattr(module, "_flatten_layers") else ()
    return [layer for layer in layers if hasattr(layer, "_raise_if_fused_cannot_be_used")]


def unbias_variance(layer: Any) -> None:
    """Let a batch norm in float64 move its variance as in float32, where it is a fused operation.

    That one divides by n - 1 where it sees images, and there is none for float64: without this,
    the copy in float64 would mean something else than the run.
    """
    moments, assign, sizes = layer._moments, layer._assign_moving_average, {"n": 2}

    def note_size(inputs: Any, axes: Sequence[int], *rest: Any, **named: Any) -> Any:
        sizes["n"] = int(np.prod([inputs.shape[axis] for axis in axes]))
        sizes["rank"] = len(inputs.shape)
        return moments(inputs, axes, *rest, **named)

    def assign_unbiased(variable: Any, value: Any, *rest: Any) -> Any:
        if variable is layer.moving_variance and sizes["rank"] in (4, 5):
            value = value * (sizes["n"] / max(sizes["n"] - 1, 1))
        return assign(variable, value, *rest)

    layer._moments, layer._assign_moving_average = note_size, assign_unbiased


@contextlib.contextmanager
def replaced(
    uniforms: Sequence[tf.Tensor], shapes: list[tuple[int, ...]] | None = None
) -> Iterator[None]:
    """Let dropout take given numbers, and never replace its arithmetic: a wrong scale is seen.

    Parameters
    ----------
    uniforms
        Between 0 and 1, kept where they are below what is kept; beyond the last one it draws.
    shapes
        Filled with the shapes of what is drawn.
    """
    if not uniforms and shapes is None:
        yield
        return
    waiting, dropout = list(uniforms), nn_ops._dropout

    def instead(*, uniform_sampler: Any, **named: Any) -> Any:
        def sample(shape: Any, dtype: Any) -> tf.Tensor:
            if shapes is not None:
                shapes.append(tuple(int(size) for size in shape))
            if not waiting:
                return uniform_sampler(shape=shape, dtype=dtype)
            return tf.cast(1 - waiting.pop(0), dtype)

        return dropout(uniform_sampler=sample, **named)

    nn_ops._dropout = instead
    try:
        yield
    finally:
        nn_ops._dropout = dropout


def list_draws(model: Own, x: np.ndarray) -> list[tuple[int, ...]]:
    """Return the shapes of what a training pass over some rows draws, in their order."""
    shapes: list[tuple[int, ...]] = []
    with replaced((), shapes):
        model(tf.constant(x.astype(keras.config.floatx())), training=True)
    return shapes


def train_outputs(model: Own, x: np.ndarray, numbers: Sequence[np.ndarray]) -> np.ndarray:
    """Return the outputs of some rows in training mode, with given numbers for dropout."""
    dtype = keras.config.floatx()
    with replaced([tf.constant(number, dtype) for number in numbers]):
        outputs: np.ndarray = model(tf.constant(x.astype(dtype)), training=True).numpy()
    return outputs


def tell_type(value: Any) -> str:
    """Return what a value is, in a word."""
    shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
    return "nothing" if value is None else f"a {type(value).__name__}{shape}"


def find_call(module: Any) -> Any:
    """Return what a model is called by: its method ``call``, or ``__call__`` of a tf.Module."""
    return getattr(module, "call", None) or module.__call__


def find_training(module: Any) -> bool:
    """Whether a model is told the mode: it has an argument ``training``, or is a graph of layers.

    A subclassed model without that argument cannot be told; its layers then do as it calls them.
    """
    parameters = inspect.signature(find_call(module)).parameters
    return "training" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def list_once(variables: Any) -> list[Any]:
    """Return variables in their order, each once."""
    listed = {
        (variable if isinstance(variable, tf.Variable) else variable.value).ref(): variable
        for variable in variables
    }
    return [*listed.values()]


def to_tensor(leaf: Any, like: tf.Tensor) -> Any:
    """Return an array as a tensor; floats in the precision of the run."""
    if not isinstance(leaf, np.ndarray):
        return leaf
    return tf.constant(leaf.astype(like.dtype.as_numpy_dtype) if leaf.dtype.kind == "f" else leaf)


def name_map(model: Own) -> Mapping[str, Place]:
    """Return where each parameter lives, as the map of the pair has it."""
    return model.prepared.places[SIDE]


def list_ignored(model: Own) -> Collection[str]:
    """Return the paths of tensors that have no partner and stay as they were made."""
    return model.prepared.ignored.get(SIDE, ())
