"""The recurrent network: one GRU or LSTM cell over the rows of a sample, then linear.

Samples have shape ``(times, features)``. The cell is written out, without a layer: ``kernel`` of
shape ``(features, gates·width)``, ``recurrent`` of shape ``(width, gates·width)`` and ``bias``, the
gates in the order z, r, candidate (GRU) or i, f, candidate, o (LSTM), as in Keras. A GRU has
``inner`` besides, the bias that its reset gate acts on; the other gates have one bias each, where
PyTorch's layers have two that are only ever added.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from pipeline.config.types import ConfigError, Size
from pipeline.pairs.builtin.mlp.spec import glorot

DIFFERS = (
    "Nothing but the names of the operations: the cell is written out in both. The layers "
    "differ: `nn.LSTM` has two biases whose sum is all that counts, so that gradient descent moves "
    "it twice as fast, and `nn.GRU` orders its gates r, z, n where Keras has z, r, h. A test holds "
    "both layers against this cell."
)
GATES = {"gru": 3, "lstm": 4}


def first_values(
    rng: np.random.Generator,
    *,
    inputs: tuple[int, ...],
    outputs: int,
    cell: Literal["gru", "lstm"],
    width: Size,
) -> dict[str, np.ndarray]:
    """Draw kernels by Glorot's rule and one orthogonal recurrent matrix a gate; biases are zero.

    But for the LSTM's forget gate, whose bias is 1. Source: R. Jozefowicz, W. Zaremba and I.
    Sutskever, "An Empirical Exploration of Recurrent Network Architectures", ICML (2015).
    """
    if len(inputs) != 2:
        raise ConfigError(
            "model.name", "rnn", f"takes rows (times, features), not samples of shape {inputs}; "
            "digits come so with data.layout=rows",
        )  # fmt: skip
    gates = range(GATES[cell])
    bias = np.zeros((len(gates), width))
    if cell == "lstm":
        bias[1] = 1
    values = {
        "kernel": np.hstack([glorot(rng, inputs[1], width) for _ in gates]),
        "recurrent": np.hstack([np.linalg.qr(rng.normal(size=(width, width)))[0] for _ in gates]),
        "bias": bias.ravel(),
    }
    if cell == "gru":
        values["inner"] = np.zeros(width)
    return values | {"out.w": glorot(rng, width, outputs), "out.b": np.zeros(outputs)}
