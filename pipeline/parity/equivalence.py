"""Whether two backends score the same over seeds, for runs that cannot agree bit for bit.

A run whose loss, or whose final score, became NaN or infinite diverged: it has no score, and is
worse than any run that has one.

=============  ===================================================================================
``n``          pairs: the seeds at which both runs came to an end and at most one of them diverged
``d[i]``       difference of the scores ``a − b`` of pair i; ±∞ where one of the two diverged, with
               the sign that says that it is the worse one
``k``          how many of the ``d[i]`` are infinite
``Δ``          the margin: a mean difference within ±Δ counts as none
``α``          level of each of the two one-sided tests
``low, high``  interval of the mean of ``d`` at level ``1 − 2α``
=============  ===================================================================================

The outcome is ``equivalent`` if ``−Δ < low`` and ``high < Δ``, ``different`` if ``low > Δ`` or
``high < −Δ``, and ``too few seeds`` otherwise or if ``n < FEWEST``.

All of ``d`` finite: the interval is Student's. One infinite: a mean and a standard deviation say
nothing, so the interval is the bootstrap's. A resample is n draws from ``d``, and one that contains
an infinity has an infinite mean; one that contains both signs has a mean without any bound, and
counts as −∞ for `low` and as +∞ for `high`. A resample without infinities has the probability

    q = (1 − k/n)ⁿ ≤ 1/e

so at least ``1 − 1/e`` of all resamples contain an infinity, more than any α below one half, and

- all infinities are +∞: ``high = ∞``; ``low`` is ∞ if ``q < α``, and else the quantile ``α/q`` of
  the means of resamples of the finite ``d[i]``;
- all are −∞: the same with the signs changed;
- both signs: ``low = −∞`` and ``high = ∞``.

From this follows that one divergence on one side alone is never ``equivalent``; that at α = 0.05
three on the same side are ``different`` and two alone are not, whatever n is (``(1 − 3/n)ⁿ < e⁻³ <
0.05``, while ``(1 − 2/n)ⁿ ≥ 1/16`` from n = 4 on); and that divergences on both sides, at different
seeds, decide nothing. A seed at which both diverged has no difference: it is no pair, and is said.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FEWEST = 4  # pairs of runs below which nothing is said
VERDICTS = {"equivalent": "PASS", "different": "FAIL", "too few seeds": "ABSTAIN"}
_RESAMPLES = 10_000
_MOST_SEEDS = 8  # of those without a pair, that are named


@dataclasses.dataclass(frozen=True, kw_only=True)
class Equivalence:
    """The outcome of two one-sided tests on paired final scores; see the module for the symbols.

    Attributes
    ----------
    outcome
        ``equivalent`` (the whole interval lies inside ±margin), ``different`` (all of it outside),
        or ``too few seeds``.
    mean, low, high
        Mean difference ``a − b`` and the interval that decides, at level ``1 − 2·alpha``: Student's
        where all differences are finite, and else the bootstrap's. `mean` is NaN where both signs
        of infinity are among them, or no pair is.
    bootstrap
        The same interval from resampled pairs.
    n, margin, alpha
        Pairs that have a difference, finite or infinite; the margin in units of the score; and the
        level of each test.
    a, b
        Names of the two sides.
    diverged
        At how many seeds `a` alone and `b` alone diverged; they are among the `n`.
    both_diverged
        At how many seeds both diverged; they are not among the `n`.
    unpaired
        By why, the seeds that have no pair because a run is missing or did not finish.
    """

    outcome: str
    mean: float
    low: float
    high: float
    bootstrap: tuple[float, float]
    n: int
    margin: float
    alpha: float
    a: str = "a"
    b: str = "b"
    diverged: tuple[int, int] = (0, 0)
    both_diverged: int = 0
    unpaired: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The outcome as a verdict: PASS, FAIL, or ABSTAIN."""
        return VERDICTS[self.outcome]

    def sentence(self) -> str:
        """Return the outcome with the numbers it rests on, and the seeds that it does not."""
        return "; ".join([self._interval(), *self._without_score()])

    def _interval(self) -> str:
        """Return the outcome with the mean difference, its interval and the margin, in words."""
        pairs = f"{self.n} pair{'s' * (self.n != 1)}"
        if self.n < FEWEST:
            return f"too few seeds: {pairs}, {FEWEST} are needed"
        level = f"{1 - 2 * self.alpha:.0%}"
        interval = (
            f"{level} interval {self.low:.3g} to {self.high:.3g} "
            f"(bootstrap {self.bootstrap[0]:.3g} to {self.bootstrap[1]:.3g})"
        )
        if any(self.diverged):
            interval = f"{level} bootstrap interval {self.low:.3g} to {self.high:.3g}"
        mean = "undefined" if math.isnan(self.mean) else f"{self.mean:.3g}"
        return f"{self.outcome}: difference {mean}, {interval}, margin ±{self.margin:g}, {pairs}"

    def _without_score(self) -> list[str]:
        """Return, in words, which seeds diverged and which have no pair."""
        parts = [
            f"{name} alone diverged at {_seeds(count)}"
            for name, count in zip((self.a, self.b), self.diverged, strict=True)
            if count
        ]
        if self.both_diverged:
            parts.append(f"{_seeds(self.both_diverged)} diverged in both")
        for why, seeds in self.unpaired.items():
            named = ", ".join(map(str, seeds[:_MOST_SEEDS]))
            more = "" if len(seeds) <= _MOST_SEEDS else ", …"
            parts.append(f"{_seeds(len(seeds))} without a pair ({named}{more}): {why}")
        return parts

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it; what is not finite becomes text."""
        about = dataclasses.asdict(self) | {"verdict": self.verdict, "sentence": self.sentence()}
        about["unpaired"] = {why: list(seeds) for why, seeds in self.unpaired.items()}
        for key in ("mean", "low", "high"):
            about[key] = _plain(about[key])
        about["bootstrap"] = [_plain(edge) for edge in self.bootstrap]
        about["diverged"] = list(self.diverged)
        return about


def _seeds(count: int) -> str:
    """Return a number of seeds in words."""
    return f"{count} seed{'s' * (count != 1)}"


def _plain(number: float) -> float | str:
    """Return a number as JSON can hold it: one that is not finite as text."""
    return number if math.isfinite(number) else str(number)


def equivalence(
    a: Sequence[float],
    b: Sequence[float],
    *,
    margin: float,
    alpha: float = 0.05,
    seed: int = 0,
    higher_is_better: bool = False,
    names: tuple[str, str] = ("a", "b"),
    unpaired: Mapping[str, Sequence[int]] | None = None,
) -> Equivalence:
    """Test whether paired scores differ by less than `margin` on average.

    Two one-sided t tests on the differences of runs with the same seed, or, where a run diverged,
    the bootstrap's interval in the place of Student's; the module says how that follows. Sources:
    D. Schuirmann, "A comparison of the two one-sided tests procedure and the power approach"
    (1987); the resampled interval is the percentile one of B. Efron, "Bootstrap methods: another
    look at the jackknife" (1979).

    Parameters
    ----------
    a, b
        Final scores of the two sides, seed by seed. One that is not finite is of a run that
        diverged.
    seed
        Of the resamples, so that the same scores have the same outcome.
    higher_is_better
        Which way a score is worse, and so the sign of the difference from one that diverged.
    names, unpaired
        What `Equivalence` says of the sides, and of the seeds that are not in `a` and `b`.

    Raises
    ------
    ValueError
        If the scores do not come in pairs, the margin is not positive, or `alpha` is not between 0
        and one half.
    """
    if len(a) != len(b) or margin <= 0:
        raise ValueError(f"{len(a)} and {len(b)} scores, margin {margin}")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha {alpha} is not between 0 and 0.5")
    d, diverged, both_diverged = _differences(a, b, higher_is_better=higher_is_better)
    low, high, edges = -np.inf, np.inf, (-np.inf, np.inf)
    outcome = "too few seeds"
    if len(d) >= FEWEST:
        edges = _bootstrap(d, alpha=alpha, seed=seed)
        low, high = edges if any(diverged) else _student(d, alpha=alpha)
        if -margin < low and high < margin:
            outcome = "equivalent"
        elif low > margin or high < -margin:
            outcome = "different"
    return Equivalence(
        outcome=outcome, mean=_mean(d), low=low, high=high, bootstrap=edges, n=len(d),
        margin=margin, alpha=alpha, a=names[0], b=names[1], diverged=diverged,
        both_diverged=both_diverged, unpaired=dict(unpaired or {}),
    )  # fmt: skip


def _differences(
    a: Sequence[float], b: Sequence[float], *, higher_is_better: bool
) -> tuple[np.ndarray, tuple[int, int], int]:
    """Return ``d``, how often `a` alone and `b` alone diverged, and how often both did."""
    one, other = (np.asarray(side, dtype=np.float64) for side in (a, b))
    finite_a, finite_b = np.isfinite(one), np.isfinite(other)
    both_finite = finite_a & finite_b
    worse = -np.inf if higher_is_better else np.inf
    d = np.where(finite_a, -worse, worse)
    d[both_finite] = one[both_finite] - other[both_finite]
    alone = int((~finite_a & finite_b).sum()), int((finite_a & ~finite_b).sum())
    return d[finite_a | finite_b], alone, int((~finite_a & ~finite_b).sum())


def _mean(d: np.ndarray) -> float:
    """Return the mean; NaN of nothing, and of infinities of both signs."""
    if not len(d) or {-np.inf, np.inf} <= set(d.tolist()):
        return float("nan")
    return float(d.mean())


def _student(d: np.ndarray, *, alpha: float) -> tuple[float, float]:
    """Return Student's interval of the mean of `d`, at level ``1 − 2·alpha``."""
    from scipy import stats  # not at the top: a second that only sweeps over seeds need

    reach = float(stats.t.ppf(1 - alpha, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d)))
    mean = float(d.mean())
    return mean - reach, mean + reach


def _bootstrap(d: np.ndarray, *, alpha: float, seed: int) -> tuple[float, float]:
    """Return the percentile interval of the mean; the part with infinities is exact, not drawn."""
    finite = d[np.isfinite(d)]
    above, below = bool((d == np.inf).any()), bool((d == -np.inf).any())
    bounded = (len(finite) / len(d)) ** len(d)  # q: no infinity is drawn
    if above and below:
        return -np.inf, np.inf
    if bounded < alpha:
        return (np.inf, np.inf) if above else (-np.inf, -np.inf)
    rng = np.random.Generator(np.random.PCG64(seed))
    draws = rng.integers(len(finite), size=(_RESAMPLES, len(d)))
    means = np.sort(finite[draws].mean(axis=1))
    place = int(alpha / bounded * (_RESAMPLES - 1))  # counted from the end that has no infinity
    low = -np.inf if below else float(means[place])
    return low, np.inf if above else float(means[-1 - place])
