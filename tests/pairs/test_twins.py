"""The contract of every pair, in every backend that has a twin of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import backends
from pipeline.config.types import ConfigError
from pipeline.pairs.arrange import check_places, to_framework, to_neutral
from pipeline.pairs.pair import Place
from pipeline.pairs.registry import find_pair, list_pairs

PAIRS = list_pairs()
SIDES = [(model, backend) for model in PAIRS for backend in find_pair(model).backends]
# Twins that a backend does not have, as (model, backend): gradients by hand end at the mlp.
MISSING = {(model, "numpy") for model in ("attention", "cnn", "dynamic", "rnn")}


def shapes(tools, model):
    """A shape with different sizes on all axes, and square ones that a wrong transpose fits too."""
    for inputs, outputs in (((3,), 2), ((4,), 4), ((1,), 1), ((8, 9, 2), 3), ((5, 4), 3)):
        try:
            rng = np.random.default_rng(5)
            spec = find_pair(model).spec
            values = spec.first_values(
                rng, inputs=inputs, outputs=outputs, **tools.model_settings(model)
            )
        except ConfigError:
            continue
        noise = {name: 0.1 * rng.normal(size=np.shape(value)) for name, value in values.items()}
        noise = {n: 1 + abs(v) if n.endswith("variance") else v for n, v in noise.items()}
        yield inputs, outputs, values, noise


def test_missing_twins_are_listed():
    whole = {(model, backend) for model in PAIRS for backend in backends.names()}
    assert whole - set(SIDES) == MISSING


def test_every_twin_is_of_a_known_backend_and_names_need_no_import():
    assert {backend for _, backend in SIDES} <= set(backends.names())
    assert {"linear", "dense"} <= set(PAIRS)


@pytest.mark.parametrize(("model", "backend"), SIDES)
def test_every_parameter_is_mapped_exactly_once_with_the_specs_names_and_shapes(
    tools, model, backend
):
    for inputs, outputs, values, _ in shapes(tools, model):
        side, built, twin = tools.build(
            backend, model, values=values, inputs=inputs, outputs=outputs
        )
        placed = twin.name_map(built)
        assert list(placed) == list(values)
        read = side.read(built, twin)
        assert {n: a.shape for n, a in read.items()} == {n: np.shape(v) for n, v in values.items()}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("model", "backend"), SIDES)
def test_values_come_back_bit_by_bit(tools, model, backend, dtype):
    for inputs, outputs, _, noise in shapes(tools, model):
        side, built, twin = tools.build(backend, model, values=noise, inputs=inputs,
                                        outputs=outputs, dtype=dtype)  # fmt: skip
        for name, array in side.read(built, twin).items():
            assert array.dtype == dtype
            np.testing.assert_array_equal(array, noise[name].astype(dtype), strict=True)


@pytest.mark.parametrize("model", PAIRS)
def test_twins_are_one_function_of_the_neutral_values(tools, model):
    """Random values in every parameter, square shapes among them: a lost transpose shows here.

    Outputs are sums of few products; deeper ones pass a few layers of that.
    """
    for inputs, outputs, _, noise in shapes(tools, model):
        x = np.random.default_rng(6).normal(size=(5, *inputs))
        found = []
        for backend in find_pair(model).backends:
            side, built, _ = tools.build(
                backend, model, values=noise, inputs=inputs, outputs=outputs
            )
            found.append(side.predict(built, x))
            assert found[-1].shape == (5, outputs)
            bound = 64 * np.finfo(float).eps * max(1, np.abs(found[0]).max())
            np.testing.assert_allclose(found[-1], found[0], rtol=0, atol=bound)


@pytest.mark.parametrize(("model", "backend"), [s for s in SIDES if s[0] in {"linear", "dense"}])
def test_lines_are_x_times_w_plus_b(tools, model, backend):
    for inputs, outputs, _, noise in shapes(tools, model):
        x = np.random.default_rng(6).normal(size=(5, *inputs))
        side, built, _ = tools.build(backend, model, values=noise, inputs=inputs, outputs=outputs)
        expected = (x @ noise["w"] if noise["w"].ndim else x * noise["w"]) + noise["b"]
        np.testing.assert_allclose(side.predict(built, x), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("backend", backends.names())
@pytest.mark.parametrize("damage", ["missing", "unknown", "shape"])
def test_values_that_do_not_fit_are_refused(tools, backend, damage):
    values = {"w": np.zeros((3, 2)), "b": np.zeros(2)}
    values |= {"unknown": {"c": np.zeros(1)}, "shape": {"w": np.zeros((2, 3))}}.get(damage, {})
    if damage == "missing":
        del values["b"]
    with pytest.raises(ValueError, match="shape|maps"):
        tools.build(backend, "dense", values=values, inputs=(3,), outputs=2)


stacks = hnp.arrays(np.float32, hnp.array_shapes(min_dims=3, max_dims=5, max_side=4))


@given(stacks, st.data())
def test_neutral_undoes_framework_for_every_transpose(stack, data):
    axes = tuple(data.draw(st.permutations(range(stack.ndim - 1))))
    place = Place("p", axes)
    arranged = [to_framework({"p": place}, {"p": row}, [row.transpose(axes).shape])[0]
                for row in stack]  # fmt: skip
    assert all(array.flags.c_contiguous for array in arranged)
    np.testing.assert_array_equal(arranged[0], stack[0].transpose(axes))
    np.testing.assert_array_equal(to_neutral(place.axes, arranged[0]), stack[0])
    np.testing.assert_array_equal(to_neutral(place.axes, np.stack(arranged), leading=1), stack)


def test_a_square_matrix_is_turned_only_where_it_is_listed():
    square = np.arange(4.0).reshape(2, 2)
    both = {"turned": Place("p", (1, 0)), "kept": Place("p")}
    turned, kept = to_framework(both, {"kept": square, "turned": square}, [(2, 2)] * 2)
    np.testing.assert_array_equal(turned, square.T)
    np.testing.assert_array_equal(kept, square)


def test_to_framework_copies():
    value = np.zeros(2)
    (arranged,) = to_framework({"p": Place("p")}, {"p": value}, [(2,)])
    arranged[0] = 1
    assert value[0] == 0


@pytest.mark.parametrize(
    ("mapped", "there", "said"),
    [("ab", "abc", "without a name: c"), ("aa", "ab", "without a name: b; named twice: a"),
     ("abc", "ab", "not in the model: c"), ("aa", "a", "named twice: a")],
)  # fmt: skip
def test_a_variable_left_out_or_mapped_twice_is_named(mapped, there, said):
    places = {str(i): Place(path) for i, path in enumerate(mapped)}
    with pytest.raises(ValueError, match=f"exactly once; {said}$"):
        check_places(places, paths=[*there], learnable=[])


@pytest.mark.parametrize("model", ["linear", "dense"])
def test_least_squares_has_a_residual_at_right_angles_to_the_inputs(tools, model):
    """The normal equations, Xᵀ(y − Xθ) = 0: what makes it the minimum, and the only one."""
    spec = find_pair(model).spec
    if not hasattr(spec, "least_squares"):
        pytest.skip(f"{model} has no closed form")
    samples = tools.line().arrays
    x, y = samples["x_train"], samples["y_train"]
    best = spec.least_squares(x, y)
    residual = y - (x * np.squeeze(best["w"]) + np.squeeze(best["b"]))
    X = np.hstack([x, np.ones_like(x)])
    tolerance = len(x) * np.finfo(float).eps * np.abs(X).sum(axis=0) * np.abs(y).max()
    assert np.all(np.abs(X.T @ residual)[:, 0] <= tolerance)


@pytest.mark.parametrize("model", PAIRS)
def test_first_values_are_the_streams(tools, model):
    (inputs, outputs, values, _), *_ = shapes(tools, model)
    again = find_pair(model).spec.first_values(
        np.random.default_rng(5), inputs=inputs, outputs=outputs, **tools.model_settings(model)
    )
    for name, value in values.items():
        np.testing.assert_array_equal(value, again[name])
        assert np.asarray(value).dtype == np.float64


def test_first_values_have_the_stated_ranges():
    rng = np.random.default_rng(0)
    scalars = [
        find_pair("linear").spec.first_values(rng, inputs=(1,), outputs=1) for _ in range(500)
    ]
    drawn = np.array([[float(v["w"]), float(v["b"])] for v in scalars])
    dense = find_pair("dense").spec.first_values(rng, inputs=(20,), outputs=30)
    for sample, limit in ((drawn[:, 0], 0.1), (drawn[:, 1], 0.1), (dense["w"], np.sqrt(6 / 50))):
        assert 0.98 * limit < np.abs(sample).max() <= limit  # 500 draws: missed with 4e-5
        assert sample.min() < 0 < sample.max()
    assert not dense["b"].any()


def test_models_refuse_samples_they_cannot_take():
    rng = np.random.default_rng(0)
    for model, inputs, outputs in (("linear", (2,), 1), ("linear", (1,), 2), ("dense", (2, 2), 1)):
        with pytest.raises(ConfigError, match=r"model\.name"):
            find_pair(model).spec.first_values(rng, inputs=inputs, outputs=outputs)


def test_an_unknown_model_is_refused():
    with pytest.raises(
        ConfigError, match=r"model\.name=nothing: must be one of attention, .*linear"
    ):
        find_pair("nothing")


@pytest.mark.parametrize("model", PAIRS)
def test_a_twin_is_the_frameworks_own_kind_and_from_scratch_has_no_layer(tools, model):
    """Subclasses both; of the pairs that are written out, neither holds a layer."""
    import keras
    from torch import nn

    (inputs, outputs, values, _), *_ = shapes(tools, model)
    for backend, kind in (("torch", nn.Module), ("tensorflow", keras.Model)):
        _, built, twin = tools.build(backend, model, values=values, inputs=inputs, outputs=outputs)
        assert isinstance(built, kind)
        assert type(built) is twin.model is not kind
        held = list(built.children()) if backend == "torch" else built.layers
        assert (not held) == (model in {"linear", "polynomial", "softmax", "rnn"})
