"""The framework's own optimizers and losses against the hand-written ones.

Every translation either follows the hand-written rule to rounding, or is on the backend's list of
known differences, and then it does differ: a list that claims too much fails here too.
"""

from __future__ import annotations

import numpy as np
import pytest
from tiers import tiered

from pipeline import backends, losses, optimizers
from pipeline.config.signatures import list_functions

NATIVE = [name for name in backends.names() if "native" in backends.traits(name)["LOOPS"]]
RULES = sorted(list_functions(optimizers))
AROUND = {
    "none": {"decay": "none", "weight_decay": 0.0},
    "l2": {"decay": "l2", "weight_decay": 0.1},
    "decoupled": {"decay": "decoupled", "weight_decay": 0.1},
    "clip_norm": {"decay": "none", "weight_decay": 0.0, "clip_norm": 0.05},
    "accumulate": {"decay": "none", "weight_decay": 0.0, "accumulate": 3},
}
CASES = [(rule, around, schedule) for rule in RULES for around in AROUND
         for schedule in ("constant", "falling")
         if not (rule == "adamw" and around == "l2")
         and (schedule == "falling" or around == "none")]  # fmt: skip
VALUES = {"w": np.array([[0.3, -0.2], [0.1, 0.4], [-0.5, 0.2]]), "b": np.array([0.1, -0.1])}


def trained(tools, backend, loop, rule, around, schedule, **more):
    rng = np.random.default_rng(11)
    x = rng.normal(size=(31, 3))
    y = x @ np.array([[1.0, 0.5], [-1.0, 0.2], [0.3, 2.0]]) + 0.5
    rates = np.full(40, 0.01) if schedule == "constant" else 0.02 / np.arange(2, 42)
    given = {"optimizer_settings": AROUND[around]} | more
    epochs = len(rates) // (2 if around == "accumulate" else 1)
    size = 6 if around == "accumulate" else 31  # 31 samples in 6 batches, the last of 1, in pairs
    return tools.train(backend, "dense", x=x, y=y, values=VALUES, rates=rates[: epochs * 2],
                       loop=loop, optimizer=rule, size=size, **given).arrays  # fmt: skip


def apart(a, b):
    return max(
        np.linalg.norm(a[name] - b[name]) / np.linalg.norm(a[name])
        for name in ("param/w", "param/b")
    )


@pytest.mark.parametrize(
    ("rule", "around", "schedule"), tiered(CASES, short=lambda number, _: number % 8 == 0)
)
@pytest.mark.parametrize("backend", NATIVE)
def test_native_is_the_rule_or_on_the_list_of_differences(tools, backend, rule, around, schedule):
    a, b = (trained(tools, backend, loop, rule, around, schedule) for loop in ("manual", "native"))
    words = {rule, around} | ({"schedule"} if schedule == "falling" else set())
    listed = [key for key in backends.traits(backend)["INEXACT"] if words >= set(key.split("+"))]
    distance = apart(a, b)
    if listed:
        assert distance > 1e-11, f"{listed} says they differ, but they are {distance} apart"
    else:
        assert distance <= 1e-13


@pytest.mark.parametrize("backend", NATIVE)
def test_native_takes_every_momentum_that_the_rule_takes(tools, backend):
    """PyTorch's SGD refuses ``nesterov=True`` without any; it is plain descent then."""
    for rule in ("momentum", "nesterov"):
        none = {"momentum": 0.0}
        a, b = (trained(tools, backend, loop, name, "none", "falling", **how)
                for loop, name, how in (("manual", "gd", {}),
                                        ("native", rule, {"optimizer_settings": none})))  # fmt: skip
        assert apart(a, b) <= 1e-13


@pytest.mark.parametrize("rule", tiered(RULES, short=lambda _, rule: rule in ("adam", "adadelta")))
@pytest.mark.parametrize("backend", NATIVE)
def test_native_compiles_to_the_same_path(tools, backend, rule):
    a, b = (trained(tools, backend, "native", rule, "none", "falling", execution=execution)
            for execution in ("eager", "compiled"))  # fmt: skip
    assert apart(a, b) <= 1e-13


@pytest.mark.parametrize("loss", sorted({*list_functions(losses)} - {"own"}))
@pytest.mark.parametrize("backend", NATIVE)
def test_native_losses_are_the_hand_written_ones(tools, backend, loss):
    """Loss and gradient, far from zero too: logits of ±60, errors beyond Huber's delta."""
    settings = {"huber": {"delta": 0.7}, "cross_entropy": {"smoothing": 0.1}}.get(loss, {})
    rng = np.random.default_rng(2)
    x = rng.normal(size=(20, 3)) * np.geomspace(0.01, 100, 20)[:, None]
    y = {"values": rng.normal(size=(20, 2)), "binary": rng.integers(2, size=(20, 2)).astype(float),
         "classes": np.eye(2)[rng.integers(2, size=20)]}[getattr(losses, loss).targets]  # fmt: skip
    runs = [
        tools.train(backend, "dense", x=x, y=y, values=VALUES, rates=np.full(2, 1e-3), loop=loop,
                    loss=loss, loss_settings=settings).arrays
        for loop in ("manual", "native")
    ]  # fmt: skip
    for key in ("loss", "grad/w", "grad/b"):
        np.testing.assert_allclose(runs[1][key], runs[0][key], rtol=1e-12)
