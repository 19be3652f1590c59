"""The small pairs: a polynomial, softmax regression, and one whose depth is decided as it runs."""

from __future__ import annotations

import inspect
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from sklearn.linear_model import LogisticRegression
from wrongs import find_variables

from pipeline.config.signatures import check_settings
from pipeline.config.types import ConfigError
from pipeline.pairs.arrange import to_neutral
from pipeline.pairs.registry import find_pair

FRAMEWORKS = ("torch", "tensorflow")
SHAPES = {"linear": ((1,), 1), "polynomial": ((1,), 1), "dense": ((3,), 2), "softmax": ((3,), 4),
          "mlp": ((3,), 2), "dynamic": ((3,), 2)}  # fmt: skip


def first(tools, model, **settings):
    inputs, outputs = SHAPES[model]
    return find_pair(model).spec.first_values(
        np.random.default_rng(4), inputs=inputs, outputs=outputs,
        **tools.model_settings(model) | settings,
    )  # fmt: skip


def made(tools, backend, model, values, **settings):
    inputs, outputs = SHAPES[model]
    return tools.build(
        backend, model, values=values, inputs=inputs, outputs=outputs, settings=settings
    )


@pytest.mark.parametrize("degree", [1, 2, 5])
@pytest.mark.parametrize("backend", ["numpy", *FRAMEWORKS])
def test_a_polynomial_has_its_constant_first(tools, backend, degree):
    c = np.random.default_rng(0).normal(size=degree + 1)
    x = np.linspace(-2, 2, 9)[:, None]
    side, built, _ = made(tools, backend, "polynomial", {"c": c}, degree=degree)
    size = np.polyval(np.abs(c[::-1]), np.abs(x))
    error = np.abs(side.predict(built, x) - np.polyval(c[::-1], x))
    assert (error <= 4 * degree * np.finfo(float).eps * size).all()


@pytest.mark.parametrize("degree", [1, 3, 6])
def test_least_squares_of_a_polynomial(degree):
    """Exact points give their polynomial back; of others the residual is at right angles."""
    rng, spec = np.random.default_rng(1), find_pair("polynomial").spec
    c, x = rng.normal(size=degree + 1), rng.uniform(-1, 1, size=(60, 1))
    powers = x ** np.arange(degree + 1)
    found = spec.least_squares(x, powers @ c[:, None], degree=degree)
    condition = np.linalg.cond(powers)
    assert np.abs(found["c"] - c).max() <= 50 * condition * np.finfo(float).eps
    y = rng.normal(size=(60, 1))
    residual = y - powers @ spec.least_squares(x, y, degree=degree)["c"][:, None]
    assert np.abs(powers.T @ residual).max() <= 60 * 50 * np.finfo(float).eps * np.abs(y).max()


def test_powers_that_overflow_have_no_least_squares_to_show():
    """Also where only their length does; the run then fails by its loss, and says at which step."""
    x = np.array([[10.0], [9.0], [8.0]])
    for degree in (200, 400):
        with pytest.raises(np.linalg.LinAlgError):
            find_pair("polynomial").spec.least_squares(x, x, degree=degree)


def test_gradient_descent_on_a_polynomial_reaches_least_squares(tools):
    """With the rate 1/λmax the error shrinks by 1 − λmin/λmax at least with every step."""
    rng = np.random.default_rng(2)
    x, y = rng.uniform(-1, 1, size=(50, 1)), rng.normal(size=(50, 1))
    powers = x ** np.arange(3)
    low, *_, high = np.linalg.eigvalsh(2 * powers.T @ powers / 50)
    steps = math.ceil(math.log(1e-8) / math.log(1 - low / high))
    best = find_pair("polynomial").spec.least_squares(x, y, degree=2)["c"]
    start = first(tools, "polynomial", degree=2)
    for backend in ("numpy", *FRAMEWORKS):
        run = tools.train(
            backend, "polynomial", x=x, y=y, values=start, rates=np.full(steps, 1 / high),
            settings={"degree": 2},
        )  # fmt: skip
        error = np.linalg.norm(run.arrays["param/c"][[0, -1]] - best, axis=1)
        assert error[1] <= 1.1e-8 * error[0]


@pytest.mark.parametrize("backend", ["numpy", *FRAMEWORKS])
def test_softmax_regression_starts_at_log_classes_and_ends_where_another_solver_does(
    tools, backend
):
    """The same number added to all classes changes nothing: compared without their mean."""
    rng = np.random.default_rng(3)
    x, labels = rng.normal(size=(80, 3)), rng.integers(4, size=80)
    run = tools.train(
        backend, "softmax", x=x, y=np.eye(4)[labels], values=first(tools, "softmax"),
        rates=np.full(400, 1.5), loss="cross_entropy", loss_settings={"smoothing": 0.0},
    )  # fmt: skip
    assert run.arrays["loss"][0] == pytest.approx(math.log(4), rel=1e-15)
    other = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, labels)
    p = other.predict_proba(x)[np.arange(80), labels]
    assert run.arrays["loss"][-1] == pytest.approx(-np.log(p).mean(), rel=1e-9)
    w = run.arrays["param/w"][-1]
    np.testing.assert_allclose(
        w - w.mean(axis=1, keepdims=True), other.coef_.T - other.coef_.T.mean(axis=1, keepdims=True),
        rtol=0, atol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("backend", ["numpy", *FRAMEWORKS])
def test_softmax_with_one_output_is_logistic_regression(tools, backend):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(80, 3)), rng.integers(2, size=(80, 1)).astype(float)
    values = find_pair("softmax").spec.first_values(rng, inputs=(3,), outputs=1)
    run = tools.train(
        backend, "softmax", x=x, y=y, values=values, rates=np.full(300, 2.0), loss="bce"
    )
    other = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, y[:, 0])
    np.testing.assert_allclose(run.arrays["param/w"][-1][:, 0], other.coef_[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(run.arrays["param/b"][-1], other.intercept_, rtol=0, atol=1e-5)


def settled(tools, backend, x, values, **settings):
    """The outputs and how often the shared layer was applied to each sample, as NumPy."""
    _, built, _ = made(tools, backend, "dynamic", values, **settings)
    x = torch.from_numpy(x) if backend == "torch" else tf.constant(x)
    _, applied = built.settle(x)
    y = built(x)
    return (y.detach() if backend == "torch" else y).numpy(), np.asarray(applied)[:, 0]


@pytest.mark.parametrize("backend", FRAMEWORKS)
def test_how_often_the_shared_layer_is_applied_depends_on_the_sample(tools, backend):
    values = first(tools, "dynamic")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)) * np.logspace(-2, 1, 40)[:, None]
    y, applied = settled(tools, backend, x, values)
    assert len(set(applied.tolist())) >= 4
    assert 1 <= applied.min() < applied.max() < 50
    for k in (0, 13, 39):  # and on nothing else: what is beside it does not matter
        alone, own = settled(tools, backend, x[k : k + 1], values)
        assert own[0] == applied[k]
        np.testing.assert_allclose(alone[0], y[k], rtol=0, atol=1e-14)
    _, capped = settled(tools, backend, x, values, most=2)
    np.testing.assert_array_equal(capped, np.minimum(applied, 2))


@pytest.mark.parametrize("backend", FRAMEWORKS)
def test_the_shared_layer_ends_at_its_fixed_point(tools, backend):
    """It contracts by 0.9, so a last step of length s leaves at most 9·s to go."""
    values = first(tools, "dynamic")
    x = np.random.default_rng(0).normal(size=(10, 3))
    _, built, _ = made(tools, backend, "dynamic", values, most=1000, tolerance=1e-12)
    h, _ = built.settle(torch.from_numpy(x) if backend == "torch" else tf.constant(x))
    h = (h.detach() if backend == "torch" else h).numpy()
    again = np.tanh(h @ values["again.w"] + values["again.b"])
    assert (np.linalg.norm(again - h, axis=1) <= 1.1e-12 * np.linalg.norm(h, axis=1)).all()
    assert np.linalg.norm(values["again.w"], ord=2) == pytest.approx(0.9, rel=1e-14)


def test_both_frameworks_apply_it_as_often_and_follow_it_back(tools):
    """The gradient goes through as many applications as were made: central differences see it."""
    values, weights = first(tools, "dynamic"), np.random.default_rng(9).normal(size=(6, 2))
    x = np.random.default_rng(0).normal(size=(6, 3)) * np.logspace(-1, 1, 6)[:, None]
    outputs = {backend: settled(tools, backend, x, values) for backend in FRAMEWORKS}
    np.testing.assert_array_equal(outputs["torch"][1], outputs["tensorflow"][1])
    np.testing.assert_allclose(outputs["torch"][0], outputs["tensorflow"][0], rtol=0, atol=1e-14)

    found = {}
    for backend in FRAMEWORKS:
        _, built, twin = made(tools, backend, "dynamic", values)
        placed = find_variables(backend, built, twin)
        variables = [place.tensor for place in placed.values()]
        if backend == "torch":
            loss = (built(torch.from_numpy(x)) * torch.from_numpy(weights)).sum()
            gradients = torch.autograd.grad(loss, variables)
        else:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(built(tf.constant(x), training=True) * weights)
            gradients = tape.gradient(loss, variables)
        found[backend] = {
            name: to_neutral(place.axes, np.asarray(g))
            for (name, place), g in zip(placed.items(), gradients, strict=True)
        }
    applied, h = outputs["torch"][1], 2.0**-17
    assert len(set(applied.tolist())) > 1

    def loss_at(values):
        total = 0.0
        for x_n, weights_n, times in zip(x, weights, applied, strict=True):
            state = np.tanh(x_n @ values["first.w"] + values["first.b"])
            for _ in range(times):
                state = np.tanh(state @ values["again.w"] + values["again.b"])
            total += weights_n @ (state @ values["out.w"] + values["out.b"])
        return total

    rng = np.random.default_rng(5)
    for name, value in values.items():
        gradient = found["torch"][name]
        np.testing.assert_allclose(
            gradient, found["tensorflow"][name], rtol=0, atol=1e-13 * np.abs(gradient).max()
        )
        way = rng.normal(size=value.shape)
        up, down = (loss_at(values | {name: value + s * h * way}) for s in (1, -1))
        assert (gradient * way).sum() == pytest.approx((up - down) / (2 * h), rel=1e-7)


def test_what_cannot_be_compiled_says_so():
    assert find_pair("dynamic").spec.EXECUTION == ("eager",)
    assert not any(hasattr(find_pair(m).spec, "EXECUTION") for m in SHAPES if m != "dynamic")


@pytest.mark.parametrize(
    ("model", "inputs", "outputs"),
    [
        ("polynomial", (2,), 1), ("polynomial", (1,), 2), ("polynomial", (1, 1), 1),
        ("softmax", (2, 2), 3), ("mlp", (4, 4, 1), 3), ("mlp", (), 1), ("dynamic", (4, 2), 1),
    ],
)  # fmt: skip
def test_samples_a_model_cannot_take_are_refused_in_one_line(tools, model, inputs, outputs):
    with pytest.raises(ConfigError, match=rf"model\.name={model}: takes .*") as caught:
        find_pair(model).spec.first_values(
            np.random.default_rng(0), inputs=inputs, outputs=outputs, **tools.model_settings(model)
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("polynomial", {"degree": 0}), ("polynomial", {"degree": 1.5}), ("softmax", {"bias": True}),
        ("dynamic", {"most": 0}), ("dynamic", {"tolerance": 0.0}), ("dynamic", {"width": 0}),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(tools, model, settings):
    (key,), function = settings, find_pair(model).spec.first_values
    given = tools.model_settings(model)
    check_settings("model", function, given)
    with pytest.raises(ConfigError, match=rf"^model\.{key}="):
        check_settings("model", function, given | settings)


@pytest.mark.parametrize("model", SHAPES)
def test_twins_take_the_settings_of_the_spec_and_of_each_other(model):
    def keywords(function):
        kinds = inspect.Parameter
        return [
            p.name for p in inspect.signature(function).parameters.values()
            if p.kind is kinds.KEYWORD_ONLY
        ]  # fmt: skip

    wanted = keywords(find_pair(model).spec.first_values)
    for backend in find_pair(model).backends:
        assert keywords(find_pair(model).load_side(backend).model) == wanted


# Settings that leave no branch of the perceptron out of what is saved.
SAVED = [(m, {}) for m in SHAPES] + [
    ("mlp", {"norm": norm, "activation": activation})
    for norm, activation in (("batch", "gelu"), ("layer", "tanh"), ("none", "sigmoid"))
]


@pytest.mark.parametrize(("model", "settings"), SAVED)
def test_a_saved_keras_model_is_read_back_whole(tools, tmp_path, model, settings):
    """Also where the default precision has become another one meanwhile."""
    inputs, _ = SHAPES[model]
    values = first(tools, model, **settings)
    _, built, _ = made(tools, "tensorflow", model, values, **settings)
    x = tf.constant(np.random.default_rng(0).normal(size=(5, *inputs)))
    expected = built(x, training=False).numpy()
    built.save(tmp_path / "model.keras")
    tools.build("tensorflow", "linear", values=None, dtype="float32")
    read = keras.models.load_model(tmp_path / "model.keras")
    assert {v.dtype for v in read.variables} == {"float64"}
    np.testing.assert_array_equal(read(x, training=False).numpy(), expected)
    assert read.get_config()["inputs"] == list(inputs)


@pytest.mark.parametrize(("model", "settings"), [s for s in SAVED if s[0] != "dynamic"])
def test_a_torch_model_in_evaluation_can_be_exported(tools, tmp_path, model, settings):
    """With a batch of any size, as MLflow stores it."""
    inputs, _ = SHAPES[model]
    _, built, _ = made(tools, "torch", model, first(tools, model, **settings), **settings)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(5, *inputs)))
    built.eval()
    program = torch.export.export(built, (x,), dynamic_shapes=[{0: torch.export.Dim.AUTO}])
    torch.export.save(program, tmp_path / "model.pt2")
    read = torch.export.load(tmp_path / "model.pt2").module()
    for rows in (x, torch.cat([x, x])):
        torch.testing.assert_close(read(rows), built(rows), rtol=0, atol=1e-14)
