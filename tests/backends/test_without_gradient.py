"""A parameter that the loss does not depend on trains on with a gradient of 0, and is named."""

from __future__ import annotations

import numpy as np
import pairs
import pytest

from pipeline import backends
from pipeline.backends.base import Start
from pipeline.pairs.pair import Pair, Place, Side
from pipeline.pairs.registry import find_pair

KINDS = ("detached", "frozen", "unused")
VALUES = {
    "w": np.array([[0.3, -0.2], [0.1, 0.4], [-0.5, 0.2]]),
    "b": np.array([0.1, -0.1]),
    "extra": np.array([0.7, 0.5]),
}
DECAY = {"decay": "l2", "weight_decay": 0.5}


def torch_twin():
    import torch
    from torch import nn

    class Odd(nn.Module):
        """``x·w + b + extra``, of which `extra` is out of autodiff's sight."""

        def __init__(self, *, inputs, outputs, kind):
            super().__init__()
            self.kind = kind
            self.w = nn.Parameter(torch.zeros(inputs[0], outputs))
            self.b = nn.Parameter(torch.zeros(outputs))
            self.extra = nn.Parameter(torch.zeros(outputs), requires_grad=kind != "frozen")

        def forward(self, x):
            more = {"detached": self.extra.detach(), "frozen": self.extra, "unused": 0.0}
            return x @ self.w + self.b + more[self.kind]

    return Side(Odd, lambda m: {name: Place(name) for name in ("w", "b", "extra")})


def tensorflow_twin():
    import keras
    import tensorflow as tf

    class Odd(keras.Model):
        """``x·w + b + extra``, of which `extra` is out of autodiff's sight."""

        def __init__(self, *, inputs, outputs, kind):
            super().__init__()
            self.kind = kind
            self.w = self.add_weight(shape=(inputs[0], outputs), name="w")
            self.b = self.add_weight(shape=(outputs,), name="b")
            self.extra = self.add_weight(shape=(outputs,), name="extra", trainable=kind != "frozen")
            self.built = True

        def call(self, x):
            extra = tf.convert_to_tensor(self.extra)
            more = {"detached": tf.stop_gradient(extra), "frozen": extra, "unused": 0.0}
            return tf.matmul(x, tf.convert_to_tensor(self.w)) + self.b + more[self.kind]

    return Side(Odd, lambda m: {name: Place(name) for name in ("w", "b", "extra")})


def numpy_twin():
    class Odd:
        """``x·w + b + extra``, of which `backward` has no gradient of `extra`."""

        def __init__(self, *, inputs, outputs, kind):
            self.kind = kind
            self.p = {"w": np.zeros((inputs[0], outputs)), "b": np.zeros(outputs),
                      "extra": np.zeros(outputs)}  # fmt: skip

        def forward(self, x, *, training):
            self.x = x
            return x @ self.p["w"] + self.p["b"] + (self.p["extra"] if self.kind != "unused" else 0)

        def backward(self, d):
            return {"w": self.x.T @ d, "b": d.sum(axis=0)}

    return Side(Odd, lambda m: {name: Place(name) for name in m.p})


TWINS = {"torch": torch_twin, "tensorflow": tensorflow_twin, "numpy": numpy_twin}
CASES = [
    (backend, loop, execution)
    for backend in backends.names()
    for loop in backends.traits(backend)["LOOPS"]
    for execution in backends.traits(backend)["EXECUTIONS"]
    if loop != "fit"  # Keras hands out no gradients there
]


def samples(n=20):
    rng = np.random.default_rng(11)
    x = rng.normal(size=(n, 3))
    return x, x @ np.array([[1.0, 0.5], [-1.0, 0.2], [0.3, 2.0]]) + 0.5


def trained(tools, backend, kind, **given):
    x, y = samples()
    return tools.train(backend, TWINS[backend](), x=x, y=y, values=VALUES,
                       rates=np.full(4, 2.0**-6), settings={"kind": kind}, size=10, **given)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("backend", "loop", "execution"), CASES)
def test_it_trains_on_and_is_named(tools, backend, loop, execution, kind):
    run = trained(tools, backend, kind, loop=loop, execution=execution)
    assert run.trace.without_gradient == ("extra",)
    arrays = run.arrays
    assert not arrays["grad/extra"].any()
    np.testing.assert_array_equal(arrays["param/extra"], np.tile(VALUES["extra"], (5, 1)))
    for name in ("w", "b"):
        assert np.abs(np.diff(arrays[f"param/{name}"], axis=0)).max(axis=-1).min() > 0


@pytest.mark.parametrize("backend", backends.names())
def test_its_gradient_of_zero_goes_through_the_rule(tools, backend):
    """So that decay moves it in all backends alike: ``g = 0 + d·w``, ``w ← w − lr·g``."""
    run = trained(tools, backend, "detached", optimizer_settings=DECAY)
    expected = VALUES["extra"] * (1 - 2.0**-7) ** np.arange(5)[:, None]
    np.testing.assert_allclose(run.arrays["param/extra"], expected, rtol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["gd", "adam"])
def test_all_backends_go_the_same_way(tools, kind, optimizer):
    first, *others = (trained(tools, b, kind, optimizer=optimizer).arrays for b in backends.names())
    for other in others:
        for name in VALUES:
            np.testing.assert_allclose(
                other[f"param/{name}"], first[f"param/{name}"], rtol=0, atol=1e-14
            )


@pytest.mark.parametrize(("backend", "loop", "execution"), CASES)
def test_a_step_alone_makes_it_too(tools, backend, loop, execution):
    side, built, twin = tools.build(backend, TWINS[backend](), values=VALUES, inputs=(3,),
                                    outputs=2, settings={"kind": "detached"})  # fmt: skip
    once = side.stepper(built, twin, loop=loop, loss="mse", loss_settings={},
                        update=tools.update_of("gd"), execution=execution, xla=False,
                        rates=np.full(1, 2.0**-6))  # fmt: skip
    x, y = samples()
    found = once(Start(1, VALUES, {}, None, [(x, y, 1.0)], None))
    assert not found["grad/extra"].any()
    np.testing.assert_array_equal(found["param/extra"], VALUES["extra"])


def test_a_parameter_with_a_gradient_is_not_named(tools):
    for backend in backends.names():
        x, y = samples()
        run = tools.train(backend, "dense", x=x, y=y,
                          values={name: VALUES[name] for name in ("w", "b")},
                          rates=np.full(2, 1e-3))  # fmt: skip
        assert run.trace.without_gradient == ()


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_what_the_framework_trains_may_not_be_placed_as_untrained(tools, backend):
    twin = TWINS[backend]()

    def name_map(model):
        return {
            n: p._replace(role="statistic" if n == "w" else "trained")
            for n, p in twin.name_map(model).items()
        }

    with pytest.raises(ValueError, match="trained by the framework but not placed as trained: w"):
        tools.build(backend, Side(twin.model, name_map), values=VALUES, inputs=(3,), outputs=2,
                    settings={"kind": "frozen"})  # fmt: skip


OVERRIDES = ("data=multilinear", "data.n=20", "data.n_test=5", "data.d=3", "model=dense",
             "train.epochs=3", "tracking.model=false", "tracking.figures=[png]")  # fmt: skip


def cut_off(backend):
    """The pair `dense` of a backend, in which the bias is out of autodiff's sight."""
    twin = find_pair("dense").load_side(backend)

    def forward(self, x):
        if backend == "torch":
            return x @ self.layer.weight.T + self.layer.bias.detach()
        import tensorflow as tf

        bias = tf.stop_gradient(tf.convert_to_tensor(self.layer.bias))
        return tf.matmul(x, tf.convert_to_tensor(self.layer.kernel)) + bias

    method = {"torch": "forward", "tensorflow": "call"}[backend]
    return Side(type("Cut", (twin.model,), {method: forward}), twin.name_map)


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_the_record_names_it_and_the_run_says_so_once(backend, tmp_path, monkeypatch, capfd):
    from pipeline import terminal
    from pipeline.jobs.resolve import resolve
    from pipeline.stages.run import run

    monkeypatch.chdir(tmp_path)
    job = resolve(pairs.composed((*OVERRIDES, f"backend={backend}")))
    backends.load(backend)
    cut, real = cut_off(backend), Pair.load_side
    for twin, names in ((cut, ["b"]), (real(find_pair("dense"), backend), None)):
        monkeypatch.setattr(Pair, "load_side", lambda *_, twin=twin: twin)
        record = run(job, folder=tmp_path / "run", name="n", parent=None, resume=False,
                     progress=terminal.progress)  # fmt: skip
        assert record.about.get("without_gradient") == names
        said = [line for line in capfd.readouterr().err.splitlines() if "gradient" in line]
        assert said == ([f"twingrad: warning: no gradient in {backend}: b"] if names else [])


def counted_twin(backend, name_map):
    """A line beside layers that hold an integer: a random seed in Keras, a count in PyTorch."""
    if backend == "torch":
        import torch
        from torch import nn

        class Line(nn.Module):
            def __init__(self, *, inputs, outputs):
                super().__init__()
                self.out = nn.Linear(inputs[0], outputs)
                self.register_buffer("count", torch.tensor(0))

            def forward(self, x):
                return self.out(x)
    else:
        import keras

        class Line(keras.Model):
            def __init__(self, *, inputs, outputs):
                super().__init__()
                self.drop = keras.layers.Dropout(0.5)
                self.out = keras.layers.Dense(outputs)
                self.out.build((None, inputs[0]))
                self.built = True

            def call(self, x, training=False):
                return self.out(self.drop(x, training=training))

    return Side(Line, name_map)


PATHS = {"torch": ("out.weight", (1, 0)), "tensorflow": ("out.kernel", None)}


@pytest.mark.parametrize("backend", PATHS)
def test_integers_that_a_layer_holds_are_no_parameters(tools, backend):
    path, axes = PATHS[backend]
    twin = counted_twin(backend, lambda _: {"w": Place(path, axes), "b": Place("out.bias")})
    values = {name: VALUES[name] for name in ("w", "b")}
    side, model, _ = tools.build(backend, twin, values=values, inputs=(3,), outputs=2)
    for name, array in side.read(model, twin).items():
        np.testing.assert_array_equal(array, values[name])


@pytest.mark.parametrize("backend", PATHS)
def test_a_map_that_does_not_fit_names_what_is_missing_and_what_is_too_much(tools, backend):
    path, axes = PATHS[backend]
    twin = counted_twin(backend, lambda _: {"w": Place(path, axes), "b": Place("hidden.0.bias")})
    missing = r"without a name: [^;]*bias; not in the model: hidden\.0\.bias$"
    with pytest.raises(ValueError, match=missing):
        tools.build(backend, twin, values=VALUES, inputs=(3,), outputs=2)


def test_a_variable_with_the_name_of_anothers_path_is_not_taken_for_it(tools):
    """Keras lets two variables have one name; only the path is theirs alone."""
    import keras

    class Odd(keras.Model):
        def __init__(self, *, inputs, outputs):
            super().__init__()
            self.w = self.add_weight(shape=(inputs[0], outputs), name="w")
            self.b = self.add_weight(shape=(outputs,), name="b")
            self.forgotten = keras.Variable(np.zeros(outputs), name="b")  # its path is ``b`` alone
            self.built = True

    twin = Side(Odd, lambda _: {"w": Place("w"), "b": Place("b")})
    with pytest.raises(ValueError, match="without a name: a variable named"):
        tools.build("tensorflow", twin, values=VALUES, inputs=(3,), outputs=2)
