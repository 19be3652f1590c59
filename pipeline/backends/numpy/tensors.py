"""Arrays as NumPy holds them, batches cut into updates, and the operations of the losses."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

import numpy as np

from pipeline.backends.base import (
    Masks,
)
from pipeline.data.batches import AnyBatches, cuts


def logsumexp(z: np.ndarray) -> np.ndarray:
    """Return ``log Σ exp z`` over the last axis, kept with length 1, without overflow."""
    top = z.max(axis=-1, keepdims=True)
    return top + np.log(np.exp(z - top).sum(axis=-1, keepdims=True))


OPS = SimpleNamespace(
    mean=np.mean,
    sum=partial(np.sum, axis=-1, keepdims=True),
    total=np.sum,
    square=np.square,
    sqrt=np.sqrt,
    absolute=np.abs,
    minimum=np.minimum,
    maximum=np.maximum,
    logsumexp=logsumexp,
    top=partial(np.max, axis=-1, keepdims=True),
    softplus=partial(np.logaddexp, 0),
)


def cut_updates(batches: AnyBatches, epoch: int, *, group: int, dtype: np.dtype) -> Iterator[list]:
    """Yield what each update of an epoch sees: some batches ``(x, y, share of the update)``."""
    for x_block, y_block in batches.blocks(epoch):
        lengths, shares = cuts(len(x_block), size=batches.size, group=group)
        ends = np.cumsum(lengths)[:-1]
        xs = np.split(x_block.astype(dtype, copy=False), ends)
        ys = np.split(y_block.astype(dtype, copy=False), ends)
        parts = list(zip(xs, ys, shares, strict=True))
        yield from (parts[i : i + group] for i in range(0, len(parts), group))


def add_masks(parts: list, masks: Masks, k: int) -> list:
    """Add to each batch of an update its dropout masks."""
    drawn = masks(k, [len(y) for _, y, _ in parts])
    return [
        (x, y, share, *(m.astype(x.dtype) for m in part_masks))
        for (x, y, share), part_masks in zip(parts, drawn, strict=True)
    ]
