"""Update rules, each once, in arithmetic that NumPy, PyTorch and TensorFlow arrays all obey.

A rule takes a parameter ``w``, its gradient ``g`` and its slots (as many arrays as `slots` says,
zeros at first), and returns the new parameter and the new slots. The augmented assignments are
meant: they work in place on PyTorch and NumPy arrays, which saves the copy, and make a new tensor
in TensorFlow, which has no other way. `sqrt` is passed in by the backend, because TensorFlow's
``x**0.5`` differs from its ``sqrt`` in the last bit of a quarter of the float32 values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Array = Any
Slots = tuple[Array, ...]


def gd(w: Array, g: Array, slots: Slots, *, lr: float, sqrt: Callable) -> tuple[Array, Slots]:
    """Gradient descent, ``w ← w − lr·g``; no momentum, no decay.

    The same in PyTorch (``SGD``) and Keras (``SGD``). Source: A. Cauchy, "Méthode générale pour la
    résolution des systèmes d'équations simultanées", Comptes rendus 25 (1847).
    """
    w -= lr * g
    return w, slots
