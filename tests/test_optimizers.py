from __future__ import annotations

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import config, optimizers

RULES = config.functions(optimizers)
numbers = st.floats(-1e3, 1e3, width=32)


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=2), elements=numbers),
       st.floats(2**-20, 8, width=32))  # fmt: skip
def test_gd_moves_against_the_gradient(w, lr):
    g = np.cos(w)
    expected = w - np.float32(lr) * g
    moved, slots = optimizers.gd(w.copy(), g, (), lr=lr, sqrt=np.sqrt)
    np.testing.assert_array_equal(moved, expected)
    assert moved.dtype == np.float32
    assert slots == ()


@given(st.floats(0.1, 10), st.floats(1e-3, 5), st.integers(0, 30))
def test_gd_on_a_parabola_is_its_closed_form(curvature, start, steps):
    """On a·w²/2 with rate 1/(2a) the error halves at every step, exactly but for rounding."""
    w = np.array(start)
    for _ in range(steps):
        w, _ = optimizers.gd(w, curvature * w, (), lr=1 / (2 * curvature), sqrt=np.sqrt)
    np.testing.assert_allclose(w, start * 0.5**steps, rtol=4 * (steps + 1) * np.finfo(float).eps)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_called_alike(rule):
    parameters = inspect.signature(RULES[rule]).parameters
    assert list(parameters)[:3] == ["w", "g", "slots"]
    rest = list(parameters.values())[3:]
    assert {"lr", "sqrt"} <= {parameter.name for parameter in rest}
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in rest)
    assert all(parameter.default is parameter.empty for parameter in rest), (
        "spell out every setting"
    )
