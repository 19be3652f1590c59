"""Arrays as PyTorch holds them, batches cut into updates, and the operations of the losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.backends.base import (
    Masks,
)
from pipeline.data.batches import AnyBatches, cuts

OPS = SimpleNamespace(
    mean=torch.mean,
    sum=partial(torch.sum, dim=-1, keepdim=True),
    total=torch.sum,
    square=torch.square,
    sqrt=torch.sqrt,
    absolute=torch.abs,
    minimum=lambda a, most: torch.clamp(a, max=most),
    maximum=lambda a, least: torch.clamp(a, min=least),
    logsumexp=partial(torch.logsumexp, dim=-1, keepdim=True),
    top=lambda z: torch.amax(z.detach(), dim=-1, keepdim=True),
    softplus=partial(nn.functional.softplus, beta=1, threshold=40),
)


def to_tensor(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """Return an array as a tensor of the type, and on the device, of another one."""
    return torch.as_tensor(array).to(dtype=like.dtype, device=like.device)


def to_tensors(arrays: Iterable[np.ndarray], like: torch.Tensor) -> list[torch.Tensor]:
    """Return arrays as tensors of the type, and on the device, of another one."""
    return [to_tensor(array, like) for array in arrays]


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor as a NumPy array in the main memory; it may share the tensor's memory."""
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array


def cut_updates(
    batches: AnyBatches, epoch: int, *, group: int, like: torch.Tensor
) -> Iterator[list]:
    """Yield what each update of an epoch sees: some batches ``(x, y, share of the update)``."""
    for x_block, y_block in batches.blocks(epoch):
        lengths, shares = cuts(len(x_block), size=batches.size, group=group)
        xs = torch.split(to_tensor(x_block, like), lengths)
        ys = torch.split(to_tensor(y_block, like), lengths)
        parts = list(zip(xs, ys, shares, strict=True))
        yield from (parts[i : i + group] for i in range(0, len(parts), group))


def add_masks(parts: list, masks: Masks, k: int) -> list:
    """Add to each batch of an update its dropout masks."""
    drawn = masks(k, [len(y) for _, y, _ in parts])
    return [
        (x, y, share, *(to_tensor(m, x) for m in part_masks))
        for (x, y, share), part_masks in zip(parts, drawn, strict=True)
    ]


def to_scalars(values: Mapping[str, float], like: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return numbers as tensors, which a compiled step takes without being compiled anew."""
    return {
        name: torch.tensor(v, dtype=like.dtype, device=like.device) for name, v in values.items()
    }


def make_copier(parameter: torch.Tensor) -> Callable[[], Any]:
    """Return what copies a parameter; NumPy does it at a tenth of the price where it can."""
    value = parameter.detach()
    return value.clone if value.is_cuda else value.numpy().copy


def shorten_gradients(gradients: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Return what has the gradients' norm: they themselves, or on a GPU a number, soon copied."""
    return [nn.utils.get_total_norm(gradients)] if gradients[0].is_cuda else gradients


def stack_rows(rows: Sequence[Any]) -> np.ndarray:
    """Return values of equal shape, one for each step, as one array with a row a step."""
    return np.array(rows) if isinstance(rows[0], np.ndarray) else torch.stack(rows).cpu().numpy()
