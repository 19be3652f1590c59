"""Problems whose answer is known: closed forms, scikit-learn's solution, digits' test samples."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from tiers import tiered

from pipeline import backends, data, metrics, seeds
from pipeline.jobs.resolve import resolve
from pipeline.pairs.registry import find_pair

CONF = Path(__file__).parents[2] / "conf"
BACKENDS = backends.names()
FRAMEWORKS = [name for name in BACKENDS if backends.traits(name)["FLAVOR"]]
DIGITS = {"cnn": 0.97, "rnn": 0.95, "attention": 0.95}


def compiled(backend):
    """TensorFlow's eager steps are slow; compiled ones follow the same path (see the contract)."""
    return "compiled" if backend == "tensorflow" else "eager"


def dataset(name, **changes):
    values = yaml.safe_load((CONF / "data" / f"{name}.yaml").read_text())
    del values["name"]
    return data.make(name, settings=values | changes, stream=partial(seeds.stream, 0))


@pytest.mark.parametrize("degree", [1, 4])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_polynomial_reaches_least_squares(tools, backend, degree):
    """Gradient descent stops where the gradient is rounding: at the normal equations' solution.

    What is left is the gradient's rounding, at most n·u ≈ 1e-14 for these 100 samples, times ‖H⁻¹‖,
    which for degree 4 on [-1, 1] is below 1e3.
    """
    made = dataset("polynomial", n=100)
    spec, settings = find_pair("polynomial").spec, {"degree": degree}
    first = spec.first_values(np.random.default_rng(0), inputs=(1,), outputs=1, **settings)
    x, y = made.arrays["x_train"], made.arrays["y_train"]
    run = tools.train(
        backend, "polynomial", x=x, y=y, values=first, rates=np.full(3000, 0.5),
        settings=settings, optimizer="nesterov", full=False, execution=compiled(backend),
    )  # fmt: skip
    last = backends.load(backend).read(run.model, find_pair("polynomial").load_side(backend))
    for name, value in spec.least_squares(x, y, **settings).items():
        np.testing.assert_allclose(last[name], value, rtol=0, atol=1e-11)


def blobs(classes):
    """Overlapping clouds, so that the best weights are finite."""
    rng = np.random.default_rng(1)
    y = np.arange(150)[:, None] % classes
    centres = rng.normal(size=(classes, 2))
    return centres[y[:, 0]] + rng.normal(size=(150, 2)), y


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("backend", BACKENDS)
def test_logistic_regression_is_scikit_learns(tools, backend, classes):
    """Both minimise the mean surprise without a penalty; the classes' common shift is taken out."""
    x, y = blobs(classes)
    theirs = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(x, y[:, 0])
    targets = y.astype(float) if classes == 2 else np.eye(classes)[y[:, 0]]
    outputs = targets.shape[1]
    first = {"w": np.zeros((2, outputs)), "b": np.zeros(outputs)}
    run = tools.train(
        backend, "softmax", x=x, y=targets, values=first, rates=np.full(3000, 0.5),
        loss="bce" if classes == 2 else "cross_entropy",
        loss_settings={} if classes == 2 else {"smoothing": 0.0},
        optimizer="nesterov", full=False, execution=compiled(backend),
    )  # fmt: skip
    last = backends.load(backend).read(run.model, find_pair("softmax").load_side(backend))
    w, b = theirs.coef_.T, theirs.intercept_
    if classes > 2:
        w, b = w - w.mean(axis=1, keepdims=True), b - b.mean()
    # lbfgs compares losses, whose rounding of eps leaves weights only about √eps, 1e-8 to 1e-7, near.
    np.testing.assert_allclose(last["w"], w, rtol=0, atol=1e-6)
    np.testing.assert_allclose(last["b"], b, rtol=0, atol=1e-6)
    # At the minimum the residual is orthogonal to every feature, to 150 roundings of about 1.
    prediction = backends.load(backend).predict(run.model, x)
    p = expit(prediction) if classes == 2 else softmax(prediction, axis=1)
    slope = np.vstack([x.T, np.ones(150)]) @ (p - targets)
    np.testing.assert_allclose(slope, 0, atol=1e-12)


def experiment(model):
    """The experiment of that name, composed as the command line does."""
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("config", [f"experiment=digits_{model}"]))


@pytest.mark.parametrize(
    ("model", "backend"),
    tiered(
        ((model, backend) for model in DIGITS for backend in FRAMEWORKS),
        short=lambda number, _: number % 3 == 0,
    ),
)
def test_digits_are_read(tools, backend, model):
    """The experiment of that name, on samples that were never trained on."""
    job = resolve(experiment(model))
    settings, made = job.settings, job.dataset
    x, y = made.arrays["x_train"], np.eye(10)[made.arrays["y_train"][:, 0]]
    run = tools.train(
        backend, model, x=x, y=y, values=job.first, rates=job.rates, loss="cross_entropy",
        loss_settings=settings.loss.settings, optimizer=settings.optimizer.name, dtype="float32",
        size=settings.train.batch, shuffle=True, full=False, execution=compiled(backend),
    )  # fmt: skip
    prediction = backends.load(backend).predict(run.model, made.arrays["x_test"])
    found = metrics.scores(prediction, made.arrays["y_test"], classes=10)
    assert found["accuracy"] >= DIGITS[model]
