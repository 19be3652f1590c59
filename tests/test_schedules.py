from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import config, schedules


@given(st.integers(1, 10**6), st.floats(1e-9, 1e3))
def test_constant_is_the_base_rate(step, lr):
    assert schedules.constant(step, lr=lr, steps=10**6) == lr


@pytest.mark.parametrize("name", config.functions(schedules))
def test_every_schedule_is_called_alike(name):
    """Called as ``f(step, lr=, steps=, **settings)``."""
    first, *rest = inspect.signature(config.functions(schedules)[name]).parameters.values()
    assert first.name == "step"
    assert {"lr", "steps"} <= {parameter.name for parameter in rest}
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in rest)
    assert all(parameter.default is parameter.empty for parameter in rest)
