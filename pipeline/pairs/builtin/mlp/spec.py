"""The multilayer perceptron: ``linear → norm → activation → dropout`` for each width, then linear.

Parameters are ``layer1.w``, ``layer1.b``, ``norm1.scale``, ... and ``out.w``, ``out.b``, with
weights of shape ``(inputs, outputs)``. A layer before batch normalisation has no ``b``: the mean
takes it away again, and its gradient is exactly zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, Strict

from pipeline.config.types import ConfigError, Fraction, Positive, Size

DIFFERS = (
    "PyTorch's batch norm stores the unbiased running variance, Keras's the biased one, so "
    "the PyTorch twin has a layer of its own that stores the biased one; Keras's `gelu` "
    "rounds a constant to float32, so the TensorFlow twin writes it with `erf`; weights are "
    "transposed; dropout masks come from the seed as inputs, because the frameworks' "
    "generators never agree."
)

Widths = Annotated[tuple[Size, ...], Strict(False), Field(min_length=1)]
Activation = Literal["relu", "tanh", "gelu", "sigmoid"]
Norm = Literal["none", "batch", "layer"]

# A sample alone is its own mean: what batch norm makes of it is its shift and the rounding of 1/√ε.
NOT_ALONE = {"norm": "batch"}


def first_values(
    rng: np.random.Generator,
    *,
    inputs: tuple[int, ...],
    outputs: int,
    widths: Widths,
    activation: Activation,
    norm: Norm,
    norm_epsilon: Positive,
    norm_decay: Fraction,
    dropout: Fraction,
) -> dict[str, np.ndarray]:
    """Draw the weights by He's rule before relu and gelu, by Glorot's elsewhere; shifts are zero.

    He's is normal with variance ``2/inputs``; Glorot's uniform with ``2/(inputs + outputs)``.
    `norm_decay` is what the running statistics keep of themselves at each update (Keras's momentum,
    one minus PyTorch's). Sources: K. He et al., "Delving Deep into Rectifiers", arXiv:1502.01852
    (2015); X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward
    neural networks" (2010).
    """
    if len(inputs) != 1:
        raise ConfigError("model.name", "mlp", f"takes vectors, not samples of shape {inputs}")
    values = {}
    for k, (before, after) in enumerate(zip([*inputs, *widths], widths, strict=False), start=1):
        values[f"layer{k}.w"] = (
            rng.normal(0, math.sqrt(2 / before), size=(before, after))
            if activation in ("relu", "gelu")
            else glorot(rng, before, after)
        )
        if norm != "batch":
            values[f"layer{k}.b"] = np.zeros(after)
        values |= norm_values(norm, f"norm{k}", after)
    return values | {"out.w": glorot(rng, widths[-1], outputs), "out.b": np.zeros(outputs)}


def glorot(rng: np.random.Generator, before: int, after: int) -> np.ndarray:
    """Draw a weight by Glorot's uniform rule."""
    limit = math.sqrt(6 / (before + after))
    return rng.uniform(-limit, limit, size=(before, after))


def norm_values(norm: str, name: str, width: int) -> dict[str, np.ndarray]:
    """Return the first values of a normalisation, which leave what it normalised as it is."""
    values = {"scale": np.ones(width), "shift": np.zeros(width)}
    running = {"mean": np.zeros(width), "variance": np.ones(width)}
    by_norm = {"none": {}, "layer": values, "batch": values | running}[norm]
    return {f"{name}.{part}": value for part, value in by_norm.items()}


def masks(
    rng: np.random.Generator,
    *,
    batch: int,
    inputs: tuple[int, ...],
    outputs: int,
    widths: Sequence[int],
    dropout: float,
    **others: Any,
) -> list[np.ndarray]:
    """Draw what each layer's activations are multiplied with: 0, or ``1/(1 − dropout)``.

    So the mean is kept, and nothing is dropped or scaled in evaluation. Source: N. Srivastava et
    al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15 (2014).
    """
    if dropout == 0:
        return []
    return [(rng.random((batch, width)) >= dropout) / (1 - dropout) for width in widths]
