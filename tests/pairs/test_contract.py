"""Every pair with every rule in every backend: a new folder or function is in here by itself.

The samples are small, so that rounding stays small: float64 twins that mean the same are some
1e-16 to 1e-15 apart, and anything of another meaning is far above 1e-12.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from tiers import tiered

from pipeline import backends, optimizers, seeds
from pipeline.config.signatures import list_functions
from pipeline.config.types import ConfigError
from pipeline.jobs.check import check_config
from pipeline.pairs.registry import find_pair, list_pairs

RULES = sorted(list_functions(optimizers))
# Settings under which a pair is tried besides its own YAML's; what is not named here is tried once.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "mlp": {
        "batch": {"widths": [7, 5], "norm": "batch", "dropout": 0.3, "activation": "relu"},
        "layer": {"widths": [7, 5], "norm": "layer", "dropout": 0.0, "activation": "tanh"},
        "none": {"widths": [7, 5], "norm": "none", "dropout": 0.2, "activation": "sigmoid"},
    },
    "cnn": {"max": {"channels": [3, 4], "pool": "max"}, "average": {"channels": [3, 4], "pool": "average"}},
    "rnn": {"gru": {"cell": "gru", "width": 5}, "lstm": {"cell": "lstm", "width": 5}},
    "dynamic": {"small": {"width": 4, "most": 3}},
    "attention": {"small": {"width": 6, "heads": 2, "hidden": 7}},
}  # fmt: skip
# (model, rule) whose rounding is truly amplified, and why; their bound is the measured noise floor.
AMPLIFIED: dict[tuple[str, str], str] = {}
# Tensors whose exact gradient is zero: measured against the norm of the whole model.
ZERO_GRADIENT: dict[str, tuple[str, ...]] = {}
SHAPES = [((3,), 3), ((8, 8, 1), 3), ((5, 4), 3), ((3,), 1), ((1,), 1)]
CASES = [(m, v) for m in list_pairs() for v in VARIANTS.get(m, {"as configured": {}})]
RATES = {"adadelta": 1.0, "adagrad": 0.05, "gd": 0.05, "momentum": 0.02, "nesterov": 0.02}


class Case(NamedTuple):
    """A pair ready to be trained: samples, encoded targets, first values, loss, settings, masks."""

    x: np.ndarray
    y: np.ndarray
    values: dict[str, np.ndarray]
    loss: str
    settings: dict[str, Any]
    masks: Any


def prepared(tools, model, variant, n=40):
    rng = np.random.default_rng(8)
    spec = find_pair(model).spec
    settings = tools.model_settings(model) | VARIANTS.get(model, {}).get(variant, {})
    for inputs, outputs in SHAPES:
        shape = {"inputs": inputs, "outputs": outputs}
        try:
            values = spec.first_values(seeds.stream(3, "init"), **shape, **settings)
        except ConfigError:
            continue
        x = rng.normal(size=(n, *inputs))
        labels = rng.integers(outputs, size=n)
        y = np.eye(outputs)[labels] if outputs > 1 else np.sin(x).reshape(n, -1).sum(1)[:, None]
        loss = "cross_entropy" if outputs > 1 else "mse"
        draw = partial(getattr(spec, "masks", lambda rng, **_: []), **shape, **settings)

        def masks(k, sizes, draw=draw):
            stream = seeds.stream(3, f"dropout.{k}")
            return [draw(stream, batch=size) for size in sizes]

        drops = bool(draw(rng, batch=1))
        return Case(x, y, values, loss, settings, masks if drops else None)
    raise AssertionError(f"{model} takes none of {SHAPES}: give it samples here")


def trained(tools, backend, model, case, *, rule="gd", steps=200, **more):
    """Minibatches of 8 of 40 samples; Keras and TensorFlow compiled unless asked, for speed."""
    rates = RATES.get(rule, 0.003) / np.sqrt(np.arange(1, steps + 1))
    given = {"size": 8, "shuffle": True, "optimizer": rule} | more
    smooth = {"smoothing": 0.1} if case.loss == "cross_entropy" else {}
    return tools.train(backend, model, x=case.x, y=case.y, values=case.values, rates=rates,
                       loss=case.loss, loss_settings=smooth, settings=case.settings,
                       masks=case.masks, **given)  # fmt: skip


def fastest(model, backend):
    """The compiled step where that is what makes 200 steps bearable, else the eager one."""
    able = getattr(find_pair(model).spec, "EXECUTION", ("eager", "compiled"))
    slow = backend == "tensorflow" and "compiled" in able
    return "compiled" if slow else "eager"


def apart(a, b, model, kind="param"):
    """Largest normwise relative distance of any tensor at any step, and whose it is."""
    whole = np.sqrt(
        sum((v**2).reshape(len(v), -1).sum(1) for k, v in a.items() if k.startswith(kind))
    )
    found = {}
    for key in (key for key in a if key.startswith(f"{kind}/")):
        p, q = (run[key].reshape(len(run[key]), -1) for run in (a, b))
        size = np.linalg.norm(p, axis=1)
        if key.split("/", 1)[1] in ZERO_GRADIENT.get(model, ()):
            size = whole
        gap = np.linalg.norm(p - q, axis=1)
        found[key] = float(
            np.max(np.divide(gap, size, out=np.where(gap > 0, np.inf, 0.0), where=size > 0))
        )
    return max(found.values()), max(found, key=found.get)


def others(model):
    """The backends after the first: each is held against that one."""
    return find_pair(model).backends[0], find_pair(model).backends[1:]


@pytest.mark.parametrize(("model", "variant"), CASES)
def test_forward_loss_and_gradients_agree(tools, model, variant):
    """One step at rate zero, training mode with its dropout masks; then evaluation mode."""
    case = prepared(tools, model, variant)
    runs, outputs = {}, {}
    for backend in find_pair(model).backends:
        run = trained(tools, backend, model, case, steps=5)
        runs[backend] = run.arrays
        outputs[backend] = backends.load(backend).predict(run.model, case.x)
    first, rest = others(model)
    assert np.linalg.norm(outputs[first]) > 1e-3
    for other in rest:
        a, b = outputs[first], outputs[other]
        assert np.linalg.norm(a - b) <= 1e-12 * np.linalg.norm(a)
        np.testing.assert_allclose(runs[other]["loss"], runs[first]["loss"], rtol=1e-12)
        assert apart(runs[first], runs[other], model, kind="grad")[0] <= 1e-12
        assert apart(runs[first], runs[other], model)[0] <= 1e-12


@pytest.mark.parametrize(("model", "variant"), CASES)
def test_gradients_are_those_of_central_differences(tools, model, variant):
    """In random directions of every tensor on its own; h = 1e-6 leaves about 1e-9 of rounding.

    A relu or a maximum that flips within h is a kink, of which a small sample has none here.
    """
    case = prepared(tools, model, variant, n=8)
    rng = np.random.default_rng(4)
    backend = find_pair(model).backends[-1]

    def at(values):
        return trained(tools, backend, model, case._replace(values=values), steps=1).arrays

    here = at(case.values)
    scale = float(here["grad_norm"][0])
    for name in (key[5:] for key in here if key.startswith("grad/")):
        direction = rng.normal(size=case.values[name].shape)
        direction /= np.linalg.norm(direction)
        up, down = (
            at(case.values | {name: case.values[name] + h * direction})["loss"][0]
            for h in (1e-6, -1e-6)
        )
        slope = np.sum(here[f"grad/{name}"][0] * direction)
        assert abs((up - down) / 2e-6 - slope) <= 1e-6 * scale, name
        assert np.linalg.norm(here[f"grad/{name}"][0]) > 1e-9 * scale, f"{name} has no gradient"


# Each case with one rule, and each rule with a case; all of them in `make test-long`.
BY_RULE = tiered(
    ((model, variant, rule) for model, variant in CASES for rule in RULES),
    short=lambda number, case: (
        sum(divmod(number, len(RULES))) % len(RULES) == 0 and number % 2 == 0
    ),
)


@pytest.mark.parametrize(("model", "variant", "rule"), BY_RULE)
def test_two_hundred_minibatch_steps_agree(tools, model, variant, rule):
    case = prepared(tools, model, variant)
    first, rest = others(model)

    def run(backend, **how):
        how = {"execution": fastest(model, backend)} | how
        return trained(tools, backend, model, case, rule=rule, **how).arrays

    base = run(first)
    bound = 1e-12
    assert len(base["loss"]) == 200
    if (model, rule) in AMPLIFIED:
        rng = np.random.default_rng(1)
        floors = [apart(base, run(first, order=rng.permutation), model)[0] for _ in range(3)]
        assert max(floors) > 1e-13, "no longer amplified: take it off the list"
        bound = max(bound, 4 * max(floors))
    for other in rest:
        distance, tensor = apart(base, run(other), model)
        assert distance <= bound, f"{tensor} of {first} and {other}"


def refused_by_xla(model, variant):
    """Whether the check before training refuses this with XLA and determinism; see its own test."""
    settings = VARIANTS.get(model, {}).get(variant, {})
    refused = getattr(find_pair(model).spec, "NO_DETERMINISTIC_XLA", {})
    return any(settings.get(key) == value for key, value in refused.items())


def test_what_xla_cannot_do_is_refused_before_training(tools):
    values = tools.composed()
    values["model"] = {"name": "cnn", "init": "shared"} | tools.model_settings("cnn")
    values["backend"] |= {"name": "tensorflow", "execution": "compiled", "xla": True}
    with pytest.raises(ConfigError, match=r"backend\.xla=true: .* model\.pool=max"):
        check_config(values)
    values["model"]["pool"] = "average"
    check_config(values)


COMPILED = [
    (model, variant, backend, xla)
    for model, variant in CASES
    for backend in find_pair(model).backends
    if "compiled" in backends.traits(backend)["EXECUTIONS"]
    and "compiled" in getattr(find_pair(model).spec, "EXECUTION", ("compiled",))
    for xla in ((False, True) if backends.traits(backend)["XLA"] else (False,))
    if not (xla and refused_by_xla(model, variant))
]


# torch.compile takes up to half a minute for the others.
QUICK_TO_COMPILE = {("mlp", "batch"), ("dense", "as configured"), ("linear", "as configured")}


@pytest.mark.parametrize(
    ("model", "variant", "backend", "xla"),
    tiered(
        COMPILED,
        short=lambda number, case: (
            number % 18 == 0 if case[2] != "torch" else case[:2] in QUICK_TO_COMPILE
        ),
    ),
)
def test_compiled_reaches_the_eager_trajectory(tools, model, variant, backend, xla):
    """A compiler fuses and reorders, no more: the bound of two right twins holds for it too."""
    case = prepared(tools, model, variant)
    eager, compiled = (
        trained(tools, backend, model, case, rule="adam", steps=40, **how).arrays
        for how in ({}, {"execution": "compiled", "xla": xla})
    )
    assert apart(eager, compiled, model)[0] <= 1e-12
