"""Parameters held in parts, or together, as the other framework holds the same numbers.

A fused projection for query, key and value is three kernels in Keras, and both biases of a GRU are
one. The user's module still sees its own tensors: before each pass they are made of what is trained
here by slicing or joining, which is exact, and gradients lead through it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pipeline.pairs.own.prepared import Regroup


def regroup(model: nn.Module, each: Regroup) -> Callable[[], None]:
    """Replace parameters of a model by others, and return what fills the old ones before a pass."""
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
