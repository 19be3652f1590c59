"""One update as a function: from a recorded state it gives the recorded next row, bit for bit."""

from __future__ import annotations

import itertools

import numpy as np
import pairs
import pytest
import wrongs
from tiers import tiered

from pipeline import backends, seeds
from pipeline.backends.base import Start
from pipeline.pairs.registry import find_pair

BACKENDS = backends.names()
FRAMEWORKS = [name for name in BACKENDS if name != "numpy"]
DTYPES = ("float64", "float32")
VALUES = {"w": np.array([[0.3, -0.2], [0.1, 0.4], [-0.5, 0.2]]), "b": np.array([0.1, -0.1])}
RATE = 2.0**-6  # its inverse is exact: Keras keeps a velocity times the rate
RULES = ("gd", "momentum", "nesterov", "rmsprop", "adagrad", "adadelta", "adam", "adamw")
MLP = {"widths": [5, 4], "norm": "batch", "dropout": 0.3, "activation": "tanh"}


def samples(n=20):
    rng = np.random.default_rng(11)
    x = rng.normal(size=(n, 3))
    return x, x @ np.array([[1.0, 0.5], [-1.0, 0.2], [0.3, 2.0]]) + 0.5


def trained(tools, backend, **given):
    """Six updates of 20 samples in batches of 8, 8 and 4, or what is asked for instead."""
    x, y = samples()
    given = {"model": "dense", "values": VALUES, "rates": np.full(6, RATE), "size": 8,
             "shuffle": True} | given  # fmt: skip
    return tools.train(backend, given.pop("model"), x=x, y=y, **given)


def stepper(tools, backend, *, model="dense", values=VALUES, settings=None, dtype="float64",
            loop="manual", loss="mse", optimizer="gd", optimizer_settings=None,
            execution="eager", xla=False, rates=None):  # fmt: skip
    """The stepper of the same training on a model of its own."""
    side, built, twin = tools.build(backend, model, values=values, inputs=(3,), outputs=2,
                                    dtype=dtype, settings=settings)  # fmt: skip
    return side.stepper(
        built, twin, loop=loop, loss=loss, loss_settings={},
        update=tools.update_of(optimizer, optimizer_settings), execution=execution, xla=xla,
        rates=np.full(6, RATE) if rates is None else rates,
    )  # fmt: skip


def cut(backend, batches, *, group=1, dtype="float64", epochs=3):
    """The parts of update 1, 2, ..., as a backend's loop cuts them."""
    cuts = backends.load(backend).cut
    return [parts for epoch in range(1, epochs + 1)
            for parts in cuts(batches, epoch, group=group, device="cpu", dtype=dtype)]  # fmt: skip


def state_before(arrays, k, slots):
    """The parameters and slots that a record has before update k."""
    values = {key[6:]: rows[k - 1] for key, rows in arrays.items() if key.startswith("param/")}
    named = {slot: {} for slot in slots}
    for key, rows in arrays.items():
        if key.startswith("slot/"):
            _, slot, name = key.split("/", 2)
            named[slot][name] = rows[k - 2] if k > 1 else np.zeros_like(rows[0])
    return values, named


def row_after(arrays, k):
    """What a record has of update k, under the names that a stepper gives it."""
    return {key: rows[k] if key.startswith("param/") else rows[k - 1]
            for key, rows in arrays.items()
            if key == "loss" or key.startswith(("param/", "grad/", "slot/", "scalar/"))}  # fmt: skip


def assert_repeats(tools, backend, *, masks=None, **given):
    """Each update, made alone and in another order than in training, is the recorded one."""
    run = trained(tools, backend, masks=masks, **given)
    kept = {key: value for key, value in given.items() if key not in ("size", "shuffle")}
    once = stepper(tools, backend, **kept)
    update = tools.update_of(given.get("optimizer", "gd"), given.get("optimizer_settings"))
    parts = cut(backend, run.batches, group=update.accumulate, dtype=given.get("dtype", "float64"))
    assert len(run.arrays["loss"]) == 6
    for k in (4, 1, 6, 2):
        values, slots = state_before(run.arrays, k, update.slots)
        drawn = masks(k, [len(y) for _, y, _ in parts[k - 1]]) if masks else None
        found = once(Start(k, values, slots, None, parts[k - 1], drawn))
        wanted = row_after(run.arrays, k)
        assert set(found) == set(wanted)
        for key, row in wanted.items():
            np.testing.assert_array_equal(found[key], row, err_msg=f"{key} of update {k}")
            assert key.startswith("scalar/") or found[key].dtype == row.dtype, key


MANUAL = [(b, execution, xla) for b in BACKENDS for execution in backends.traits(b)["EXECUTIONS"]
          for xla in (False, True)
          if not xla or (backends.traits(b)["XLA"] and execution == "compiled")]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("backend", "execution", "xla"), MANUAL)
def test_a_step_alone_is_that_of_the_loop(tools, backend, execution, xla, dtype):
    assert_repeats(tools, backend, dtype=dtype, execution=execution, xla=xla, optimizer="adam")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_alone_takes_every_rules_slots(tools, backend, rule):
    rates = RATE / np.arange(1, 7)
    assert_repeats(tools, backend, optimizer=rule, rates=rates)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", FRAMEWORKS)
def test_a_step_alone_takes_the_slots_that_an_own_optimizer_keeps(tools, backend, dtype, rule):
    assert_repeats(tools, backend, loop="native", dtype=dtype, optimizer=rule)


@pytest.mark.parametrize(
    ("rule", "execution"),
    tiered(
        itertools.product(["momentum", "adam"], ["eager", "compiled"]),
        short=lambda _, case: case != ("momentum", "compiled"),
    ),
)
@pytest.mark.parametrize("backend", FRAMEWORKS)
def test_a_step_of_an_own_optimizer_is_made_alone_in_both_executions(
    tools, backend, rule, execution
):
    assert_repeats(tools, backend, loop="native", optimizer=rule, execution=execution)


@pytest.mark.parametrize("execution", ["eager", "compiled"])
@pytest.mark.parametrize("rule", ["gd", "momentum", "adam"])
def test_a_step_of_fit_is_one_of_its_batches(tools, rule, execution):
    assert_repeats(tools, "tensorflow", loop="fit", optimizer=rule, execution=execution)


@pytest.mark.parametrize("loop", ["manual", "native"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_alone_has_the_batches_of_its_update_and_their_shares(tools, backend, loop):
    if loop not in backends.traits(backend)["LOOPS"]:
        pytest.skip("has no such loop")
    given = {"accumulate": 2, "clip_norm": 0.1, "decay": "none", "weight_decay": 0.0}
    assert_repeats(tools, backend, loop=loop, optimizer_settings=given, optimizer="momentum")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_alone_has_its_masks_and_moves_the_statistics(tools, backend):
    spec, shape = find_pair("mlp").spec, {"inputs": (3,), "outputs": 2}
    settings = tools.model_settings("mlp") | MLP
    values = spec.first_values(np.random.default_rng(0), **shape, **settings)

    def masks(k, sizes):
        stream = seeds.stream(3, f"dropout.{k}")
        return [spec.masks(stream, batch=size, **shape, **settings) for size in sizes]

    assert_repeats(tools, backend, model="mlp", values=values, settings=MLP, masks=masks)


@pytest.mark.parametrize("execution", ["eager", "compiled"])
@pytest.mark.parametrize("loop", ["manual", "native"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_given_gradients_are_used_and_the_steps_own_are_told(tools, backend, loop, execution):
    traits = backends.traits(backend)
    if loop not in traits["LOOPS"] or execution not in traits["EXECUTIONS"]:
        pytest.skip("has no such loop or execution")
    once = stepper(tools, backend, loop=loop, execution=execution)
    x, y = samples(8)
    parts = [(x, y, 1.0)]
    given = {"w": np.arange(6.0).reshape(3, 2), "b": np.array([-1.0, 2.0])}
    free, forced = (once(Start(1, VALUES, {}, g, parts, None)) for g in (None, given))
    for name, gradient in given.items():
        np.testing.assert_array_equal(forced[f"grad/{name}"], free[f"grad/{name}"])
        np.testing.assert_array_equal(forced[f"param/{name}"], VALUES[name] - RATE * gradient)
        assert np.abs(free[f"param/{name}"] - forced[f"param/{name}"]).max() > 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_start_of_a_step_is_left_as_it_was(tools, backend):
    """A caller hands the same arrays to both sides: none may be written to."""
    x, y = samples(8)
    values = {name: value.copy() for name, value in VALUES.items()}
    slots = {"velocity": {name: np.ones_like(value) for name, value in VALUES.items()}}
    given = {name: np.ones_like(value) for name, value in VALUES.items()}
    start = Start(2, values, slots, given, [(x.copy(), y.copy(), 1.0)], None)
    once = stepper(tools, backend, optimizer="momentum",
                   optimizer_settings={"clip_norm": 0.1})  # fmt: skip
    one, other = once(start), once(start)
    for name, value in VALUES.items():
        np.testing.assert_array_equal(values[name], value)
        assert (slots["velocity"][name] == 1).all()
        assert (given[name] == 1).all()
    for key, value in one.items():  # nor is what it returned changed by the next step
        np.testing.assert_array_equal(value, other[key])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model", ["dense", "mlp"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_written_is_read_again(tools, backend, model, dtype):
    shape = {"inputs": (3,), "outputs": 2}
    settings = tools.model_settings(model) | (MLP if model == "mlp" else {})
    first = find_pair(model).spec.first_values(np.random.default_rng(0), **shape, **settings)
    side, built, twin = tools.build(backend, model, values=first, **shape, dtype=dtype,
                                    settings=settings)  # fmt: skip
    rng = np.random.default_rng(1)
    wanted = {name: rng.normal(size=value.shape) for name, value in first.items()}
    side.write(built, twin, wanted)
    found = side.read(built, twin)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value.astype(dtype))
        assert found[name].dtype == dtype
    side.write(built, twin, found)
    for name, value in side.read(built, twin).items():
        np.testing.assert_array_equal(value, found[name])


@pytest.mark.parametrize("backend", BACKENDS)
def test_scaled_results_are_multiplied_element_by_element(tools, backend):
    """In the result's own precision: a factor that float32 does not have is 1 there."""
    side, _, _ = tools.build(backend, "dense", values=VALUES, inputs=(3,), outputs=2,
                                 dtype="float32")  # fmt: skip
    own = {"torch": "from_numpy", "tensorflow": "constant"}
    make = getattr(__import__(backend), own.get(backend, "asarray"))
    x = make(np.array([1.0, 2.0, 3.0], np.float32))
    found = np.asarray(side.scale(x, lambda values: np.array([1.0, 1 + 2.0**-23, 1 + 2.0**-40])))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.float32([1, 2 + 2.0**-22, 3]))


@pytest.mark.parametrize(
    ("backend", "execution"),
    [(name, execution) for name in backends.names()
     for execution in backends.traits(name)["EXECUTIONS"]],
)  # fmt: skip
def test_what_a_rule_returns_is_what_counts(backend, execution, monkeypatch):
    """A rule may return new arrays and leave those that it was given as they are."""
    overrides = ("experiment=article", f"backend={backend}", f"backend.execution={execution}",
                 "train.epochs=3", "backend.dtype=float64")  # fmt: skip
    right = pairs.recorded(*overrides)

    def fresh(rule, w, g, slots, *, k, **numbers):
        return rule(w + 0, g, slots, **numbers)

    wrongs.rule(fresh)(wrongs.WrongSide(backend, monkeypatch))
    again = pairs.recorded(*overrides)
    assert len(right.arrays["param/w"]) == 4
    assert np.ptp(right.arrays["param/w"]) > 0
    for name in ("loss", "param/w", "param/b", "grad/w"):
        np.testing.assert_array_equal(again.arrays[name], right.arrays[name])
