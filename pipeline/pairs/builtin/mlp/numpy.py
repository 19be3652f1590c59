"""The multilayer perceptron in NumPy, with its gradient derived by hand.

Nothing here leaves the precision of the parameters: NumPy takes Python's numbers as exact ones of
the array's own type, and the constants that are not exact in double precision are computed in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.pairs.pair import Place
from pipeline.watching import seen


def _erf(x: np.ndarray) -> np.ndarray:
    """The error function, which NumPy lacks; C's own has no more than double precision.

    Beyond that ``erf x = 2/√π · exp(−x²) · Σ 2ⁿ x²ⁿ⁺¹ / (1·3·…·(2n+1))``: the terms have one sign,
    and nothing cancels. From 7 on it is 1 to 10⁻²². Source: M. Abramowitz and I. Stegun, "Handbook
    of Mathematical Functions" (1964), 7.1.6.
    """
    if np.finfo(x.dtype).eps >= np.finfo(np.float64).eps:
        return np.vectorize(math.erf, otypes=[x.dtype])(x)
    x = np.clip(x, -7, 7)
    term = total = x
    n = 0
    while np.any(np.abs(term) > np.finfo(x.dtype).eps / 8 * np.abs(total)):
        n += 1
        term = term * (2 * x * x / (2 * n + 1))
        total = total + term
    half_root_of_pi = np.sqrt(np.arctan(x.dtype.type(1)))
    return np.exp(-x * x) * total / half_root_of_pi


def _gelu(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``z·Φ(z)`` with Φ the normal distribution's; its slope is ``Φ(z) + z·φ(z)``."""
    root = np.sqrt(z.dtype.type(2))
    below = 0.5 * (1 + _erf(z / root))
    density = np.exp(-0.5 * z * z) / np.sqrt(8 * np.arctan(z.dtype.type(1)))
    return z * below, below + z * density


def _sigmoid(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``1/(1 + exp −z)`` without overflow; its slope is ``s·(1 − s)``."""
    s = np.exp(-np.logaddexp(0, -z))
    return s, s * (1 - s)


def _tanh(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``tanh z``; its slope is ``1 − tanh² z``."""
    t = np.tanh(z)
    return t, 1 - t * t


# Each returns the value and the slope.
ACTIVATIONS = {
    "relu": lambda z: (np.maximum(z, 0), (z > 0).astype(z.dtype)),
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "gelu": _gelu,
}


class Mlp:
    """Fully connected layers: ``linear → norm → activation → dropout`` for each, then a linear.

    With ``d`` for ∂loss/∂(what is at hand), `backward` goes the same way in reverse:

    - linear, ``z = a·w + b``: ``∂w = aᵀ·d``, ``∂b = Σ d`` over the samples, and on with ``d·wᵀ``;
    - norm, ``z' = u·scale + shift`` with ``u = (z − mean)/s`` and ``s = √(variance + ε)``:
      ``∂scale = Σ d·u``, ``∂shift = Σ d``. With ``g = d·scale``, and as `mean` and `variance`
      themselves depend on all n values of z they were taken over,
      ``∂z = (g − ⟨g⟩ − u·⟨g·u⟩)/s``, where ⟨⟩ is the mean over the same values;
    - activation: on with ``d·slope``;
    - dropout: on with ``d·mask``.
    """

    def __init__(
        self,
        *,
        inputs: tuple[int, ...],
        outputs: int,
        widths: Sequence[int],
        activation: str,
        norm: str,
        norm_epsilon: float,
        norm_decay: float,
        dropout: float,
    ) -> None:
        """Make the layers for samples of shape `inputs` and `outputs` values.

        Parameters
        ----------
        widths
            Units of each hidden layer.
        activation, norm
            Names of what follows each linear; `norm` may be ``none``.
        norm_epsilon, norm_decay
            What a norm adds to the variance, and what running statistics keep of themselves.
        dropout
            The share of units that is dropped; the masks are given to the forward pass.
        """
        parts = {"none": "", "layer": "scale shift", "batch": "scale shift mean variance"}[norm]
        self.p: dict[str, np.ndarray] = {}
        for k, (before, after) in enumerate(zip([*inputs, *widths], widths, strict=False), start=1):
            self.p[f"layer{k}.w"] = np.zeros((before, after))
            if norm != "batch":
                self.p[f"layer{k}.b"] = np.zeros(after)
            self.p |= {f"norm{k}.{part}": np.zeros(after) for part in parts.split()}
        self.p |= {"out.w": np.zeros((widths[-1], outputs)), "out.b": np.zeros(outputs)}
        self.depth = len(widths)
        self.activation = ACTIVATIONS[activation]
        self.norm, self.epsilon, self.decay = norm, norm_epsilon, norm_decay
        self.axis = {"batch": 0, "layer": -1, "none": None}[norm]

    def forward(self, x: np.ndarray, *masks: np.ndarray, training: bool) -> np.ndarray:
        """Return outputs of shape ``(n, outputs)`` of samples of shape ``(n, features)``.

        There is a mask of shape ``(n, width)`` for each hidden layer, or none without dropout.
        """
        p, self.kept = self.p, []
        for k in range(1, self.depth + 1):
            a, u, s = x, None, None
            z = a @ p[f"layer{k}.w"]
            if self.norm != "batch":
                z = z + p[f"layer{k}.b"]
            z = seen(f"layer{k}", z)
            if self.norm != "none":
                mean, variance = self._moments(z, k, training)
                s = np.sqrt(variance + self.epsilon)
                u = (z - mean) / s
                z = seen(f"norm{k}", u * p[f"norm{k}.scale"] + p[f"norm{k}.shift"])
            x, slope = self.activation(z)
            x = seen(f"activation{k}", x)
            if masks:
                x, slope = seen(f"dropout{k}", x * masks[k - 1]), slope * masks[k - 1]
            self.kept.append((a, u, s, slope))
        self.last = x
        return x @ p["out.w"] + p["out.b"]

    def _moments(self, z: np.ndarray, k: int, training: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return what a norm subtracts and divides by; the running ones learn from a batch."""
        if self.norm == "batch" and not training:
            return self.p[f"norm{k}.mean"], self.p[f"norm{k}.variance"]
        mean = z.mean(axis=self.axis, keepdims=True)
        variance = np.square(z - mean).mean(axis=self.axis, keepdims=True)
        if self.norm == "batch":
            for name, batch in (("mean", mean), ("variance", variance)):
                running = self.p[f"norm{k}.{name}"]
                running[...] = running * self.decay + batch[0] * (1 - self.decay)
        return mean, variance

    def backward(self, d: np.ndarray) -> dict[str, np.ndarray]:
        """Return the gradients of the last `forward`, given ``d`` of shape ``(n, outputs)``."""
        p = self.p
        gradients = {"out.w": self.last.T @ d, "out.b": d.sum(axis=0)}
        d = d @ p["out.w"].T
        for k, (a, u, s, slope) in reversed([*enumerate(self.kept, start=1)]):
            d = d * slope
            if self.norm != "none":
                gradients[f"norm{k}.scale"] = (d * u).sum(axis=0)
                gradients[f"norm{k}.shift"] = d.sum(axis=0)
                g = d * p[f"norm{k}.scale"]
                g_mean = g.mean(axis=self.axis, keepdims=True)
                gu_mean = (g * u).mean(axis=self.axis, keepdims=True)
                d = (g - g_mean - u * gu_mean) / s
            gradients[f"layer{k}.w"] = a.T @ d
            if self.norm != "batch":
                gradients[f"layer{k}.b"] = d.sum(axis=0)
            d = d @ p[f"layer{k}.w"].T
        return gradients


def name_map(model: Mlp) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    statistics = (".mean", ".variance")
    return {
        name: Place(name, None, "statistic" if name.endswith(statistics) else "trained")
        for name in model.p
    }
