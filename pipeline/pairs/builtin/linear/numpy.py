"""The from-scratch pair in NumPy, with its gradient derived by hand."""

from __future__ import annotations

import numpy as np

from pipeline.pairs.pair import Place


class Linear:
    """``x·w + b`` with two scalar parameters.

    With ``d = ∂loss/∂ŷ``, a column: ``∂w = Σ x·d`` and ``∂b = Σ d`` over the samples.
    """

    def __init__(self, *, inputs: tuple[int, ...], outputs: int) -> None:
        """Make ``w`` and ``b``; `inputs` is ``(1,)`` and `outputs` 1, the only ones it takes."""
        self.p: dict[str, np.ndarray] = {"w": np.zeros(()), "b": np.zeros(())}

    def forward(self, x: np.ndarray, *, training: bool) -> np.ndarray:
        """Return the predictions of samples of shape ``(n, 1)``, also of shape ``(n, 1)``."""
        self.x = x
        return x * self.p["w"] + self.p["b"]

    def backward(self, d: np.ndarray) -> dict[str, np.ndarray]:
        """Return the gradients of the last `forward`, given ``d`` of shape ``(n, 1)``."""
        return {"w": (self.x * d).sum(), "b": d.sum()}


def name_map(model: Linear) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    return {name: Place(name) for name in model.p}
