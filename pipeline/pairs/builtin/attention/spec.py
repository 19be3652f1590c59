"""One encoder block over the rows of a sample: self-attention and a feed-forward part.

Samples have shape ``(times, features)``. Each row is embedded and given a learned position; then
``x ← norm(x + attention(x))``, ``x ← norm(x + down(relu(up(x))))``, the mean over the times, and a
linear layer. Keys have no bias: it adds the same number to all scores of a query, which softmax
takes away again, so its gradient is exactly zero. Source: A. Vaswani et al., "Attention Is All You
Need", arXiv:1706.03762 (2017), with the norm after the sum as there.
"""

from __future__ import annotations

import numpy as np

from pipeline.config.types import ConfigError, Positive, Size
from pipeline.pairs.builtin.mlp.spec import glorot, norm_values

DIFFERS = (
    "The frameworks' own attention layers are laid out differently (`nn.MultiheadAttention` has "
    "one fused kernel, Keras one kernel a head) and both have a key bias whose gradient is zero, "
    "so the twins take linear layers and write the attention out. Kernels are transposed; the "
    "layer norm's epsilon, 1e-5 in PyTorch and 1e-3 in Keras, is given."
)
PARTS = ("embed", "query", "key", "value", "mix", "up", "down", "out")


def first_values(
    rng: np.random.Generator,
    *,
    inputs: tuple[int, ...],
    outputs: int,
    width: Size,
    heads: Size,
    hidden: Size,
    norm_epsilon: Positive,
) -> dict[str, np.ndarray]:
    """Draw the weights by Glorot's rule and positions from N(0, 0.1); biases are zero."""
    if len(inputs) != 2:
        raise ConfigError(
            "model.name", "attention", f"takes rows (times, features), not samples of shape "
            f"{inputs}; digits come so with data.layout=rows",
        )  # fmt: skip
    if width % heads:
        raise ConfigError("model.heads", heads, f"must divide model.width={width}")
    values = {"positions": rng.normal(0, 0.1, size=(inputs[0], width))}
    for part, (before, after) in sizes(inputs, outputs, width=width, hidden=hidden).items():
        values[f"{part}.w"] = glorot(rng, before, after)
        if part != "key":
            values[f"{part}.b"] = np.zeros(after)
    return values | norm_values("layer", "norm1", width) | norm_values("layer", "norm2", width)


def sizes(
    inputs: tuple[int, ...], outputs: int, *, width: int, hidden: int
) -> dict[str, tuple[int, int]]:
    """Return how many values each linear part takes and gives."""
    among = dict.fromkeys(PARTS, (width, width))
    ends = {"embed": (inputs[1], width), "out": (width, outputs)}
    return among | ends | {"up": (width, hidden), "down": (hidden, width)}
