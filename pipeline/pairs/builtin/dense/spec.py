"""The layer pair: one fully connected layer, ``ŷ = x·w + b``, no activation."""

from __future__ import annotations

import numpy as np

from pipeline.config.types import ConfigError
from pipeline.pairs.builtin.mlp.spec import glorot

DIFFERS = (
    "PyTorch's weight is (outputs, inputs), Keras's kernel (inputs, outputs): the one "
    "transpose here is listed in the name map, so a square matrix cannot slip through."
)


def first_values(
    rng: np.random.Generator, *, inputs: tuple[int, ...], outputs: int
) -> dict[str, np.ndarray]:
    """Draw ``w`` of shape ``(inputs, outputs)`` by Glorot's uniform rule; ``b`` is zero.

    Keras starts so; PyTorch's own default is ``U(±1/√inputs)`` for both. Source: X. Glorot and
    Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks" (2010).
    """
    if len(inputs) != 1:
        raise ConfigError("model.name", "dense", f"takes vectors, not samples of shape {inputs}")
    return {"w": glorot(rng, inputs[0], outputs), "b": np.zeros(outputs)}


def least_squares(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Return the parameters that minimise the squared error on `x` and `y`, in closed form."""
    columns = np.hstack([x, np.ones((len(x), 1))])
    solution = np.linalg.lstsq(columns, y, rcond=None)[0]
    return {"w": solution[:-1], "b": solution[-1]}
