from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import backends, config, losses

NUMPY = SimpleNamespace(mean=np.mean, square=np.square, absolute=np.abs)
EXACT = {"mse": lambda e: e * e, "mae": abs}
pairs = hnp.arrays(np.float64, st.tuples(st.just(2), st.integers(1, 30), st.integers(1, 3)),
                   elements=st.floats(-1e3, 1e3, width=32))  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
@given(both=pairs)
def test_a_loss_is_the_mean_over_every_element(name, both):
    """Against exact rational arithmetic; a sum of n non-negative terms is within (n + 4)·eps."""
    terms = [EXACT[name](Fraction(p) - Fraction(t))
             for p, t in zip(both[0].flat, both[1].flat, strict=True)]  # fmt: skip
    expected = float(sum(terms) / len(terms))
    found = config.functions(losses)[name](*both, ops=NUMPY)
    assert found == pytest.approx(expected, rel=(len(terms) + 4) * np.finfo(float).eps, abs=1e-300)


@pytest.mark.parametrize("backend", backends.names())
def test_the_table_of_functions_is_numpys(backend):
    """What the losses use means the same in every backend, and has an entry for every word."""
    side = backends.load(backend)
    side.configure(threads=1, deterministic=True, device="cpu", dtype="float64", seed=0)
    ops = side.OPS
    assert set(vars(ops)) == set(vars(NUMPY))
    values = np.array([[-1.5, 2.0], [0.0, -4.0]])
    tensor = _tensor(backend, values)
    for name, function in vars(NUMPY).items():
        np.testing.assert_array_equal(np.asarray(getattr(ops, name)(tensor)), function(values))


def _tensor(backend, values):
    if backend == "torch":
        return pytest.importorskip("torch").from_numpy(values)
    return pytest.importorskip(backend).constant(values)
