from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import metrics

pairs = hnp.arrays(np.float32, st.tuples(st.just(2), st.integers(1, 30), st.integers(1, 2)),
                   elements=st.integers(-100, 100).map(float))  # fmt: skip


@given(pairs)
def test_scores_are_their_definitions_in_exact_arithmetic(both):
    prediction, target = both
    errors = [Fraction(float(p)) - Fraction(float(t))
              for p, t in zip(prediction.flat, target.flat, strict=True)]  # fmt: skip
    scores = metrics.regression(prediction, target)
    assert scores["mse"] == pytest.approx(
        float(sum(e * e for e in errors) / len(errors)), rel=1e-14
    )
    assert scores["mae"] == pytest.approx(float(sum(map(abs, errors)) / len(errors)), rel=1e-14)
    total = Fraction(0)
    for column in target.T:
        values = [Fraction(float(v)) for v in column]
        middle = sum(values) / len(values)
        total += sum((v - middle) ** 2 for v in values)
    if total:
        expected = float(1 - sum(e * e for e in errors) / total)
        assert scores["r2"] == pytest.approx(expected, rel=1e-12, abs=1e-12)
    else:
        assert math.isnan(scores["r2"])


def test_a_perfect_prediction_and_the_mean():
    target = np.arange(10.0)[:, None]
    assert metrics.regression(target, target) == {"mse": 0.0, "mae": 0.0, "r2": 1.0}
    assert metrics.regression(np.full_like(target, 4.5), target)["r2"] == 0.0


def test_sums_are_taken_in_float64():
    """2²⁰ + 2⁻²⁰ is 2²⁰ in float32, so the small squares would be lost there."""
    target = np.zeros((100_001, 1), np.float32)
    prediction = np.full_like(target, 2.0**-10)
    prediction[0] = 2.0**10
    expected = (2.0**20 + 100_000 * 2.0**-20) / 100_001
    assert metrics.regression(prediction, target)["mse"] == pytest.approx(expected, rel=1e-15)


def test_other_shapes_are_refused_instead_of_broadcast():
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.regression(np.zeros((5, 1)), np.zeros(5))


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 20), st.integers(1, 4)),
               elements=st.floats(-30, 30)),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_classes_are_scored_by_their_definitions(logits, chance):
    """Of equal logits the first class counts; one column holds the log-odds of class 1."""
    classes = max(logits.shape[1], 2)
    labels = np.array([[chance.randrange(classes)] for _ in logits])
    rows = [[0.0, *row] if logits.shape[1] == 1 else list(row) for row in logits]
    right = [row.index(max(row)) == label for row, (label,) in zip(rows, labels, strict=True)]
    losses = [math.log(math.fsum(math.exp(z - row[label]) for z in row))
              for row, (label,) in zip(rows, labels, strict=True)]  # fmt: skip
    scores = metrics.classification(logits, labels)
    assert scores["accuracy"] == pytest.approx(sum(right) / len(right), rel=1e-15)
    assert scores["log_loss"] == pytest.approx(
        math.fsum(losses) / len(losses), rel=1e-12, abs=1e-14
    )
