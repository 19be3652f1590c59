"""A model that is not ours, in PyTorch, as the loops and the ladder take it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from pipeline.config.types import ConfigError
from pipeline.pairs.own.prepared import Prepared, Regroup, unpack
from pipeline.pairs.own.results import list_outputs
from pipeline.pairs.own.source import find_files, load_functions, run
from pipeline.pairs.pair import Place

SIDE = "torch"


class Own(nn.Module):
    """The user's module, unchanged, called with the arrays that a row of samples holds."""

    def __init__(
        self, *, inputs: tuple[int, ...], outputs: int, prepared: Prepared, **settings: Any
    ) -> None:
        """Make the user's model; `inputs` and `outputs` are the data's, which it may not fit."""
        super().__init__()
        self.located, self.prepared = find_files(settings)[SIDE], prepared
        self.functions = load_functions(settings, SIDE)
        self.brings_loss = prepared.brings_loss
        self.module = self.functions.make()
        if not isinstance(self.module, nn.Module):
            self.refuse(f"{self.located.factory}() returned {tell_type(self.module)}, no nn.Module")
        self.fills: list[Callable[[], None]] = []
        self.regroup(prepared.regroups)

    def forward(self, x: torch.Tensor, *draws: torch.Tensor) -> torch.Tensor:
        """Return the tensor that counts of what the model makes of some rows.

        Dropout takes the numbers of `draws` in place of random ones, in their order.
        """
        self.fill()
        batch = self.to_batch(unpack(to_array(x), self.prepared.x, name="x"), like=x)
        with self.replaced(draws):
            return self.to_output(self.call(self.call_module, batch), rows=x)

    def train(self, mode: bool = True) -> Own:
        """Set the mode; where inference alone is judged it stays that of evaluation."""
        super().train(mode and self.prepared.trains)
        return self

    def can_regroup(self, group: Regroup) -> bool:
        """Whether nothing but its layer knows the parameters of a group."""
        named = [*self.named_parameters(remove_duplicate=False)]
        for path in group.paths:
            tensor = self.get_parameter(path)
            owners = [other for other, each in named if each is tensor]
            hooks = tensor._backward_hooks, tensor._post_accumulate_grad_hooks
            if len(owners) > 1 or any(hooks):
                return False
        return True

    def regroup(self, groups: Sequence[Regroup]) -> None:
        """Hold parameters in parts, or together, as the other framework holds them."""
        self.fills += [regroup(self, group) for group in groups]

    def fill(self) -> None:
        """Make the module's own tensors of what is held in parts, or together."""
        for fill in self.fills:
            fill()

    def replaced(self, draws: Sequence[torch.Tensor]) -> contextlib.AbstractContextManager[Any]:
        """Return what replaces dropout's random numbers, if there are any."""
        axes = [draw.axes for draw in self.prepared.draws]
        return Draws(draws, axes) if draws else contextlib.nullcontext()

    def measure_loss(self, x: torch.Tensor, y: torch.Tensor, *draws: torch.Tensor) -> torch.Tensor:
        """Return the user's own loss of some rows and their targets, a scalar."""
        self.fill()
        arrays = unpack(to_array(x), self.prepared.x, name="x")
        if self.prepared.y is not None:
            arrays |= unpack(to_array(y), self.prepared.y, name="y")
        with self.replaced(draws):
            value = self.call(self.functions.loss, self.module, self.to_batch(arrays, like=x))
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            self.refuse(f"torch_loss returned {tell_type(value)}, no scalar tensor")
        if torch.is_grad_enabled() and not value.requires_grad:
            self.refuse("torch_loss returned a tensor that no gradient leads through")
        return value.reshape(())

    def to_batch(self, arrays: Mapping[str, np.ndarray], *, like: torch.Tensor) -> Any:
        """Return what the model takes; by default images with their channels in front."""
        batch: Any = dict(arrays)
        if self.functions.batch is not None:
            batch = self.call(self.functions.batch, batch)
        else:
            batch = {name: channels_first(array) for name, array in batch.items()}
        return tree_map(lambda leaf: to_tensor(leaf, like), batch)

    def call_module(self, batch: Any) -> Any:
        """Call the model with one array, several by name, or a tuple."""
        if isinstance(batch, Mapping):
            batch = {name: value for name, value in batch.items() if name != "y"}
            return self.module(*batch.values()) if [*batch] == ["x"] else self.module(**batch)
        return self.module(*batch) if isinstance(batch, tuple) else self.module(batch)

    def to_output(self, result: Any, *, rows: torch.Tensor) -> torch.Tensor:
        """Return the tensor that counts, with channels last as in the other framework.

        Several are joined, each as a row for each sample.
        """
        if self.functions.output is not None:
            result = self.call(self.functions.output, result)
        outputs = list_outputs(result, torch.Tensor)
        if not outputs or any(output.ndim == 0 for output in outputs):
            made = tell_type(result)
            self.refuse(f"the model returned {made}; torch_output(result) says what counts")
        if rows.ndim == 4 and self.functions.batch is None:
            outputs = [o.permute(0, 2, 3, 1) if o.ndim == 4 else o for o in outputs]
        if len(outputs) == 1:
            return outputs[0]
        return torch.cat([output.reshape(len(output), -1) for output in outputs], dim=1)

    def call(self, function: Any, *arguments: Any) -> Any:
        """Call code of the pair; what it raises becomes one line."""
        return run(self.located, function, *arguments)

    def refuse(self, reason: str) -> Any:
        """Say what is wrong with the pair's code."""
        raise ConfigError(self.located.key, self.located.text, reason)


def regroup(model: nn.Module, each: Regroup) -> Callable[[], None]:
    """Replace parameters of a model by others, and return what fills the old ones before a pass.

    A fused projection for query, key and value is three kernels in Keras, and both biases of a GRU
    are one. The user's module still sees its own tensors: before each pass they are made of what is
    trained here by slicing or joining, which is exact, and gradients lead through it.
    """
    owners = [model.get_submodule(path.rpartition(".")[0]) for path in each.paths]
    names = [path.rpartition(".")[2] for path in each.paths]
    values = [
        owner._parameters.pop(name).detach() for owner, name in zip(owners, names, strict=True)
    ]
    if each.parts > 1:
        (value,) = values
        held = value.chunk(each.parts)
        labels = [f"{names[0]}_{i}" for i in range(each.parts)]
    else:
        held = (torch.stack(values, dim=-1) if each.stacked else torch.cat(values),)
        labels = ["+".join(each.labels)]
    for label, value in zip(labels, held, strict=True):
        owners[0].register_parameter(label, nn.Parameter(value.clone()))

    def fill() -> None:
        tensors = [owners[0]._parameters[label] for label in labels]
        if each.parts > 1:
            setattr(owners[0], names[0], torch.cat(tensors))
            return
        parts = tensors[0].unbind(-1) if each.stacked else tensors[0].chunk(len(names))
        for owner, name, part in zip(owners, names, parts, strict=True):
            setattr(owner, name, part)

    fill()
    return fill


class Draws(TorchDispatchMode):
    """Inside it dropout takes given numbers, and never its arithmetic: a wrong scale is still seen.

    Parameters
    ----------
    uniforms
        Between 0 and 1, as TensorFlow draws them; what is beyond the last one is drawn.
    axes
        Of each, the order in which its axes stand here; None for the same.
    """

    def __init__(
        self, uniforms: Sequence[torch.Tensor], axes: Sequence[tuple[int, ...] | None]
    ) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []
        self.waiting = list(zip(uniforms, axes, strict=True))

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        """Replace the result of a draw."""
        if function is not torch.ops.aten.bernoulli_.float:
            return function(*arguments, **named or {})
        target, *rest = arguments
        self.shapes.append(tuple(target.shape))
        if not self.waiting:
            return function(*arguments, **named or {})
        uniform, axes = self.waiting.pop(0)
        uniform = uniform if axes is None else uniform.permute(axes)
        keep = rest[0] if rest else (named or {}).get("p", 0.5)
        return target.copy_(uniform < keep)


def list_draws(model: Own, x: np.ndarray) -> list[tuple[int, ...]]:
    """Return the shapes of what a training pass over some rows draws, in their order."""
    before = model.training
    model.train()
    with torch.no_grad(), Draws((), ()) as draws:
        model(torch.from_numpy(x).to(torch.get_default_dtype()))
    model.train(before)
    return draws.shapes


def train_outputs(model: Own, x: np.ndarray, numbers: Sequence[np.ndarray]) -> np.ndarray:
    """Return the outputs of some rows in training mode, with given numbers for dropout."""
    before, dtype = model.training, torch.get_default_dtype()
    model.train()
    with torch.no_grad():
        draws = [torch.from_numpy(number).to(dtype) for number in numbers]
        outputs = to_array(model(torch.from_numpy(x).to(dtype), *draws))
    model.train(before)
    return outputs


def tell_type(value: Any) -> str:
    """Return what a value is, in a word."""
    shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
    return "nothing" if value is None else f"a {type(value).__name__}{shape}"


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor as an array in the main memory."""
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array


def to_tensor(leaf: Any, like: torch.Tensor) -> Any:
    """Return an array as a tensor on a device; floats in the precision of the run."""
    if isinstance(leaf, np.ndarray):
        leaf = torch.from_numpy(np.ascontiguousarray(leaf))
        if leaf.is_floating_point():
            leaf = leaf.to(like.dtype)
    return leaf.to(like.device) if isinstance(leaf, torch.Tensor) else leaf


def channels_first(array: np.ndarray) -> np.ndarray:
    """Return floating images ``(n, h, w, c)`` as ``(n, c, h, w)``, and all else as it is."""
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 and array.dtype.kind == "f" else array


def name_map(model: Own) -> Mapping[str, Place]:
    """Return where each parameter lives, as the map of the pair has it."""
    return model.prepared.places[SIDE]


def list_ignored(model: Own) -> Collection[str]:
    """Return the paths of tensors that have no partner and stay as they were made."""
    return model.prepared.ignored.get(SIDE, ())
