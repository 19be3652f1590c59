"""Reading and changing the tensors of any model in TensorFlow, by the paths that it has itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.ops import gen_math_ops

from pipeline.backends.base import Arrays, Settings, Tensor
from pipeline.backends.tensorflow.tensors import to_tensors
from pipeline.backends.tensorflow.variables import handle_of
from pipeline.watching import seen


def list_tensors(model: Any) -> list[Tensor]:
    """Return the floating variables of a model in the order in which it has them.

    A variable that is used at several places is there once.
    """
    owners = {
        reference: (layer, attribute)
        for layer in walk_layers(model.module)
        for attribute, reference in find_variables_of(layer)
    }
    listed = []
    names, called = name_variables(model), name_layers(model.module)
    for path, variable in find_tensors(model).items():
        layer, attribute = owners.get(handle_of(variable).ref(), (None, ""))
        name = names[path]
        parent, _, last = name.rpartition("/")
        listed.append(
            Tensor(
                path=path,
                name=name,
                shape=tuple(variable.shape),
                trained=bool(variable.trainable),
                is_buffer=not variable.trainable,
                layer=parent if layer is None else called[id(layer)],
                owner="" if layer is None else find_class(layer),
                attribute=attribute.removeprefix("_") or last,
            )
        )
    return listed


def walk_layers(module: Any) -> Iterator[Any]:
    """Yield a model and all layers and modules inside it, each once, the inner ones last."""
    if hasattr(module, "_flatten_layers"):
        yield from module._flatten_layers()
        return
    seen_modules, waiting = {id(module)}, [module]
    while waiting:
        yield waiting[0]
        for _, inner in list_children(waiting.pop(0)):
            if id(inner) not in seen_modules:
                seen_modules.add(id(inner))
                waiting.append(inner)


def name_layers(module: Any) -> dict[int, str]:
    """Return what each layer of a model is called, by its identity: the attributes that lead there.

    The model itself has an empty name. A layer of a graph of layers has the name that Keras gave
    it, and what no attribute leads to as well.
    """
    called: dict[int, str] = {id(module): ""}
    waiting = [(module, "")]
    while waiting:
        parent, path = waiting.pop(0)
        for name, layer in list_children(parent):
            if id(layer) not in called:
                called[id(layer)] = f"{path}/{name}".removeprefix("/")
                waiting.append((layer, called[id(layer)]))
    for layer in walk_layers(module):
        called.setdefault(id(layer), str(getattr(layer, "path", None) or type(layer).__name__))
    return called


def list_children(parent: Any) -> Iterator[tuple[str, Any]]:
    """Yield the layers that a layer or module holds in attributes, or as a graph, with names."""
    if type(parent).__name__ in ("Sequential", "Functional"):
        yield from ((layer.name, layer) for layer in parent.layers)
        return
    for attribute, value in vars(parent).items():
        if attribute.startswith("_"):
            continue
        items = {"": value}
        if isinstance(value, list | tuple):
            items = {f".{i}": each for i, each in enumerate(value)}
        elif isinstance(value, dict):
            items = {f".{key}": each for key, each in value.items()}
        for suffix, each in items.items():
            if isinstance(each, keras.Layer | tf.Module):
                yield f"{attribute}{suffix}", each


def find_variables_of(layer: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of a layer that are variables, and a reference to each."""
    for attribute, value in vars(layer).items():
        if isinstance(value, keras.Variable | tf.Variable):
            yield attribute, handle_of(value).ref()


def find_tensors(model: Any) -> dict[str, Any]:
    """Return a model's floating variables by path."""
    numbered = enumerate(model.tensors)
    return {f"tensors.{i}": v for i, v in numbered if tf.as_dtype(v.dtype).is_floating}


def name_variables(model: Any) -> dict[str, str]:
    """Return by path a name for each variable that is its alone.

    By the attributes that lead to its layer; else by Keras's name, which is no path, because Keras
    counts the layers of a process in it.
    """
    called = name_layers(model.module)
    by_layer = {
        reference: f"{called[id(layer)]}/{attribute.removeprefix('_')}".removeprefix("/")
        for layer in walk_layers(model.module)
        for attribute, reference in find_variables_of(layer)
    }
    names: dict[str, str] = {}
    for i, variable in enumerate(model.tensors):
        base = getattr(variable, "path", None) or variable.name.partition(":")[0]
        base = by_layer.get(handle_of(variable).ref(), base)
        name, number = base, 1
        while name in names.values():
            number += 1
            name = f"{base}_{number}"
        names[f"tensors.{i}"] = name
    return names


def find_class(layer: Any) -> str:
    """Return the name of the framework's class that a layer is or comes from; else its own."""
    names = [
        kind.__name__
        for kind in type(layer).__mro__
        if kind.__module__.startswith(("keras.", "tf_keras.", "tensorflow."))
    ]
    plain = {"Layer", "Model", "Module", "Sequential", "Functional"}
    return next((name for name in names if name not in plain), type(layer).__name__)


def read(tensor: Any) -> np.ndarray:
    """Return a tensor as an array."""
    array: np.ndarray = tensor.numpy()
    return array


def read_tensors(model: Any) -> Arrays:
    """Return the values of a model's floating variables by path."""
    return {path: tf.convert_to_tensor(v).numpy() for path, v in find_tensors(model).items()}


def write_tensors(model: Any, values: Mapping[str, np.ndarray]) -> None:
    """Put values, in the framework's own layout, into a model's variables."""
    variables = find_tensors(model)
    for path, value in values.items():
        (tensor,) = to_tensors([np.array(value, order="C")], variables[path])
        handle_of(variables[path]).assign(tensor)


def load_weights(model: Any, path: str) -> None:
    """Load a checkpoint into the user's own model; nothing in it is unpickled."""
    model.module.load_weights(path)


def differentiate(model: Any, x: np.ndarray, weights: np.ndarray | None) -> tuple:
    """Return the outputs of some rows in evaluation mode, and by path the gradients of their sum.

    With `weights`, of the shape of the outputs, of the sum weighted by them; with None there are no
    gradients. A tensor without one is not there.
    """
    variables = find_tensors(model)
    (rows,) = to_tensors([x], next(iter(variables.values())))
    trained = {path: handle_of(v) for path, v in variables.items() if v.trainable}
    with tf.GradientTape() as tape:
        outputs = model(rows, training=False)
        weighted = None if weights is None else outputs * tf.constant(weights, outputs.dtype)
    if weights is None:
        return outputs.numpy(), {}
    gradients = tape.gradient(weighted, trained)
    return outputs.numpy(), {
        path: tf.convert_to_tensor(g).numpy() for path, g in gradients.items() if g is not None
    }


@contextlib.contextmanager
def move_leaks(rng: np.random.Generator) -> Iterator[None]:
    """Move each number that is cast from float32 to float64 by one rounding, up or down at random.

    In a program in float64 those are leaks: constants and tables of code that was written for
    float32. TensorFlow casts nothing by itself, so that no leak gets by without this operation.
    """
    cast, unit = gen_math_ops.cast, float(np.finfo(np.float32).eps)

    def moving(x: Any, DstT: Any, *rest: Any, **named: Any) -> Any:
        result = cast(x, DstT, *rest, **named)
        if tf.as_dtype(DstT) != tf.float64 or getattr(x, "dtype", None) != tf.float32:
            return result
        drawn = rng.choice([-1, 1], size=tuple(result.shape))
        return result * tf.constant(1 + unit * drawn, tf.float64)

    gen_math_ops.cast = moving
    try:
        yield
    finally:
        gen_math_ops.cast = cast


def list_settings(model: Any) -> dict[str, Settings]:
    """Return by layer what can be read of its settings, in the meaning of both frameworks."""
    listed, called = {}, name_layers(model.module)
    for layer in walk_layers(model.module):
        settings = read_settings(layer)
        if settings:
            listed[called[id(layer)]] = Settings(find_class(layer), settings)
    return listed


def read_settings(layer: Any) -> dict[str, Any]:
    """Return the settings of one layer; empty of one that has none that are known.

    By the names of classes, which Keras 3 and tf_keras share.
    """
    kind = find_class(layer)
    if kind == "BatchNormalization":
        return {"epsilon": layer.epsilon, "decay": layer.momentum}
    if kind in ("LayerNormalization", "RMSNormalization"):
        return {"epsilon": layer.epsilon}
    if kind == "GroupNormalization":
        return {"epsilon": layer.epsilon, "groups": layer.groups}
    if kind.startswith(("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv")):
        stride, dilation = list(layer.strides), list(layer.dilation_rate)
        padding: Any = layer.padding
        if padding == "valid":
            padding = [[0, 0]] * len(stride)
        if padding == "same" and set(stride) == {1} and not kind.endswith("Transpose"):
            total = [(k - 1) * d for k, d in zip(layer.kernel_size, dilation, strict=True)]
            padding = [[size // 2, size - size // 2] for size in total]
        groups = {} if kind.startswith("Depthwise") else {"groups": getattr(layer, "groups", 1)}
        return {
            "stride": stride, "dilation": dilation, "padding": padding, "bias": layer.use_bias,
        } | groups  # fmt: skip
    if kind.endswith("Dropout"):
        return {"rate": layer.rate}
    if kind == "Dense":
        return {"bias": layer.use_bias}
    if kind in ("LSTM", "GRU", "SimpleRNN"):
        return {"bias": layer.use_bias, "bidirectional": False}
    return {}


@contextlib.contextmanager
def watch_layers(model: Any, layers: Mapping[str, int]) -> Iterator[None]:
    """Show what some layers return, by neutral name; their results have channels last.

    Parameters
    ----------
    layers
        Which of the model's layers they are, by neutral name. A layer that is called again has a
        number.
    """
    if not layers:
        yield
        return
    numbered = [*walk_layers(model.module)]
    names = {id(numbered[number]): name for name, number in layers.items()}
    calls: dict[str, int] = {}

    def show(layer: Any, result: Any) -> None:
        name = names.get(id(layer))
        if name is not None and tf.is_tensor(result):
            calls[name] = calls.get(name, 0) + 1
            seen(name if calls[name] == 1 else f"{name}#{calls[name]}", result)

    with watch_calls(numbered, after=show):
        yield


@contextlib.contextmanager
def watch_calls(
    layers: Sequence[Any],
    *,
    before: Callable[[Any], None] | None = None,
    after: Callable[[Any, Any], None] | None = None,
) -> Iterator[None]:
    """Be told of each call of layers of Keras, before it, and after it with its result.

    Their class's method is replaced meanwhile: Keras has no hooks.
    """

    def watch(kind: type) -> Callable[..., Any]:
        call = kind.__call__

        def watched_call(self: Any, *arguments: Any, **named: Any) -> Any:
            if before is not None:
                before(self)
            result = call(self, *arguments, **named)
            if after is not None:
                after(self, result)
            return result

        kind.__call__ = watched_call  # type: ignore[method-assign]
        return call

    kinds = {base for layer in layers for base in type(layer).__mro__ if "__call__" in vars(base)
             and base.__name__ == "Layer"}  # fmt: skip
    replaced = {kind: watch(kind) for kind in kinds}
    try:
        yield
    finally:
        for kind, call in replaced.items():
            kind.__call__ = call  # type: ignore[method-assign]


def list_calls(model: Any, x: np.ndarray) -> list[str]:
    """Return the layers that a pass over some rows calls, in their order, each once."""
    names, called = name_layers(model.module), dict[str, None]()
    layers = [*walk_layers(model.module)]
    with watch_calls(layers, before=lambda layer: called.setdefault(names.get(id(layer), ""))):
        differentiate(model, x, None)
    return [*called]


def number_layers(model: Any) -> dict[str, int]:
    """Return by name which layers inside a model are compared: those that return no activation.

    One with an activation inside returns another thing than its twin, which has it beside.
    """
    numbered, called = {}, name_layers(model.module)
    for number, layer in enumerate(walk_layers(model.module)):
        activation = getattr(layer, "activation", None)
        is_plain = activation is None or getattr(activation, "__name__", "") == "linear"
        if number and is_plain and hasattr(layer, "weights"):
            numbered[called[id(layer)]] = number
    return numbered
