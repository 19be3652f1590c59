"""A model that is another one for every sample: one shared layer, applied until it settles.

``h = tanh(x·first.w + first.b)``, then ``h = tanh(h·again.w + again.b)`` again and again, for each
sample until it moves by no more than `tolerance` of its own length or `most` times, then
``ŷ = h·out.w + out.b``. It is what eager execution is for: an ordinary ``while`` whose length is
known only while it runs, and gradients through exactly what was run. Source of the idea: S. Bai,
J. Kolter and V. Koltun, "Deep Equilibrium Models", arXiv:1909.01377 (2019).
"""

from __future__ import annotations

import numpy as np

from pipeline.config.types import ConfigError, Positive, Size
from pipeline.pairs.builtin.mlp.spec import glorot

DIFFERS = (
    "An ordinary `while` in both: PyTorch records what ran, and so does the tape. A graph "
    "compiler would have to turn the loop into an operation, so the pair is for eager "
    "execution and says so."
)

# The loop asks for a number to decide whether to go on; a graph traced once would hold the number
# of rounds that its first samples took, and would take it for all others.
EXECUTION = ("eager",)

CONTRACTION = 0.9


def first_values(
    rng: np.random.Generator,
    *,
    inputs: tuple[int, ...],
    outputs: int,
    width: Size,
    most: Size,
    tolerance: Positive,
) -> dict[str, np.ndarray]:
    """Draw the weights by Glorot's rule, and scale the shared one to spectral norm 0.9.

    As tanh has slopes of at most 1, two states then come closer by that factor at least with each
    round: there is one fixed point, and every sample gets there. Training may leave this, and then
    `most` ends the loop. The shared bias is drawn too, or the fixed point would be zero.
    """
    if len(inputs) != 1:
        raise ConfigError("model.name", "dynamic", f"takes vectors, not samples of shape {inputs}")
    again = rng.normal(size=(width, width))
    return {
        "first.w": glorot(rng, inputs[0], width),
        "first.b": np.zeros(width),
        "again.w": again * (CONTRACTION / np.linalg.norm(again, ord=2)),
        "again.b": rng.uniform(-0.1, 0.1, size=width),
        "out.w": glorot(rng, width, outputs),
        "out.b": np.zeros(outputs),
    }
