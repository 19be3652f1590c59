"""How the distance of two runs grows over the steps: constant, linear, exponential, or a jump."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

JUMP = 30.0  # a step that multiplies the largest distance so far by more than this
_FEW = 8  # steps with a distance that a fit needs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Growth:
    """The class of a growth, in one word and one sentence.

    Attributes
    ----------
    kind
        ``none`` (never apart), ``constant``, ``power`` (about steps to the `rate`; linear where the
        rate is about 1), ``exponential`` (by the factor `rate` a step), ``jump``, or ``unclear``.
    rate
        The exponent or the factor a step; None where there is none.
    step
        Of a jump, the step.
    text
        A sentence.
    """

    kind: str
    rate: float | None
    step: int | None
    text: str


def growth(
    distance: np.ndarray, events: Mapping[int, Sequence[str]], *, rounding: bool = True
) -> Growth:
    """Fit the distances of steps 1, 2, …; `events` are what happened at a step.

    A jump is looked for first. Then ``log d`` is fitted on ``log k`` and on ``k`` by least squares;
    the better fit names the class, if it explains at least half of the scatter. With `rounding`
    false the two differ in more than that, and no text says that rounding grew.
    """
    d = np.asarray(distance, dtype=np.float64)
    if not d.any():
        return Growth(kind="none", rate=None, step=None, text="the runs are never apart")
    if not np.isfinite(d).all():
        step = int(np.argmax(~np.isfinite(d))) + 1
        return Growth(kind="jump", rate=None, step=step, text=f"not finite from step {step} on")
    before = np.maximum.accumulate(d)[:-1]
    usable = before > 0
    factor = np.divide(d[1:], before, out=np.zeros(len(before)), where=usable)
    if len(factor) and factor.max() > JUMP:
        step = int(np.argmax(factor > JUMP)) + 2
        event = ", ".join(events.get(step, ())) or "nothing else that is known of"
        text = f"a jump by {factor[step - 2]:.3g} times at step {step}; there: {event}"
        return Growth(kind="jump", rate=float(factor[step - 2]), step=step, text=text)
    k = np.arange(1, len(d) + 1, dtype=np.float64)
    k, d = k[d > 0], d[d > 0]
    if len(d) < _FEW:
        text = f"apart at {len(d)} steps only"
        return Growth(kind="unclear", rate=None, step=None, text=text)
    fits = {"power": np.log(k), "exponential": k}
    y = np.log(d)
    fitted = {}
    for kind, x in fits.items():
        slope, start = np.polyfit(x, y, 1)
        fitted[kind] = (float(np.square(y - slope * x - start).sum()), float(slope))
    scatter = float(np.square(y - y.mean()).sum())
    kind = min(fitted, key=lambda name: fitted[name][0])
    rest, slope = fitted[kind]
    total = slope * float(np.ptp(fits[kind]))  # how much log d grows from end to end
    if abs(total) < np.log(3):
        text = f"about constant, between {d.min():.2g} and {d.max():.2g}"
        return Growth(kind="constant", rate=None, step=None, text=text)
    if rest > 0.5 * scatter:
        text = f"no clear growth, between {d.min():.2g} and {d.max():.2g}"
        return Growth(kind="unclear", rate=None, step=None, text=text)
    if kind == "power":
        linear = "linear, as rounding adds up" if rounding else "linear"
        word = linear if 0.5 <= slope <= 1.5 else "a power of the steps"
        text = f"{word}: about steps to the {slope:.2f}"
        return Growth(kind=kind, rate=slope, step=None, text=text)
    chaos = "exponential (chaos)" if rounding else "exponential"
    word = chaos if slope > 0 else "shrinking exponentially"
    text = f"{word}: by {np.exp(slope):.4g} times a step"
    return Growth(kind=kind, rate=float(np.exp(slope)), step=None, text=text)
