"""What a model shows in PyTorch: predictions, layers, and what its operations did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.backends.base import (
    Arrays,
    Observed,
)
from pipeline.backends.torch import edit
from pipeline.backends.torch.tensors import to_array, to_tensor
from pipeline.pairs.arrange import to_neutral
from pipeline.watching import watched


def predict(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """Return the model's outputs in evaluation mode."""
    before = model.training
    model.eval()
    with torch.no_grad():
        outputs = model(to_tensor(x, next(model.parameters()))).cpu().numpy()
    model.train(before)
    return outputs


def layers(model: nn.Module, x: np.ndarray, masks: Sequence[np.ndarray]) -> Arrays:
    """Return what the twin shows of one batch in training mode, and its ``output``."""
    like = next(model.parameters())
    model.train()
    with torch.no_grad(), watched() as watched_values, edit.watch_layers(model, find_shown(model)):
        output = model(to_tensor(x, like), *(to_tensor(mask, like) for mask in masks))
    return {
        name: to_neutral(axes, value.cpu().numpy())
        for name, (value, axes) in (watched_values | {"output": (output, None)}).items()
    }


def find_shown(model: Any) -> Mapping[str, Any]:
    """Return the layers that a model which is not ours shows; a twin of ours shows its own."""
    prepared = getattr(model, "prepared", None)
    return {} if prepared is None else prepared.layers.get("torch", {})


def scale(x: torch.Tensor, factors_of: Callable[[np.ndarray], np.ndarray]) -> torch.Tensor:
    """Return an intermediate result times factors that follow from its values."""
    return x * to_tensor(factors_of(to_array(x)), x)


def observe(call: Callable[[], object]) -> Observed:
    """Return what the operations of a call, run eagerly, were seen to do."""
    types, draws = set(), set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, kinds, arguments=(), named=None):
            result = function(*arguments, **named or {})
            for value in tree_leaves((arguments, named, result)):
                if isinstance(value, torch.Tensor) and value.is_floating_point():
                    types.add(str(value.dtype).removeprefix("torch."))
            if torch.Tag.nondeterministic_seeded in function.tags:
                draws.add(str(function))
            return result

    with Watch():
        call()
    return Observed(frozenset(types), frozenset(draws))
