from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import backends, losses
from pipeline.config.signatures import list_functions

NUMPY = backends.load("numpy").OPS
EXACT = {
    "mse": lambda e: e * e,
    "mae": abs,
    "huber": lambda e: e * e / 2 if abs(e) <= Fraction(3, 4) else Fraction(3, 4) * (abs(e) - Fraction(3, 8)),
}  # fmt: skip
SETTINGS = {"huber": {"delta": 0.75}}
pairs = hnp.arrays(np.float64, st.tuples(st.just(2), st.integers(1, 30), st.integers(1, 3)),
                   elements=st.floats(-1e3, 1e3, width=32))  # fmt: skip
logits = hnp.arrays(np.float64, st.tuples(st.integers(1, 20), st.integers(2, 5)),
                    elements=st.floats(-700, 700))  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
@given(both=pairs)
def test_a_loss_is_the_mean_over_every_element(name, both):
    """Against exact rational arithmetic; a sum of n non-negative terms is within (n + 4)·eps.

    Huber's linear part is δ·(|e| − q) with one cancellation, harmless because q²/2 is added to it.
    """
    terms = [EXACT[name](Fraction(p) - Fraction(t))
             for p, t in zip(both[0].flat, both[1].flat, strict=True)]  # fmt: skip
    expected = float(sum(terms) / len(terms))
    found = list_functions(losses)[name](*both, ops=NUMPY, **SETTINGS.get(name, {}))
    eps = np.finfo(float).eps
    assert found == pytest.approx(expected, rel=(len(terms) + 8) * eps, abs=1e-300)


@given(logits, st.integers(0, 2**31))
def test_binary_cross_entropy_is_the_mean_surprise(z, seed):
    """``−y·log p − (1−y)·log(1−p)`` with ``p = 1/(1+exp(−z))``, in extended precision."""
    y = np.random.default_rng(seed).integers(2, size=z.shape).astype(float)
    wide = z.astype(np.longdouble)
    surprise = np.where(y == 1, np.log1p(np.exp(-wide)), np.log1p(np.exp(wide)))
    found = losses.bce(z, y, ops=NUMPY)
    # log(1+exp z) − z loses the last bits of z where the two cancel.
    slack = 4 * np.finfo(float).eps * (1 + np.abs(z).max())
    assert abs(found - surprise.mean()) <= slack


@given(logits, st.integers(0, 2**31), st.sampled_from([0.0, 0.1, 0.5]))
def test_cross_entropy_is_the_mean_surprise_of_the_smoothed_target(z, seed, smoothing):
    n, k = z.shape
    y = np.eye(k)[np.random.default_rng(seed).integers(k, size=n)]
    mixed = np.where(y == 1, 1 - smoothing + smoothing / k, smoothing / k)
    wide = z.astype(np.longdouble)
    top = wide.max(axis=1, keepdims=True)
    log_p = wide - top - np.log(np.exp(wide - top).sum(axis=1, keepdims=True))
    found = losses.cross_entropy(z, y, ops=NUMPY, smoothing=smoothing)
    slack = 4 * (k + 4) * np.finfo(float).eps * (1 + np.abs(z).max())
    assert abs(found + (mixed * log_p).sum(axis=1).mean()) <= slack


@pytest.mark.parametrize("name", sorted(list_functions(losses)))
def test_a_loss_says_which_targets_it_wants(name):
    assert list_functions(losses)[name].targets in {"values", "binary", "classes", "any"}


@pytest.mark.parametrize("backend", backends.names())
def test_the_table_of_functions_is_numpys(backend):
    """What the losses use means the same in every backend, and has an entry for every word."""
    side = backends.load(backend)
    side.configure(threads=1, deterministic=True, device="cpu", dtype="float64", seed=0)
    ops = side.OPS
    assert set(vars(ops)) == set(vars(NUMPY))
    values = np.array([[1.5, 2.0, 33.0], [0.0, 4.0, 1e-3], [700.0, 36.5, 41.0]])
    tensor = _tensor(backend, values)
    for name, function in vars(NUMPY).items():
        more = (2.0,) if name in {"minimum", "maximum"} else ()
        signs = (1,) if name == "sqrt" else (1, -1)
        for sign in signs:
            found = np.asarray(getattr(ops, name)(sign * tensor, *more))
            expected = function(sign * values, *more)
            assert found.shape == np.shape(expected)
            np.testing.assert_allclose(found, expected, rtol=4 * np.finfo(float).eps)


def _tensor(backend, values):
    kinds = {"torch": "from_numpy", "tensorflow": "constant", "numpy": "asarray"}
    return getattr(pytest.importorskip(backend), kinds[backend])(values)
