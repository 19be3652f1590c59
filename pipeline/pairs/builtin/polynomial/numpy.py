"""The polynomial in NumPy, with its gradient derived by hand."""

from __future__ import annotations

import numpy as np

from pipeline.pairs.pair import Place


class Polynomial:
    """``c0 + c1·x + … + c_degree·x^degree`` by Horner's rule.

    With ``d = ∂loss/∂ŷ``, a column: ``∂c_k = Σ d·x^k`` over the samples, each power being the one
    before it times x.
    """

    def __init__(self, *, inputs: tuple[int, ...], outputs: int, degree: int) -> None:
        """Make the coefficients; `inputs` is ``(1,)`` and `outputs` 1, the only ones it takes."""
        self.p: dict[str, np.ndarray] = {"c": np.zeros(degree + 1)}

    def forward(self, x: np.ndarray, *, training: bool) -> np.ndarray:
        """Return the predictions of samples of shape ``(n, 1)``, also of shape ``(n, 1)``."""
        self.x = x
        c = self.p["c"]
        y = c[-1]
        for c_k in c[-2::-1]:
            y = y * x + c_k
        return y

    def backward(self, d: np.ndarray) -> dict[str, np.ndarray]:
        """Return the gradients of the last `forward`, given ``d`` of shape ``(n, 1)``."""
        gradient = np.empty_like(self.p["c"])
        for k in range(len(gradient)):
            gradient[k] = d.sum()
            d = d * self.x
        return {"c": gradient}


def name_map(model: Polynomial) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    return {name: Place(name) for name in model.p}
