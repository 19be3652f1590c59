from __future__ import annotations

import numpy as np
import pytest

from pipeline.parity.equivalence import FEWEST, equivalence


def draws(n, mean, sd, seed=0):
    rng = np.random.default_rng(seed)
    b = rng.normal(size=n)
    return b + rng.normal(mean, sd, size=n), b


@pytest.mark.parametrize(
    ("n", "mean", "sd", "outcome"),
    [(20, 0.0, 0.01, "equivalent"), (20, 0.5, 0.01, "different"), (20, -0.5, 0.01, "different"),
     (5, 0.0, 1.0, "too few seeds"), (20, 0.1, 0.05, "too few seeds"), (FEWEST - 1, 0.0, 0.0, "too few seeds")],
)  # fmt: skip
def test_the_three_outcomes(n, mean, sd, outcome):
    found = equivalence(*draws(n, mean, sd), margin=0.1)
    assert found.outcome == outcome
    assert outcome in found.sentence()


def test_equal_scores_are_equivalent():
    found = equivalence([0.9] * 6, [0.9] * 6, margin=1e-9)
    assert (found.outcome, found.low, found.high, found.bootstrap) == ("equivalent", 0, 0, (0, 0))


def test_the_interval_is_scipys_and_the_two_tests_decide_alike():
    from scipy import stats

    a, b = draws(12, 0.02, 0.05, seed=3)
    found = equivalence(a, b, margin=0.06)
    ci = stats.ttest_rel(a, b).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((ci.low, ci.high), rel=1e-12)
    lower = stats.ttest_1samp(a - b, -0.06, alternative="greater").pvalue
    upper = stats.ttest_1samp(a - b, 0.06, alternative="less").pvalue
    assert (max(lower, upper) < 0.05) == (found.outcome == "equivalent")
    assert found.bootstrap[0] == pytest.approx(found.low, abs=0.02)


def test_the_size_of_the_test_is_its_level():
    """At a true difference of just the margin, "equivalent" is said in at most about alpha of all cases."""
    said = [equivalence(*draws(10, 0.1, 0.05, seed=s), margin=0.1).outcome for s in range(400)]
    assert said.count("equivalent") / 400 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_pairs_and_a_margin_are_needed():
    with pytest.raises(ValueError, match="2 and 3 scores"):
        equivalence([1, 2], [1, 2, 3], margin=0.1)
    with pytest.raises(ValueError, match="margin 0"):
        equivalence([1, 2], [1, 2], margin=0)
    assert equivalence([1, np.nan, 1, 1], [1] * 4, margin=1).outcome == "too few seeds"
