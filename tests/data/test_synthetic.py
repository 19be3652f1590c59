from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from pipeline import seeds
from pipeline.config import ConfigError
from pipeline.data import synthetic

ARTICLE = {"n": 200, "n_test": 50, "m": 0.1, "b": 0.3, "noise": 0.15, "low": -10.0, "high": 10.0}


def made(seed=0, **changes):
    return synthetic.linear(partial(seeds.stream, seed), **(ARTICLE | changes))


def test_shapes_facts_and_range():
    arrays, facts = made()
    assert {name: array.shape for name, array in arrays.items()} == {
        "x_train": (200, 1), "y_train": (200, 1), "x_test": (50, 1), "y_test": (50, 1)
    }  # fmt: skip
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float64)}
    assert facts == {"truth": {"w": 0.1, "b": 0.3}, "noise": 0.15}
    assert np.all((arrays["x_train"] >= -10) & (arrays["x_train"] < 10))


def test_without_noise_the_points_lie_on_the_line():
    arrays, _ = made(noise=0.0)
    np.testing.assert_array_equal(arrays["y_train"], 0.1 * arrays["x_train"] + 0.3)


def test_moments_are_those_of_the_process():
    """Six standard errors each: σ/√n for a mean, σ²·√(2/n) for a normal's variance."""
    n = 100_000
    arrays, _ = made(n=n)
    x, noise = arrays["x_train"], arrays["y_train"] - 0.1 * arrays["x_train"] - 0.3
    assert abs(x.mean()) < 6 * np.sqrt(100 / 3 / n)
    assert abs(x.var() - 100 / 3) < 6 * np.sqrt((2000 - (100 / 3) ** 2) / n)
    assert abs(noise.mean()) < 6 * 0.15 / np.sqrt(n)
    assert abs(noise.var() - 0.0225) < 6 * 0.0225 * np.sqrt(2 / n)
    assert abs(np.corrcoef(x[:, 0], noise[:, 0])[0, 1]) < 6 / np.sqrt(n)


def test_the_seed_decides_and_each_split_has_its_own_stream():
    first, again, other, longer = made(), made(), made(seed=1), made(n=300)
    for name, array in first[0].items():
        np.testing.assert_array_equal(array, again[0][name])
        assert not np.array_equal(array, other[0][name])
    np.testing.assert_array_equal(first[0]["y_test"], longer[0]["y_test"])
    assert not np.isin(first[0]["x_test"], first[0]["x_train"]).any()


@pytest.mark.parametrize("low", [10.0, 11.0])
def test_an_empty_range_is_refused(low):
    with pytest.raises(ConfigError, match=r"data\.low"):
        made(low=low)
