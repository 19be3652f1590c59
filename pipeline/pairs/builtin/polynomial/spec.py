"""The from-scratch polynomial: ``ŷ = c0 + c1·x + … + c_degree·x^degree`` of one feature."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from pipeline.config.types import ConfigError

Degree = Annotated[int, Field(ge=1, le=1023)]  # 2^1024 is no float64

DIFFERS = "Nothing but how a parameter is made; Horner's rule is the same line in both."


def first_values(
    rng: np.random.Generator, *, inputs: tuple[int, ...], outputs: int, degree: Degree
) -> dict[str, np.ndarray]:
    """Draw ``c`` of shape ``(degree + 1,)``, the constant first, from ``U(-0.1, 0.1)``.

    Powers of a feature beyond ±1 grow fast, and so does the curvature of the loss: gradient descent
    needs a rate below ``n / Σ x^(2·degree)``, or features of about that size.
    """
    if inputs != (1,) or outputs != 1:
        raise ConfigError(
            "model.name",
            "polynomial",
            f"takes one feature and one target, not {inputs} and {outputs}",
        )
    return {"c": rng.uniform(-0.1, 0.1, size=degree + 1)}


def least_squares(x: np.ndarray, y: np.ndarray, *, degree: int) -> dict[str, np.ndarray]:
    """Return the coefficients that minimise the squared error on `x` and `y`, in closed form.

    The columns 1, x, x², … are brought to length 1 first, as their sizes differ by powers of x.

    Raises
    ------
    numpy.linalg.LinAlgError
        If one of them overflows.
    """
    with np.errstate(over="ignore"):
        columns = np.vander(x[:, 0], degree + 1, increasing=True)
        lengths = np.linalg.norm(columns, axis=0)
    if not np.isfinite(lengths).all():
        raise np.linalg.LinAlgError("a power of x overflows")
    solution = np.linalg.lstsq(columns / lengths, y[:, 0], rcond=None)[0]
    return {"c": solution / lengths}
