"""Softmax regression from scratch: the logits ``x·w + b`` of each class, and no layer.

With the loss ``cross_entropy`` it is multinomial regression; with ``bce``, which wants one output,
logistic regression. The softmax itself is in the loss, where it cannot overflow.
"""

from __future__ import annotations

import numpy as np

from pipeline.config.types import ConfigError

DIFFERS = (
    "Nothing but how a parameter is made. Both return logits: the loss takes the logarithm, "
    "so no probability is ever rounded."
)


def first_values(
    rng: np.random.Generator, *, inputs: tuple[int, ...], outputs: int
) -> dict[str, np.ndarray]:
    """Return zeros for ``w`` of shape ``(inputs, outputs)`` and for ``b``; nothing is drawn.

    The loss is convex: every start leads to the same loss, and there are no hidden units that equal
    weights would keep equal. From zero all classes are equally likely, and the first loss is
    ``log classes``, whatever the data.
    """
    if len(inputs) != 1:
        raise ConfigError("model.name", "softmax", f"takes vectors, not samples of shape {inputs}")
    return {"w": np.zeros((inputs[0], outputs)), "b": np.zeros(outputs)}
