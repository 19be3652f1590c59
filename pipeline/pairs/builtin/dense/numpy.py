"""The layer pair in NumPy, with its gradient derived by hand."""

from __future__ import annotations

import numpy as np

from pipeline.pairs.pair import Place


class Dense:
    """One fully connected layer, ``ŷ = x·w + b``.

    With ``d = ∂loss/∂ŷ`` of shape ``(samples, outputs)``: ``∂w = xᵀ·d``, as ``∂ŷ[n, j]/∂w[i, j]``
    is ``x[n, i]``, and ``∂b = Σ d`` over the samples.
    """

    def __init__(self, *, inputs: tuple[int, ...], outputs: int) -> None:
        """Make the layer for samples of shape `inputs` and targets of `outputs` values."""
        self.p: dict[str, np.ndarray] = {
            "w": np.zeros((inputs[0], outputs)),
            "b": np.zeros(outputs),
        }

    def forward(self, x: np.ndarray, *, training: bool) -> np.ndarray:
        """Return predictions of shape ``(n, outputs)`` of samples of shape ``(n, features)``."""
        self.x = x
        return x @ self.p["w"] + self.p["b"]

    def backward(self, d: np.ndarray) -> dict[str, np.ndarray]:
        """Return the gradients of the last `forward`, given ``d`` of shape ``(n, outputs)``."""
        return {"w": self.x.T @ d, "b": d.sum(axis=0)}


def name_map(model: Dense) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    return {name: Place(name) for name in model.p}
