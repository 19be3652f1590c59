from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import datasets

from pipeline import data, seeds
from pipeline.config.types import ConfigError
from pipeline.data.prepare import Moments, parts, prepared

SHARES = {"validation": 0.1, "test": 0.2}
SETS = {
    "diabetes": ({"standardise_target": True}, 442, (10,), None),
    "breast_cancer": ({}, 569, (30,), 2),
    "wine": ({}, 178, (13,), 3),
    "digits": ({"layout": "vector"}, 1797, (64,), 10),
}


def made(name, seed=0, **changes):
    settings = {"standardise": True, **SHARES, **SETS[name][0], **changes}
    return data.make(name, settings=settings, stream=partial(seeds.stream, seed))


def together(dataset, kind):
    return np.concatenate([dataset.arrays[f"{kind}_{s}"] for s in ("train", "val", "test")])


@pytest.mark.parametrize("name", SETS)
def test_every_row_is_in_one_split(name):
    _, rows, shape, classes = SETS[name]
    raw = {"standardise_target": False} if name == "diabetes" else {}
    dataset = made(name, standardise=False, **raw)
    original = getattr(datasets, f"load_{name}")(**({"scaled": False} if raw else {}))
    x, y = original.data / (16 if name == "digits" else 1), original.target
    found = np.hstack([together(dataset, "x"), together(dataset, "y")])
    np.testing.assert_array_equal(*(a[np.lexsort(a.T)] for a in (found, np.c_[x, y])))
    assert (len(found), dataset.inputs, dataset.outputs) == (rows, shape, 1)
    assert dataset.classes == classes
    assert len(dataset.arrays["x_test"]) == round(0.2 * rows)
    assert len(dataset.arrays["x_val"]) == round(0.1 * rows)
    kind = np.float64 if classes is None else np.int64
    assert {a.dtype for k, a in dataset.arrays.items() if k[0] == "y"} == {np.dtype(kind)}
    assert json.loads(json.dumps(dataset.facts)) == dataset.facts


@pytest.mark.parametrize("name", SETS)
def test_statistics_are_those_of_the_training_rows_alone(name):
    dataset, raw = made(name), made(name, standardise=False)
    x = dataset.arrays["x_train"]
    constant = np.ptp(raw.arrays["x_train"], axis=0) == 0
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(x.std(axis=0), np.where(constant, 0, 1), atol=1e-12)
    assert constant.any() == (name == "digits")
    about = dataset.facts["standardised"]
    assert np.all(np.array(about["scale"])[constant] == 1)
    for split in ("val", "test"):
        back = dataset.arrays[f"x_{split}"] * about["scale"] + about["mean"]
        np.testing.assert_allclose(back, raw.arrays[f"x_{split}"], rtol=1e-12, atol=1e-12)
        assert np.abs(dataset.arrays[f"x_{split}"].mean(axis=0)).max() > 1e-3
    if name == "diabetes":
        y = dataset.arrays["y_train"]
        np.testing.assert_allclose([y.mean(), y.std()], [0, 1], atol=1e-12)


def test_layouts_are_the_same_numbers():
    vector, image, rows = (made("digits", layout=way) for way in ("vector", "image", "rows"))
    assert (image.inputs, rows.inputs) == ((8, 8, 1), (8, 8))
    for name, array in vector.arrays.items():
        for other in (image, rows):
            np.testing.assert_array_equal(other.arrays[name].reshape(array.shape), array)


@pytest.mark.parametrize("name", SETS)
def test_seed_and_storage(name, tmp_path):
    dataset = made(name)
    back = data.load(data.save(dataset, tmp_path))
    assert back.digest == dataset.digest == made(name).digest != made(name, seed=1).digest
    assert (back.facts, back.classes) == (dataset.facts, dataset.classes)


def test_without_a_validation_set():
    assert set(made("wine", validation=0.0).arrays) == {"x_train", "y_train", "x_test", "y_test"}


@given(
    st.lists(st.integers(0, 3), min_size=20, max_size=200),
    st.sampled_from([0.0, 0.1, 0.25]),
    st.sampled_from([0.1, 0.2, 0.5]),
    st.integers(0, 99),
)
def test_splits_are_disjoint_exhaustive_and_stratified(classes, validation, test, seed):
    """Each class has its share of a split to within one row; a second split adds one for the first."""
    classes = np.array(classes)
    n = len(classes)
    found = parts(
        seeds.stream(seed, "data.split"), n, validation=validation, test=test, classes=classes
    )
    np.testing.assert_array_equal(np.sort(np.concatenate(list(found.values()))), np.arange(n))
    shares = {"test": test, "val": validation}
    assert set(found) == {"train", "test"} | ({"val"} if validation else set())
    for split in set(found) - {"train"}:
        assert len(found[split]) == round(n * shares[split])
        for k in range(4):
            wanted = (classes == k).sum() * len(found[split]) / n
            assert abs((classes[found[split]] == k).sum() - wanted) <= (1 if split == "test" else 2)


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6), st.floats(-1e6, 1e6), st.integers(0, 99)
)
def test_moments_of_blocks_are_those_of_all_rows(lengths, far, seed):
    rng = np.random.default_rng(seed)
    blocks = [far + rng.normal(size=(n, 2)) * [1.0, 0.0] for n in lengths]
    whole = np.concatenate(blocks)
    moments = Moments(["a", "b"])
    for block in blocks:
        moments.add(block)
    mean, scale = moments.result()
    np.testing.assert_allclose(mean, whole.mean(axis=0), rtol=1e-12, atol=1e-12)
    exact = (whole - whole.mean(axis=0)).astype(np.longdouble).std(axis=0)
    np.testing.assert_allclose(scale[0], exact[0] if len(whole) > 1 else 1.0, rtol=1e-6)
    assert (mean[1], scale[1]) == (far, 1.0)


CALL = {"names": ["a"], "targets": ["y"], "standardise": True}


def ready(x, y, **changes):
    return prepared(partial(seeds.stream, 0), x, y, **(CALL | SHARES | changes))


@pytest.mark.parametrize(
    ("rows", "changes", "key"),
    [(2, {}, "data.test"), (4, {}, "data.validation"), (3, {"test": 0.9}, "data.test"),
     (9, {"test": 0.5, "validation": 0.5}, "data.test")],
)  # fmt: skip
def test_an_empty_split_is_refused(rows, changes, key):
    with pytest.raises(ConfigError, match=f"^{key}"):
        ready(np.arange(float(rows))[:, None], np.ones((rows, 1)), **changes)


def test_training_without_a_class_is_refused():
    y = np.array([0] * 10 + [1])[:, None]
    seen = set()
    for seed in range(40):
        rows = {"labels": ["a", "b"], "test": 0.45, "validation": 0.0}
        try:
            prepared(partial(seeds.stream, seed), np.ones((11, 1)), y, **(CALL | rows))
        except ConfigError as error:
            seen.add(str(error))
    assert seen == {"data.test=0.45: with data.validation leaves no training row of class b"}


def test_numbers_too_large_to_square_are_refused():
    with pytest.raises(ConfigError, match=r"data\.standardise=true: column a is too large"):
        ready(np.linspace(-1e200, 1e200, 20)[:, None], np.ones((20, 1)))


def test_importing_data_loads_no_reader_of_files():
    code = (
        "import sys, pipeline.data, pipeline.data.batches\n"
        "assert not {'sklearn', 'pyarrow', 'pandas', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
