"""Reading and changing the tensors of any model in PyTorch, by the paths that it has itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from pipeline.backends.base import Arrays, Settings, Tensor
from pipeline.backends.torch.tensors import to_tensor
from pipeline.watching import seen


def list_tensors(model: nn.Module) -> list[Tensor]:
    """Return the floating parameters and buffers of a model in the order in which it has them.

    A tensor that is used at several places is there once.
    """
    modules = dict(model.named_modules())
    listed = []
    for path, tensor in find_tensors(model).items():
        parent, _, attribute = path.rpartition(".")
        owner = modules[parent]
        listed.append(
            Tensor(
                path=path,
                name=path.removeprefix("module."),
                shape=tuple(tensor.shape),
                trained=tensor.requires_grad,
                is_buffer=not isinstance(tensor, nn.Parameter),
                layer=parent,
                owner=find_class(owner),
                attribute=attribute,
            )
        )
    return listed


def find_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's floating tensors by path."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {path: tensor for path, tensor in tensors if tensor.is_floating_point()}


def find_class(layer: nn.Module) -> str:
    """Return the name of the framework's class that a layer is or comes from; else its own."""
    kinds = [kind for kind in type(layer).__mro__ if kind.__module__.startswith("torch.nn")]
    plain = {"Module", "Sequential", "ModuleList", "ModuleDict"}
    names = (kind.__name__ for kind in kinds if kind.__name__ not in plain)
    return next(names, type(layer).__name__)


def read(tensor: Any) -> np.ndarray:
    """Return a tensor as an array."""
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array


def read_tensors(model: nn.Module) -> Arrays:
    """Return the values of a model's floating tensors by path."""
    return {path: t.detach().cpu().numpy().copy() for path, t in find_tensors(model).items()}


def write_tensors(model: nn.Module, values: Mapping[str, np.ndarray]) -> None:
    """Put values, in the framework's own layout, into a model's tensors."""
    tensors = find_tensors(model)
    with torch.no_grad():
        for path, value in values.items():
            tensors[path].copy_(torch.from_numpy(np.array(value, order="C")))


def load_weights(model: Any, path: str) -> None:
    """Load a checkpoint into the user's own module; nothing in it is unpickled."""
    if path.endswith(".safetensors"):
        state = safetensors.torch.load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    model.module.load_state_dict(state, strict=True)


def differentiate(model: nn.Module, x: np.ndarray, weights: np.ndarray | None) -> tuple:
    """Return the outputs of some rows in evaluation mode, and by path the gradients of their sum.

    With `weights`, of the shape of the outputs, of the sum weighted by them; with None there are no
    gradients. A tensor without one is not there.
    """
    like = next(iter(find_tensors(model).values()))
    before = model.training
    model.eval()
    try:
        outputs = model(to_tensor(x, like))
        if weights is None:
            return outputs.detach().cpu().numpy(), {}
        model.zero_grad()
        (outputs * to_tensor(weights, outputs)).sum().backward()
    finally:
        model.train(before)
    tensors = find_tensors(model)
    gradients = {p: t.grad.cpu().numpy().copy() for p, t in tensors.items() if t.grad is not None}
    model.zero_grad()
    return outputs.detach().cpu().numpy(), gradients


def list_calls(model: nn.Module, x: np.ndarray) -> list[str]:
    """Return the layers that a pass over some rows calls, in their order, each once."""
    called: dict[str, None] = {}

    def note(path: str, layer: nn.Module, given: Any) -> None:
        called.setdefault(path)

    hooks = [
        layer.register_forward_pre_hook(partial(note, path))
        for path, layer in model.named_modules()
    ]
    try:
        differentiate(model, x, None)
    finally:
        for hook in hooks:
            hook.remove()
    return [*called]


@contextlib.contextmanager
def move_leaks(rng: np.random.Generator) -> Iterator[None]:
    """Move each float32 number that an operation takes by one rounding of it, up or down at random.

    In a program in float64 those are leaks: constants and tables of code that was written for
    float32. What is written into, or seen in another shape, is left as it is.
    """
    unit = torch.finfo(torch.float32).eps

    def move(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or leaf.dtype != torch.float32:
            return leaf
        drawn = torch.from_numpy(rng.choice([-1, 1], size=tuple(leaf.shape))).to(leaf.device)
        return leaf * (1 + unit * drawn).to(torch.float32)

    class Moving(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, kinds: Any, arguments: Any = (), named: Any = None
        ) -> Any:
            if not (function._schema.is_mutable or function.is_view):
                arguments, named = tree_map(move, (arguments, named))
            return function(*arguments, **named or {})

    with Moving():
        yield


def list_settings(model: nn.Module) -> dict[str, Settings]:
    """Return by layer what can be read of its settings, in the meaning of both frameworks."""
    listed = {}
    for path, layer in model.named_modules():
        settings = read_settings(layer)
        if settings:
            listed[path] = Settings(find_class(layer), settings)
    return listed


def read_settings(layer: nn.Module) -> dict[str, Any]:
    """Return the settings of one layer; empty of one that has none that are known."""
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        decay = None if layer.momentum is None else 1 - layer.momentum
        return {"epsilon": layer.eps, "decay": decay}
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        return {"epsilon": layer.eps}
    if isinstance(layer, nn.GroupNorm):
        return {"epsilon": layer.eps, "groups": layer.num_groups}
    if isinstance(layer, nn.modules.conv._ConvNd):
        padding: Any = layer.padding
        if not isinstance(padding, str):
            padding = [[side, side] for side in padding]
        return {
            "stride": list(layer.stride), "dilation": list(layer.dilation),
            "groups": layer.groups, "padding": padding, "bias": layer.bias is not None,
        }  # fmt: skip
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        return {"rate": layer.p}
    if isinstance(layer, nn.Linear):
        return {"bias": layer.bias is not None}
    if isinstance(layer, nn.RNNBase):
        return {"bias": layer.bias, "bidirectional": layer.bidirectional}
    return {}


@contextlib.contextmanager
def watch_layers(model: nn.Module, layers: Mapping[str, str]) -> Iterator[None]:
    """Show what some layers return, by neutral name and with channels last.

    Parameters
    ----------
    layers
        Their paths in the model by neutral name. A layer that is called again has a number.
    """
    calls: dict[str, int] = {}
    hooks = [
        model.get_submodule(path).register_forward_hook(partial(_show, name, calls))
        for name, path in layers.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _show(name: str, calls: dict[str, int], layer: nn.Module, given: Any, result: Any) -> None:
    """Show the result of one call of a layer."""
    calls[name] = calls.get(name, 0) + 1
    if isinstance(result, torch.Tensor):
        called = name if calls[name] == 1 else f"{name}#{calls[name]}"
        seen(called, result, find_axes(layer, result))


def find_axes(layer: nn.Module, result: torch.Tensor) -> tuple[int, ...] | None:
    """Return how channels-last axes stand in what a layer returns; None where they are last."""
    first = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
    if isinstance(layer, first) and result.ndim > 2:
        return (0, result.ndim - 1, *range(1, result.ndim - 1))
    return None


def number_layers(model: nn.Module) -> dict[str, str]:
    """Return by name the paths of a model's layers that are compared: all inside it."""
    return {path: path for path, _ in model.named_modules() if path not in ("", "module")}
