from __future__ import annotations

import inspect
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import schedules
from pipeline.config.signatures import list_functions


@given(st.integers(1, 10**6), st.floats(1e-9, 1e3))
def test_constant_is_the_base_rate(step, lr):
    assert schedules.constant(step, lr=lr, steps=10**6) == lr


@pytest.mark.parametrize("name", list_functions(schedules))
def test_every_schedule_is_called_alike(name):
    """Called as ``f(step, lr=, steps=, **settings)``."""
    first, *rest = inspect.signature(list_functions(schedules)[name]).parameters.values()
    assert first.name == "step"
    assert {"lr", "steps"} <= {parameter.name for parameter in rest}
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in rest)
    assert all(parameter.default is parameter.empty for parameter in rest)


STEPS = st.integers(2, 2000)
BASE = st.floats(1e-6, 10)


@given(st.integers(1, 2000), BASE, st.integers(1, 50))
def test_step_falls_by_its_factor_after_every_so_many_updates(step, lr, every):
    rate = schedules.step(step, lr=lr, steps=2000, every=every, factor=0.5)
    assert rate == lr * 0.5 ** ((step - 1) // every)
    assert schedules.step(every, lr=lr, steps=2000, every=every, factor=0.5) == lr
    assert schedules.step(every + 1, lr=lr, steps=2000, every=every, factor=0.5) == lr / 2


@given(STEPS, BASE)
def test_exponential_has_a_constant_ratio(step, lr):
    a, b = (schedules.exponential(k, lr=lr, steps=step, factor=0.9) for k in (step, step + 1))
    assert b == pytest.approx(0.9 * a, rel=1e-12)
    assert schedules.exponential(1, lr=lr, steps=step, factor=0.9) == lr


@given(STEPS, BASE, st.floats(0, 0.9))
def test_cosine_goes_from_the_base_rate_to_the_final_one_without_rising(steps, lr, final):
    rates = [schedules.cosine(k, lr=lr, steps=steps, final=final) for k in range(1, steps + 1)]
    assert rates[0] == pytest.approx(lr, rel=1e-15)
    assert rates[-1] == pytest.approx(lr * final, rel=1e-12, abs=1e-15 * lr)
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(rates))


@given(st.integers(2, 300), st.integers(0, 200), BASE)
def test_warmup_rises_in_equal_steps_to_where_the_cosine_starts(rest, warmup, lr):
    steps = warmup + rest
    rates = [
        schedules.warmup_cosine(k, lr=lr, steps=steps, warmup=warmup, final=0.0)
        for k in range(1, steps + 1)
    ]
    for k in range(warmup + 1):
        assert rates[k] == pytest.approx(lr * (k + 1) / (warmup + 1), rel=1e-12)
    assert rates[warmup:] == [
        schedules.cosine(k, lr=lr, steps=rest, final=0.0) for k in range(1, rest + 1)
    ]
