from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.parity.equivalence import FEWEST, VERDICTS, equivalence

scores = st.floats(-1e3, 1e3) | st.just(np.nan)  # NaN is of a run that diverged
both = st.lists(st.tuples(scores, scores), max_size=9)
margins = st.floats(1e-3, 1e3)


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
    with pytest.raises(ValueError, match="alpha"):
        equivalence([1, 2], [1, 2], margin=1, alpha=0.5)


def diverging(n, *, a=0, b=0, together=0, **options):
    """n seeds of equal scores, but that so many diverged in a alone, in b alone, and in both."""
    one, other = np.zeros(n), np.zeros(n)
    one[:a], other[a : a + b] = np.nan, np.inf
    one[n - together :], other[n - together :] = np.nan, -np.inf
    return equivalence(one, other, margin=0.1, names=("torch", "tensorflow"), **options)


def test_two_of_six_that_diverged_on_one_side_are_not_equivalent():
    outcome = diverging(6, a=2)
    assert (outcome.outcome, outcome.n, outcome.diverged) == ("too few seeds", 6, (2, 0))
    assert (outcome.low, outcome.high, outcome.mean) == (0, np.inf, np.inf)
    assert outcome.sentence() == (
        "too few seeds: difference inf, 90% bootstrap interval 0 to inf, margin ±0.1, 6 pairs; "
        "torch alone diverged at 2 seeds"
    )
    assert diverging(6).outcome == "equivalent"


@pytest.mark.parametrize("n", [4, 6, 20, 500])
def test_three_that_diverged_on_one_side_are_a_difference_whatever_n_is(n):
    outcome = diverging(n, b=3)
    assert (outcome.outcome, outcome.low, outcome.high) == ("different", -np.inf, -np.inf)
    assert "tensorflow alone diverged at 3 seeds" in outcome.sentence()
    assert diverging(n, b=2).outcome == "too few seeds"


def test_the_side_that_diverged_is_the_worse_one():
    assert diverging(6, a=3).mean == np.inf  # of a loss, which is better when lower
    assert diverging(6, a=3, higher_is_better=True).mean == -np.inf
    assert diverging(6, b=3, higher_is_better=True).mean == np.inf


def test_divergences_on_both_sides_decide_nothing():
    outcome = diverging(12, a=5, b=1)
    assert (outcome.outcome, outcome.low, outcome.high) == ("too few seeds", -np.inf, np.inf)
    assert np.isnan(outcome.mean)
    assert "difference undefined" in outcome.sentence()
    assert "torch alone diverged at 5 seeds; tensorflow alone" in outcome.sentence()
    assert "tensorflow alone diverged at 1 seed" in outcome.sentence()


def test_seeds_at_which_both_diverged_are_no_pairs_and_are_said():
    outcome = diverging(6, together=2)
    assert (outcome.outcome, outcome.n, outcome.both_diverged) == ("equivalent", 4, 2)
    assert outcome.sentence().endswith("4 pairs; 2 seeds diverged in both")
    few = diverging(6, together=5)
    assert few.sentence() == "too few seeds: 1 pair, 4 are needed; 5 seeds diverged in both"


def test_seeds_without_a_pair_are_counted_and_named():
    outcome = diverging(4, unpaired={"torch has no run": [7], "torch did not finish": range(20)})
    assert outcome.sentence().endswith(
        "4 pairs; 1 seed without a pair (7): torch has no run; "
        "20 seeds without a pair (0, 1, 2, 3, 4, 5, 6, 7, …): torch did not finish"
    )


def test_the_interval_with_infinities_is_that_of_resamples_that_contain_them():
    """The closed form against what it stands for: resampled means, infinite where a draw is."""
    finite = np.array([0.3, -0.1, 0.2, 0.5, 0.15, 0.4, 0.25])
    d = np.array([*finite, np.inf])
    draws = np.random.default_rng(1).integers(len(d), size=(200_000, len(d)))
    means = np.sort(d[draws].mean(axis=1))
    outcome = equivalence(np.where(np.isfinite(d), d, np.nan), np.zeros(8), margin=0.1)
    assert outcome.low == pytest.approx(means[int(0.05 * len(means))], abs=0.01)
    assert outcome.high == means[int(0.95 * len(means))] == np.inf
    assert outcome.bootstrap == (outcome.low, outcome.high)
    alone = equivalence(finite, np.zeros(7), margin=0.1)
    assert outcome.low > alone.bootstrap[0] + 0.02  # a part of the resamples lies above all others


@given(both, margins, st.booleans())
def test_swapping_the_sides_mirrors_the_outcome(pairs, margin, higher):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    one = equivalence(a, b, margin=margin, higher_is_better=higher)
    other = equivalence(b, a, margin=margin, higher_is_better=higher)
    assert (one.outcome, one.n, one.diverged) == (other.outcome, other.n, other.diverged[::-1])
    numbers = [-other.high, -other.low, -other.mean, -other.bootstrap[1], -other.bootstrap[0]]
    np.testing.assert_array_equal([one.low, one.high, one.mean, *one.bootstrap], numbers)


@given(both, margins, st.floats(1, 100))
def test_a_larger_margin_never_makes_a_difference_nor_ends_an_equivalence(pairs, margin, factor):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    order = ["different", "too few seeds", "equivalent"]
    small, large = (equivalence(a, b, margin=m).outcome for m in (margin, margin * factor))
    assert order.index(large) >= order.index(small)


@given(both, margins)
def test_one_divergence_on_one_side_is_never_equivalent(pairs, margin):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    outcome = equivalence([*a, np.nan], [*b, 0.0], margin=margin)
    assert outcome.outcome != "equivalent"
    assert outcome.n + outcome.both_diverged == len(pairs) + 1


@given(both, margins)
def test_an_outcome_is_a_verdict_and_json(pairs, margin):
    outcome = equivalence([x for x, _ in pairs], [y for _, y in pairs], margin=margin)
    about = json.loads(json.dumps(outcome.to_dict(), allow_nan=False))
    assert about["verdict"] == outcome.verdict == VERDICTS[outcome.outcome]
    assert about["sentence"] == outcome.sentence()
    assert float(about["low"]) == outcome.low


def test_the_same_scores_have_the_same_interval_each_time():
    a, b = draws(8, 0.1, 0.2)
    assert equivalence(a, b, margin=1) == equivalence(a, b, margin=1)
    assert equivalence(a, b, margin=1, seed=1).bootstrap != equivalence(a, b, margin=1).bootstrap
