"""Gradients derived by hand beside those of both frameworks, and beside differences of the loss.

The NumPy twins in extended precision are what the others are measured with: central differences
there are good to about 1e-13 instead of 1e-7.
"""

from __future__ import annotations

import math
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from tiers import tiered
from wrongs import find_variables

from pipeline.config.signatures import check_settings
from pipeline.config.types import ConfigError
from pipeline.pairs.arrange import to_neutral
from pipeline.pairs.builtin.mlp.numpy import ACTIVATIONS
from pipeline.pairs.builtin.mlp.torch import BatchNorm
from pipeline.pairs.registry import find_pair

MLPS = [
    ("mlp", (3,), 2, {"widths": [6, 5], "activation": activation, "norm": norm, "dropout": 0.4})
    for activation in ("relu", "tanh", "gelu", "sigmoid")
    for norm in ("none", "batch", "layer")
]
CASES = [
    ("linear", (1,), 1, {}),
    ("polynomial", (1,), 1, {"degree": 4}),
    ("dense", (3,), 2, {}),
    ("softmax", (4,), 4, {}),
    *MLPS,
]
IDS = ["-".join([c[0], *(v for v in c[3].values() if isinstance(v, str))]) for c in CASES]
pairs = pytest.mark.parametrize(("model", "inputs", "outputs", "settings"), CASES, ids=IDS)
mlps = pytest.mark.parametrize(
    ("model", "inputs", "outputs", "settings"), MLPS, ids=IDS[-len(MLPS) :]
)
ROWS = 9


@pytest.fixture
def given(tools):
    """Values far from their first ones, samples, masks and a slope of the loss, for one case."""

    def make(model, inputs, outputs, settings):
        rng = np.random.default_rng(7)
        settings, spec = tools.model_settings(model) | settings, find_pair(model).spec
        first = spec.first_values(rng, inputs=inputs, outputs=outputs, **settings)
        values = {n: np.asarray(v + rng.normal(0, 0.3, np.shape(v))) for n, v in first.items()}
        values |= {n: np.exp(v) for n, v in values.items() if n.endswith("variance")}
        shape = {"inputs": inputs, "outputs": outputs}
        draw = getattr(spec, "masks", lambda rng, **_: [])
        masks = draw(rng, batch=ROWS, **shape, **settings)
        return values, rng.normal(size=(ROWS, *inputs)), masks, rng.normal(size=(ROWS, outputs))

    return make


@pytest.fixture
def sides(tools):
    """For each backend a function: x, masks, slope → outputs, gradients of Σ slope·ŷ, and so on."""

    def make(backend, model, inputs, outputs, settings, values, dtype="float64"):
        side, built, twin = tools.build(
            backend, model, values=values, inputs=inputs, outputs=outputs, settings=settings,
            dtype=dtype,
        )  # fmt: skip
        placed = find_variables(backend, built, twin)
        trained = {name: place for name, place in placed.items() if place.trained}

        def numpy(x, masks, slope):
            y = built.forward(x, *masks, training=True)
            found = built.backward(slope)
            assert set(found) == set(trained)
            return y, found

        def in_torch(x, masks, slope):
            variables = [place.tensor for place in trained.values()]
            x, slope, *masks = (torch.as_tensor(a.astype(dtype)) for a in (x, slope, *masks))
            y = built.train()(x, *masks)
            return y.detach().numpy(), torch.autograd.grad((y * slope).sum(), variables)

        def in_tensorflow(x, masks, slope):
            variables = [place.tensor for place in trained.values()]
            x, slope, *masks = (tf.constant(a.astype(dtype)) for a in (x, slope, *masks))
            with tf.GradientTape() as tape:
                y = built(x, *masks, training=True)
                loss = tf.reduce_sum(y * slope)
            return y.numpy(), tape.gradient(loss, variables)

        run = {"numpy": numpy, "torch": in_torch, "tensorflow": in_tensorflow}[backend]

        def step(x, masks, slope):
            y, found = run(x, masks, slope)
            if not isinstance(found, dict):
                found = {
                    name: to_neutral(place.axes, np.asarray(g))
                    for (name, place), g in zip(trained.items(), found, strict=True)
                }
            return y, found

        return step, partial(side.predict, built), partial(side.read, built, twin), built

    return make


def close(found, expected, within):
    """Normwise: the largest difference in units of the largest entry."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    scale = max(np.abs(expected).max(), np.finfo(float).tiny)
    assert np.abs(found - expected).max() <= within * scale


@pairs
def test_three_backends_are_one_function_with_one_gradient(
    given, sides, model, inputs, outputs, settings
):
    values, x, masks, slope = given(model, inputs, outputs, settings)
    exact, predict, read, _ = sides(
        "numpy", model, inputs, outputs, settings, values, dtype="longdouble"
    )
    wide = [a.astype(np.longdouble) for a in (x, slope, *masks)]
    evaluated = predict(wide[0])
    y, gradients = exact(wide[0], wide[2:], wide[1])
    after = read()
    for backend in ("numpy", "torch", "tensorflow"):
        step, predict, read, _ = sides(backend, model, inputs, outputs, settings, values)
        close(predict(x), evaluated, 1e-14)
        found, own = step(x, masks, slope)
        close(found, y, 1e-14)
        for name, gradient in gradients.items():
            close(own[name], gradient, 1e-13)
        for name, value in read().items():  # statistics have moved, the same way
            close(value, after[name], 1e-15)


@pairs
def test_gradients_by_hand_are_those_of_differences(given, sides, model, inputs, outputs, settings):
    """Central differences: an error of h² from the third derivative, and eps/h from rounding."""
    values, x, masks, slope = given(model, inputs, outputs, settings)
    x, slope, *masks = (a.astype(np.longdouble) for a in (x, slope, *masks))
    step, _, _, built = sides("numpy", model, inputs, outputs, settings, values, dtype="longdouble")
    _, gradients = step(x, masks, slope)
    h = np.longdouble(2) ** -20 if np.finfo(np.longdouble).nmant > 52 else np.longdouble(2) ** -17
    for name, gradient in gradients.items():
        p, differences = built.p[name], np.zeros_like(gradient)
        for i in np.ndindex(p.shape):
            here, sums = p[i].copy(), []
            for moved in (here + h, here - h):
                p[i] = moved
                sums.append((built.forward(x, *masks, training=True) * slope).sum())
            p[i] = here
            differences[i] = (sums[0] - sums[1]) / (2 * h)
        close(gradient, differences, 1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64", "longdouble"])
@pairs
def test_nothing_leaves_the_precision(given, sides, model, inputs, outputs, settings, dtype):
    values, x, masks, slope = given(model, inputs, outputs, settings)
    x, slope, *masks = (a.astype(dtype) for a in (x, slope, *masks))
    step, predict, read, _ = sides("numpy", model, inputs, outputs, settings, values, dtype=dtype)
    y, gradients = step(x, masks, slope)
    for array in (y, predict(x), *gradients.values(), *read().values()):
        assert array.dtype == dtype


def test_longdouble_is_not_cut_to_double_on_the_way():
    """erf by its series, held against tabulated digits; and each slope against differences."""
    digits = {  # DLMF 7.2
        0.5: "0.520499877813046537682746653891964528736",
        1.0: "0.842700792949714869341220635082609259296",
        2.0: "0.995322265018952734162069256367252928611",
    }
    u = np.finfo(np.longdouble).eps
    for z, text in digits.items():
        root = np.sqrt(np.longdouble(2))
        value, _ = ACTIVATIONS["gelu"](np.array([root * z]))
        expected = root * z * (1 + np.longdouble(text)) / 2
        assert abs(value[0] - expected) <= 8 * u * expected
    z = np.linspace(-9, 9, 400)
    exact = [z_i * (1 + math.erf(z_i / math.sqrt(2))) / 2 for z_i in z]
    for dtype in (np.float32, np.float64, np.longdouble):
        eps = max(np.finfo(dtype).eps, np.finfo(float).eps)
        value, _ = ACTIVATIONS["gelu"](z.astype(dtype))
        np.testing.assert_allclose(value, exact, rtol=0, atol=9 * 4 * eps)
    for name, activation in ACTIVATIONS.items():
        z = np.linspace(-6.1, 6, 301).astype(np.longdouble)
        h = np.longdouble(2) ** -18
        slope = (activation(z + h)[0] - activation(z - h)[0]) / (2 * h)
        np.testing.assert_allclose(activation(z)[1], slope, rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_activations_do_not_overflow(activation):
    with np.errstate(all="raise", under="ignore"):
        for dtype in (np.float32, np.float64, np.longdouble):
            value, slope = ACTIVATIONS[activation](np.array([-1e4, -80, 0, 80, 1e4], dtype))
            assert np.isfinite(value).all()
            assert np.isfinite(slope).all()


@mlps
def test_masks_drop_the_units_they_say(given, sides, model, inputs, outputs, settings):
    """A unit dropped for every sample teaches nothing to the weights that read it."""
    values, x, masks, slope = given(model, inputs, outputs, settings)
    assert [mask.shape for mask in masks] == [(ROWS, width) for width in settings["widths"]]
    assert set(np.unique(np.concatenate([m.ravel() for m in masks]))) == {0, 1 / 0.6}
    masks[0][:, 2] = 0
    masks[1][:, [0, 3]] = 0
    for backend in ("numpy", "torch", "tensorflow"):
        step, *_ = sides(backend, model, inputs, outputs, settings, values)
        _, gradients = step(x, masks, slope)
        for name, dropped in (("layer2.w", {2}), ("out.w", {0, 3})):
            silent = {*np.flatnonzero(~gradients[name].any(axis=1))}
            if settings["activation"] == "relu":  # which can be silent by itself
                assert dropped <= silent
            else:
                assert dropped == silent


def test_masks_keep_the_mean_and_none_are_drawn_for_no_dropout(tools):
    spec, settings = find_pair("mlp").spec, tools.model_settings("mlp")
    draw = partial(spec.masks, batch=500, inputs=(3,), outputs=2)
    assert draw(np.random.default_rng(0), **settings | {"dropout": 0.0}) == []
    masks = draw(np.random.default_rng(0), **settings | {"dropout": 0.25, "widths": [40, 40]})
    dropped = np.concatenate([m == 0 for m in masks]).mean()
    assert abs(dropped - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 40_000)
    assert not np.array_equal(*masks)
    again = draw(np.random.default_rng(0), **settings | {"dropout": 0.25, "widths": [40, 40]})
    np.testing.assert_array_equal(masks, again)


@pytest.mark.parametrize(("sizes", "within"), [((9, 2, 30), 1e-14), ((9, 2, 1, 30), 1e-12)])
def test_statistics_of_many_batches_agree_also_of_one_sample(given, sides, sizes, within):
    """The frameworks take ``x·i − mean·i`` with i = 1/√ε ≈ 316 there, and lose a factor of that."""
    model, inputs, outputs, settings = next(c for c in MLPS if c[3]["norm"] == "batch")
    values, *_ = given(model, inputs, outputs, settings)
    rng = np.random.default_rng(3)
    batches = [rng.normal(k, 1 + k, size=(rows, *inputs)) for k, rows in enumerate(sizes)]
    found = {}
    for backend in ("numpy", "torch", "tensorflow"):
        step, predict, read, _ = sides(backend, model, inputs, outputs, settings, values)
        for x in batches:
            step(x, [], np.ones((len(x), outputs)))
        found[backend] = read() | {"evaluated": predict(batches[0])}
    for backend in ("torch", "tensorflow"):
        for name, value in found["numpy"].items():
            close(found[backend][name], value, within)
    assert np.abs(found["numpy"]["norm1.mean"] - values["norm1.mean"]).max() > 0.1


@pytest.mark.parametrize("shape", [(7, 5), (6, 5, 3, 4)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_batch_norm_is_kerass_and_not_pytorchs(tools, shape, scale):
    """Trap 16: PyTorch's own layer normalises with the biased variance and stores the unbiased."""
    for backend in ("torch", "tensorflow"):
        tools.build(backend, "linear", values=None)  # float64 everywhere
    epsilon, decay = 1e-3, 0.8
    ours = BatchNorm(shape[1], epsilon=epsilon, decay=decay)
    own = (torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d)(
        shape[1], eps=epsilon, momentum=1 - decay
    )
    theirs = keras.layers.BatchNormalization(axis=1, momentum=decay, epsilon=epsilon)
    theirs.build(shape)
    rng, n = np.random.default_rng(1), math.prod(shape) // shape[1]
    unbiased = np.ones(shape[1])
    for _ in range(4):
        x = rng.normal(0.5, 1, shape) * scale
        y = ours(torch.from_numpy(x)).detach().numpy()
        close(y, theirs(x, training=True), 1e-14)
        close(y, own(torch.from_numpy(x)).detach(), 1e-14)
        axes = tuple(k for k in range(len(shape)) if k != 1)
        unbiased = unbiased * decay + x.var(axis=axes) * (n / (n - 1)) * (1 - decay)
    close(ours.mean, theirs.moving_mean, 1e-15)
    close(ours.variance, theirs.moving_variance, 1e-15)
    close(ours.mean, own.running_mean, 1e-15)
    close(unbiased, own.running_var, 1e-15)
    assert (own.running_var.numpy() - ours.variance.numpy() > 0.2 * scale**2 / n).all()
    x = rng.normal(size=shape)
    close(ours.eval()(torch.from_numpy(x)).detach(), theirs(x, training=False), 1e-14)


def test_batch_norm_of_a_constant_feature_keeps_a_variance_of_zero():
    with torch.no_grad():
        norm = BatchNorm(1, epsilon=1e-5, decay=0.0)
        for value in np.linspace(-3, 3, 20):
            y = norm(torch.full((8, 1), float(value)))
            assert 0 <= norm.variance.item() <= 1e-5 * 4 * torch.finfo(y.dtype).eps
            assert abs(y).max() < 0.01


@pytest.mark.parametrize(
    ("backend", "xla"),
    tiered(
        [("torch", False), ("tensorflow", False), ("tensorflow", True)],
        short=lambda number, _: number == 1,
    ),
)
def test_a_compiled_training_is_the_eager_one(tools, backend, xla):
    """Batch norm's statistics, gelu and masks inside one graph with the backward pass."""
    settings = {"widths": [6, 5], "norm": "batch", "activation": "gelu", "dropout": 0.4}
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 2))
    spec, settings = find_pair("mlp").spec, tools.model_settings("mlp") | settings
    shape = {"inputs": (3,), "outputs": 2}
    values = spec.first_values(rng, **shape, **settings)

    def masks(k, sizes):
        stream = np.random.default_rng(k)
        return [spec.masks(stream, batch=size, **shape, **settings) for size in sizes]

    def trained(backend, **how):
        run = tools.train(
            backend, "mlp", x=x, y=y, values=values, rates=np.full(5, 0.05), masks=masks,
            settings=settings, **how,
        )  # fmt: skip
        return {name: a for name, a in run.arrays.items() if name != "seconds"}

    eager = trained("numpy")
    compiled = trained(backend, execution="compiled", xla=xla)
    assert set(compiled) == set(eager)
    for name, array in eager.items():
        close(compiled[name], array, 1e-12)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"widths": []}, "model.widths"),
        ({"widths": [4, 0]}, "model.widths.1"),
        ({"widths": 4}, "model.widths"),
        ({"activation": "swish"}, "model.activation"),
        ({"norm": "group"}, "model.norm"),
        ({"norm_epsilon": 0.0}, "model.norm_epsilon"),
        ({"norm_decay": 1.0}, "model.norm_decay"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"depth": 3}, "model.depth"),
    ],
)
def test_settings_of_the_mlp_that_make_no_sense_are_refused(tools, settings, key):
    function = find_pair("mlp").spec.first_values
    given = tools.model_settings("mlp")
    check_settings("model", function, given)
    with pytest.raises(ConfigError, match=f"^{key}="):
        check_settings("model", function, given | settings)


@mlps
def test_first_values_of_the_mlp(tools, model, inputs, outputs, settings):
    """He's variance 2/inputs before relu and gelu, Glorot's 2/(inputs + outputs) elsewhere."""
    spec = find_pair(model).spec
    settings = tools.model_settings(model) | settings | {"widths": [80, 90]}
    values = spec.first_values(np.random.default_rng(0), inputs=(70,), outputs=50, **settings)
    he = settings["activation"] in ("relu", "gelu")
    for name, before, after, by_he in (
        ("layer1.w", 70, 80, he), ("layer2.w", 80, 90, he), ("out.w", 90, 50, False)
    ):  # fmt: skip
        expected = 2 / before if by_he else 2 / (before + after)
        # The mean of n squares is within 5 of its standard deviations, √(2/n) at most.
        assert abs(values[name].var() / expected - 1) < 5 * math.sqrt(2 / values[name].size)
    assert ("layer1.b" in values) == (settings["norm"] != "batch")
    assert all(not v.any() for n, v in values.items() if n.endswith((".b", ".shift", ".mean")))
    assert all((v == 1).all() for n, v in values.items() if n.endswith((".scale", ".variance")))
