"""Whether two backends score the same over seeds, for runs that cannot agree bit for bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

FEWEST = 4  # pairs of runs below which nothing is said
_RESAMPLES = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Equivalence:
    """The outcome of two one-sided tests on paired final scores.

    Attributes
    ----------
    outcome
        ``equivalent`` (the whole interval lies inside ±margin), ``different`` (all of it outside),
        or ``too few seeds``.
    mean, low, high
        Mean difference ``a − b`` and its Student interval at level ``1 − 2·alpha``, which is what
        two one-sided tests at `alpha` look at.
    bootstrap
        The same interval from resampled pairs.
    n, margin, alpha
        Pairs, the margin in units of the score, and the level of each test.
    """

    outcome: str
    mean: float
    low: float
    high: float
    bootstrap: tuple[float, float]
    n: int
    margin: float
    alpha: float

    def sentence(self) -> str:
        """Return the outcome with the numbers it rests on."""
        if self.n < FEWEST:
            return f"too few seeds: {self.n} pairs, {FEWEST} are needed"
        level = f"{1 - 2 * self.alpha:.0%}"
        return (
            f"{self.outcome}: difference {self.mean:.3g}, {level} interval {self.low:.3g} to "
            f"{self.high:.3g} (bootstrap {self.bootstrap[0]:.3g} to {self.bootstrap[1]:.3g}), "
            f"margin ±{self.margin:g}, {self.n} pairs"
        )


def equivalence(
    a: Sequence[float], b: Sequence[float], *, margin: float, alpha: float = 0.05, seed: int = 0
) -> Equivalence:
    """Test whether paired scores differ by less than `margin` on average.

    Two one-sided t tests on the differences of runs with the same seed. Source: D. Schuirmann, "A
    comparison of the two one-sided tests procedure and the power approach" (1987); the resampled
    interval is the percentile one of B. Efron, "Bootstrap methods: another look at the jackknife"
    (1979).

    Raises
    ------
    ValueError
        If the scores do not come in pairs, or the margin is not positive.
    """
    if len(a) != len(b) or margin <= 0:
        raise ValueError(f"{len(a)} and {len(b)} scores, margin {margin}")
    from scipy import stats  # not at the top: a second that only sweeps over seeds need

    d = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    common: dict[str, Any] = {"n": len(d), "margin": margin, "alpha": alpha}
    mean = float(d.mean()) if len(d) else float("nan")
    if len(d) < FEWEST or not np.isfinite(d).all():
        return Equivalence(
            outcome="too few seeds", mean=mean, low=-np.inf, high=np.inf,
            bootstrap=(-np.inf, np.inf), **common,
        )  # fmt: skip
    reach = float(stats.t.ppf(1 - alpha, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d)))
    low, high = mean - reach, mean + reach
    rng = np.random.Generator(np.random.PCG64(seed))
    means = d[rng.integers(len(d), size=(_RESAMPLES, len(d)))].mean(axis=1)
    edges = np.quantile(means, [alpha, 1 - alpha])
    if -margin < low and high < margin:
        outcome = "equivalent"
    elif low > margin or high < -margin:
        outcome = "different"
    else:
        outcome = "too few seeds"
    return Equivalence(
        outcome=outcome, mean=mean, low=low, high=high,
        bootstrap=(float(edges[0]), float(edges[1])), **common,
    )  # fmt: skip
