"""Arrays as TensorFlow holds them, batches cut into updates, and the operations of the losses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import SimpleNamespace

import keras
import numpy as np
import tensorflow as tf

from pipeline.backends.base import (
    Masks,
)
from pipeline.data.batches import AnyBatches, cuts

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


def name_device(device: str) -> str:
    """Return TensorFlow's name of a device of the config, ``cpu`` or ``cuda``."""
    return {"cpu": "/CPU:0", "cuda": "/GPU:0"}[device]


def to_tensor(array: np.ndarray, like: keras.Variable) -> tf.Tensor:
    """Return an array as a tensor of the type, and on the device, of another one."""
    return to_tensors([array], like)[0]


def to_tensors(arrays: Iterable[np.ndarray], like: keras.Variable) -> list[tf.Tensor]:
    """Return arrays as tensors of the type, and on the device, of another one."""
    dtype = tf.as_dtype(like.dtype).as_numpy_dtype
    with tf.device((like.value if isinstance(like, keras.Variable) else like).device):
        return [tf.constant(array.astype(dtype, copy=False)) for array in arrays]


def to_array(tensor: tf.Tensor) -> np.ndarray:
    """Return a tensor as a NumPy array in the main memory; it may share the tensor's memory."""
    array: np.ndarray = tensor.numpy()
    return array


def cut_updates(
    batches: AnyBatches, epoch: int, *, group: int, like: keras.Variable
) -> Iterator[list]:
    """Yield what each update of an epoch sees: some batches ``(x, y, share of the update)``."""
    for x_block, y_block in batches.blocks(epoch):
        lengths, shares = cuts(len(x_block), size=batches.size, group=group)
        xs = tf.split(to_tensor(x_block, like), lengths)
        ys = tf.split(to_tensor(y_block, like), lengths)
        parts = list(zip(xs, ys, shares, strict=True))
        yield from (parts[i : i + group] for i in range(0, len(parts), group))


def add_masks(parts: list, masks: Masks, k: int) -> list:
    """Add to each batch of an update its dropout masks."""
    drawn = masks(k, [len(y) for _, y, _ in parts])
    return [
        (x, y, share, *(to_tensor(m, like=x) for m in part_masks))
        for (x, y, share), part_masks in zip(parts, drawn, strict=True)
    ]


def to_scalars(values: Mapping[str, float], like: keras.Variable) -> dict[str, tf.Tensor]:
    """Return numbers as tensors, which a compiled step takes without being traced anew."""
    return {name: tf.constant(v, dtype=like.dtype) for name, v in values.items()}


def shorten_gradients(gradients: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
    """Return what has the gradients' norm: they themselves, or on a GPU a number, soon copied."""
    return [tf.linalg.global_norm(gradients)] if "GPU" in gradients[0].device else gradients


def stack_rows(tensors: Sequence[tf.Tensor]) -> np.ndarray:
    """Return values of equal shape, one for each step, as one array with a row a step."""
    return tf.stack(tensors).numpy()
