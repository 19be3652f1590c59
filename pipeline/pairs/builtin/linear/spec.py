"""The from-scratch pair: ``ŷ = x·w + b`` with two scalars and no layer."""

from __future__ import annotations

import numpy as np

from pipeline.config.types import ConfigError

DIFFERS = (
    "PyTorch finds an `nn.Parameter` by assignment; Keras 3 tracks only its own variables, so"
    " a plain `tf.Variable` would never be trained and `add_weight` makes them. The "
    "arithmetic is the same."
)


def first_values(
    rng: np.random.Generator, *, inputs: tuple[int, ...], outputs: int
) -> dict[str, np.ndarray]:
    """Draw ``w`` and ``b``, both of shape ``()``, from ``U(-0.1, 0.1)`` as the article does."""
    if inputs != (1,) or outputs != 1:
        raise ConfigError(
            "model.name", "linear", f"takes one feature and one target, not {inputs} and {outputs}"
        )
    return {name: np.asarray(rng.uniform(-0.1, 0.1)) for name in ("w", "b")}


def least_squares(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Return the parameters that minimise the squared error on `x` and `y`, in closed form."""
    columns = np.hstack([x, np.ones_like(x)])
    solution = np.linalg.lstsq(columns, y, rcond=None)[0]
    return {"w": solution[0, 0], "b": solution[1, 0]}
