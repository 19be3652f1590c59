"""Parameters without a gradient on one side, and sides that do not repeat themselves."""

from __future__ import annotations

import faults as f
import numpy as np
import pytest
import wrongs
from faults import ATTENTION, MLP, RNN, Fault

from pipeline.pairs.registry import find_pair

torch = pytest.importorskip("torch")
tf = pytest.importorskip("tensorflow")

TANH = (*MLP, "model.activation=tanh")
SOFTMAX = (*f.DIGITS, "model=softmax", "optimizer=gd")


def linear(x, layer, *, weight=lambda w: w, bias=lambda b: b):
    return torch.nn.functional.linear(x, weight(layer.weight), bias(layer.bias))


def dense(x, layer, *, weight=lambda w: w, bias=lambda b: b):
    return x @ weight(layer.kernel.value) + bias(layer.bias.value)


def detach(value):
    return value.detach() if isinstance(value, torch.Tensor) else tf.stop_gradient(value)


def mlp_with(first=None, second=None, last=None, between=lambda x: x, when=wrongs.always):
    """The perceptron with some layers computed otherwise; each takes `(x, layer)`."""

    def mutate(side):
        clock = wrongs.Clock(side)
        plain = lambda x, layer: layer(x)  # noqa: E731

        def walk(self, x):
            changed = when(clock.k)
            for layer, other in zip(self.hidden, (first, second), strict=True):
                x = (other if other and changed else plain)(x, layer)
                x = self.activation(x)
            x = between(x) if changed else x
            return (last if last and changed else plain)(x, self.out)

        if side.name == "torch":
            return wrongs.twin("mlp", forward=lambda side: walk)(side)
        return wrongs.twin("mlp", call=lambda side: lambda self, x, training=False: walk(self, x))(
            side
        )

    return mutate


def frozen_torch(side):
    def forward(self, x):
        self.hidden[0].weight.requires_grad_(False)
        return walk(self, x)

    walk = find_pair("mlp").load_side("torch").model.forward
    return wrongs.twin("mlp", forward=lambda side: forward)(side)


def unwatched_key(side):
    def attend(self, x):
        q = self.query(x).reshape(self.split).transpose(1, 2)
        k = (x @ self.key.weight.detach().T).reshape(self.split).permute(0, 2, 3, 1)
        v = self.value(x).reshape(self.split).transpose(1, 2)
        weight = torch.softmax(q @ k * self.split[-1] ** -0.5, dim=-1)
        return self.mix((weight @ v).transpose(1, 2).reshape(x.shape))

    return wrongs.twin("attention", attend=lambda side: attend)(side)


def truncated(side):
    """Backpropagation through the last steps alone: every parameter still has a gradient."""
    right = side.model_module("rnn").Rnn.gru

    def gru(self, row, state):
        return right(self, row, detach(state))

    return wrongs.twin("rnn", gru=lambda side: gru)(side)


def lacks(mutate, name, step=1, rung="gradients", overrides=TANH, **more):
    return Fault(overrides, mutate, rung, (name,), step, says="no gradient", **more)


LACKING = {
    "a detached weight": lacks(
        mlp_with(second=lambda x, layer: linear(x, layer, weight=detach)), "layer2.w",
        runs=(f.SHORT_32, f.SHORT_64, f.MIDDLE_32)),
    "a stopped weight, in TensorFlow": lacks(
        mlp_with(second=lambda x, layer: dense(x, layer, weight=detach)), "layer2.w",
        side="tensorflow", runs=(f.SHORT_32, f.MIDDLE_64)),
    "a frozen weight": lacks(frozen_torch, "layer1.w", runs=(f.SHORT_32, f.MIDDLE_64)),
    "a bias that is not used": lacks(
        mlp_with(first=lambda x, layer: x @ layer.weight.T), "layer1.b", runs=(f.SHORT_32, f.SHORT_64)),
    "a bias that is not used, in TensorFlow": lacks(
        mlp_with(first=lambda x, layer: x @ layer.kernel.value), "layer1.b", side="tensorflow",
        runs=(f.SHORT_32, f.MIDDLE_32)),
    "a detached activation": Fault(
        TANH, mlp_with(between=detach), "gradients", f.HIDDEN[:4], says="no gradient",
        runs=(f.SHORT_32, f.SHORT_64)),
    "a detached key": lacks(unwatched_key, "key.w", overrides=ATTENTION, runs=(f.SHORT_32,)),
    "a weight detached from step 30 on": lacks(
        mlp_with(second=lambda x, layer: linear(x, layer, weight=detach), when=wrongs.since(30)),
        "layer2.w", 30, "trajectory", runs=(f.MIDDLE_32, f.LONG_32, f.LONG_64)),
    "a weight stopped in every fourth step, in TensorFlow": lacks(
        mlp_with(second=lambda x, layer: dense(x, layer, weight=detach), when=wrongs.every(4, start=1)),
        "layer2.w", 4, "trajectory", side="tensorflow", runs=(f.SHORT_32, f.SHORT_64)),
    "a state detached between times": Fault(
        RNN, truncated, "gradients", ("kernel", "recurrent", "bias", "inner"),
        runs=(f.SHORT_32, f.SHORT_64)),
    "a state stopped between times, in TensorFlow": Fault(
        RNN, truncated, "gradients", ("kernel", "recurrent", "bias", "inner"), side="tensorflow",
        runs=(f.SHORT_32,)),
}  # fmt: skip


def draws(mutate, says, overrides=TANH, **more):
    return Fault(overrides, mutate, "", (), None, verdict="ABSTAIN", says=says, **more)


def noise(draw, when=wrongs.always):
    return mlp_with(between=lambda x: x * (1 + 0.01 * draw(x)), when=when)


GENERATORS = {"torch": None, "tf": None, "numpy": np.random.default_rng(3)}


def own_generator(x):
    """A generator of its own, which a seed of the framework does not begin anew."""
    if GENERATORS["torch"] is None:
        GENERATORS["torch"] = torch.Generator().manual_seed(5)
    return torch.rand(x.shape, generator=GENERATORS["torch"], dtype=x.dtype)


def own_generator_of_tensorflow(x):
    if GENERATORS["tf"] is None:
        GENERATORS["tf"] = tf.random.Generator.from_seed(5)
    return GENERATORS["tf"].uniform(tf.shape(x), dtype=x.dtype)


def of_numpy(x):
    drawn = GENERATORS["numpy"].uniform(size=tuple(x.shape))
    return torch.as_tensor(drawn, dtype=x.dtype)


def softmax_with(draw, *, seen=True):
    """A model that draws nothing while it is made, so that its generator stands where it stood."""

    def forward(self, x):
        z = x @ self.w + self.b
        return z + 0.01 * (draw(z) if seen else draw(z)[:, :1])

    def mutate(side):
        if side.name == "torch":
            return wrongs.twin("softmax", forward=lambda side: forward)(side)
        return wrongs.twin(
            "softmax", call=lambda side: lambda self, x, training=False: forward(self, x)
        )(side)

    return mutate


def rand(x):
    return torch.rand(x.shape, dtype=x.dtype)


def uniform(x):
    return tf.random.uniform(tf.shape(x), dtype=x.dtype)


def double(x):
    return torch.rand(x.shape, dtype=torch.float64).to(x.dtype)


DRAWING = {
    "torch.rand": draws(noise(rand), "aten.rand", runs=(f.SHORT_32, f.SHORT_64, f.MIDDLE_32)),
    "tf.random.uniform": draws(noise(uniform), "RandomUniform", side="tensorflow", runs=(f.SHORT_32, f.MIDDLE_64)),
    "a generator of its own": draws(noise(own_generator), "aten.rand", runs=(f.SHORT_32, f.SHORT_64)),
    "a generator of its own, in TensorFlow": draws(
        noise(own_generator_of_tensorflow), "Random", side="tensorflow", runs=(f.SHORT_32, f.SHORT_64)),
    "dropout of its own": draws(
        mlp_with(between=lambda x: torch.nn.functional.dropout(x, 0.2)), "aten.",
        runs=(f.SHORT_32, f.MIDDLE_64)),
    "dropout of its own, in TensorFlow": draws(
        mlp_with(between=lambda x: tf.nn.dropout(x, 0.2)), "Random", side="tensorflow", runs=(f.SHORT_32,)),
    "a generator of NumPy": draws(noise(of_numpy), "torch", runs=(f.SHORT_32, f.SHORT_64)),
    "every seventh step draws": draws(noise(rand, wrongs.every(7, start=1)), "aten.rand", runs=(f.MIDDLE_32, f.LONG_64)),
    "a draw that the loss does not see": draws(
        softmax_with(rand, seen=False), "aten.rand", SOFTMAX, runs=(f.SHORT_32, f.SHORT_64)),
    "a model that draws nothing else": draws(
        softmax_with(rand), "aten.rand", SOFTMAX, runs=(f.SHORT_32, f.SHORT_64, f.MIDDLE_32)),
    "a model that draws nothing else, in one precision": draws(
        softmax_with(double), "aten.rand", SOFTMAX, runs=(f.SHORT_32, f.SHORT_64, f.LONG_32)),
    "a model that draws nothing else, in TensorFlow": draws(
        softmax_with(uniform), "Random", SOFTMAX, side="tensorflow", runs=(f.SHORT_32, f.SHORT_64)),
}  # fmt: skip

FAULTS = LACKING | DRAWING


@pytest.mark.parametrize(("fault", "run"), f.cases(FAULTS))
def test_it_is_named(monkeypatch, fault, run):
    f.check(fault, run, monkeypatch)
