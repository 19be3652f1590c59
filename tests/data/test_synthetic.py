from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline import data, seeds
from pipeline.config.signatures import check_settings
from pipeline.config.types import ConfigError
from pipeline.data import synthetic

CONF = Path(__file__).parents[2] / "conf"
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


def drawn(name, seed=0, **changes):
    values = yaml.safe_load((CONF / "data" / f"{name}.yaml").read_text())
    values.pop("name")
    return data.make(name, settings=values | changes, stream=partial(seeds.stream, seed))


NEW = ["multilinear", "polynomial", "sine", "moons"]


@pytest.mark.parametrize("name", NEW)
def test_counts_streams_and_no_validation_set(name):
    made, longer, none = drawn(name), drawn(name, n=700), drawn(name, n_val=0)
    for split in ("val", "test"):
        np.testing.assert_array_equal(made.arrays[f"x_{split}"], longer.arrays[f"x_{split}"])
        assert not np.isin(made.arrays[f"x_{split}"], made.arrays["x_train"]).any()
    assert longer.rows == 700
    assert not {"x_val", "y_val"} & set(none.arrays)
    assert drawn(name, seed=1).digest != made.digest == drawn(name).digest
    assert json.loads(json.dumps(made.facts)) == made.facts


@pytest.mark.parametrize("name", NEW)
def test_facts_hold_without_noise(name):
    """Each formula once more, in other words; rounding of a few operations apart."""
    made = drawn(name, noise=0.0)
    x, y = made.arrays["x_train"], made.arrays["y_train"]
    if name == "multilinear":
        wanted = x @ np.array(made.facts["truth"]["w"])[:, None] + made.facts["truth"]["b"]
    elif name == "polynomial":
        wanted = np.polynomial.Polynomial(made.facts["coefficients"])(x)
        assert np.all(np.abs(x) <= 1)
    elif name == "sine":
        wanted = np.sin(2 * np.pi * x)
    else:
        centre = np.where(y == 0, [[0.0, 0.0]], [[1.0, 0.5]])
        np.testing.assert_allclose(np.hypot(*(x - centre).T), 1.0, rtol=1e-12)
        assert np.all(np.where(y[:, 0] == 0, x[:, 1] >= 0, x[:, 1] <= 0.5))
        assert abs(int((y == 0).sum()) - int((y == 1).sum())) <= 1
        return
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("d", "condition"), [(1, 1.0), (2, 10.0), (5, 1000.0)])
def test_the_condition_is_that_of_the_process(d, condition):
    """A sample covariance of n rows has eigenvalues within a factor 1 ± 6·√(2/n), and a bit for d."""
    made = drawn("multilinear", n=40_000, d=d, condition=condition)
    values = np.linalg.eigvalsh(np.cov(made.arrays["x_train"].T).reshape(d, d))
    np.testing.assert_allclose(values[-1] / values[0], condition, rtol=0.15)
    np.testing.assert_allclose(values[-1], 1.0, rtol=0.1)


def test_the_wave_has_its_settings():
    made = drawn("sine", noise=0.0, amplitude=2.0, frequency=3.0, phase=0.5, low=1.0, high=4.0)
    x, y = made.arrays["x_test"], made.arrays["y_test"]
    np.testing.assert_allclose(y, 2 * np.sin(6 * np.pi * x + 0.5), atol=1e-12)
    assert np.all((x >= 1) & (x < 4))


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("multilinear", "condition", 0.5), ("multilinear", "d", 0), ("polynomial", "coefficients", []),
     ("polynomial", "coefficients", [1.0, float("nan")]), ("sine", "frequency", 0.0),
     ("moons", "n", 1), ("moons", "n_val", -1), ("moons", "noise", -0.1)],
)  # fmt: skip
def test_settings_out_of_range_are_refused(name, key, value):
    values = yaml.safe_load((CONF / "data" / f"{name}.yaml").read_text()) | {key: value}
    values.pop("name")
    with pytest.raises(ConfigError, match=rf"^data\.{key}"):
        check_settings("data", data.maker(name), values)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match=r"data\.condition"):
        drawn("multilinear", d=1)
    with pytest.raises(ConfigError, match=r"data\.low"):
        drawn("sine", low=1.0)
