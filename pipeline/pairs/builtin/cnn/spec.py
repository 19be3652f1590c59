"""The convolutional network: ``convolution → batch norm → relu → pool`` a few times, then linear.

Samples are images of shape ``(height, width, colours)``. Parameters are ``conv1.kernel`` of shape
``(kernel, kernel, before, after)``, ``norm1.scale`` and so on, and ``out.w``, ``out.b``. A
convolution has no bias: the batch norm after it takes it away again, and its gradient is exactly
zero. Pooling halves height and width and drops an odd last row or column.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, Strict

from pipeline.config.types import ConfigError, Fraction, Positive, Size
from pipeline.pairs.builtin.mlp.spec import glorot, norm_values

DIFFERS = (
    "PyTorch holds images as (N, C, H, W) and kernels as (out, in, H, W), TensorFlow as (N, H, W, "
    "C) and (H, W, in, out): the PyTorch twin turns the samples once at its door and back before "
    "flattening, because the order of the flattened values would differ too. Padding is given in "
    "numbers, an even kernel's extra pixel at the end as in TensorFlow. Batch norm as in `mlp`."
)
Channels = Annotated[tuple[Size, ...], Strict(False), Field(min_length=1)]

NO_DETERMINISTIC_XLA = {"pool": "max"}


def first_values(
    rng: np.random.Generator,
    *,
    inputs: tuple[int, ...],
    outputs: int,
    channels: Channels,
    kernel: Size,
    padding: Literal["same", "valid"],
    pool: Literal["max", "average"],
    norm_epsilon: Positive,
    norm_decay: Fraction,
) -> dict[str, np.ndarray]:
    """Draw the kernels by He's rule, the last weights by Glorot's; shifts are zero."""
    if len(inputs) != 3:
        raise ConfigError(
            "model.name", "cnn", f"takes images (height, width, colours), not samples of shape "
            f"{inputs}; digits come so with data.layout=image",
        )  # fmt: skip
    flat = flattened(inputs, channels=channels, kernel=kernel, padding=padding)
    values, before = {}, inputs[-1]
    for k, after in enumerate(channels, start=1):
        spread = math.sqrt(2 / (kernel * kernel * before))
        shape = (kernel, kernel, before, after)
        values[f"conv{k}.kernel"] = rng.normal(0, spread, size=shape)
        values |= norm_values("batch", f"norm{k}", after)
        before = after
    return values | {"out.w": glorot(rng, flat, outputs), "out.b": np.zeros(outputs)}


def flattened(inputs: tuple[int, ...], *, channels: Channels, kernel: int, padding: str) -> int:
    """Return how many values of one image are left after the last pool.

    Raises
    ------
    ConfigError
        If there are none.
    """
    height, width, _ = inputs
    lost = 0 if padding == "same" else kernel - 1
    for k in range(1, len(channels) + 1):
        height, width = (height - lost) // 2, (width - lost) // 2
        if min(height, width) < 1:
            raise ConfigError(
                "model.channels", list(channels), f"images of {inputs} are gone after {k} blocks"
            )
    return height * width * channels[-1]
