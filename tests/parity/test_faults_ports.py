"""Faults that people met when they ported a model: layers, losses, layouts, modes."""

from __future__ import annotations

import functools

import faults as f
import pytest
import wrongs
from faults import ATTENTION, CNN, HIDDEN, MLP, NORM, RNN, VALUES, Fault

from pipeline import losses, watching

torch = pytest.importorskip("torch")
tf = pytest.importorskip("tensorflow")
nn = torch.nn

MSE = (*VALUES, "loss=mse")
LSTM = (*RNN, "model.cell=lstm")
BOTH = (f.SHORT_32, f.SHORT_64)


def both_sides(first, second):
    """Two sides that are both changed: the wrong one by `first`, the right one by `second`."""

    def mutate(side):
        other = {"torch": "tensorflow", "tensorflow": "torch"}[side.name]
        second(wrongs.WrongSide(other, side.patch))
        return first(side)

    return mutate


# Losses


def broadcast(p, t, *, ops):
    return ops.mean(ops.square(p - t[:, 0]))


def double_softmax(axis):
    def mutate(side):
        def cross_entropy(z, y, *, ops, smoothing):
            z = torch.softmax(z, axis) if side.name == "torch" else tf.nn.softmax(z, axis)
            return losses.cross_entropy(z, y, ops=ops, smoothing=smoothing)

        wrongs.loss(cross_entropy=cross_entropy)(side)

    return mutate


def weighted(by):
    """Class 0 weighs twice; the sum divided by the count, or by the weights."""

    def cross_entropy(z, y, *, ops, smoothing):
        weight = 1 + y[:, :1]
        each = weight * (ops.logsumexp(z) - ops.sum(y * z))
        return ops.mean(each) if by == "count" else ops.total(each) / ops.total(weight)

    return wrongs.loss(cross_entropy=cross_entropy)


def smoothing_of_binary(z, y, *, ops, smoothing):
    smooth = y * (1 - smoothing) + smoothing / 2
    return ops.mean(ops.logsumexp(z) - ops.sum(smooth * z))


def per_sample_sum(z, y, *, ops, smoothing):
    return losses.cross_entropy(z, y, ops=ops, smoothing=smoothing) * z.shape[0]


# Layers


def norm(**changes):
    def mutate(side):
        from pipeline.pairs.builtin.mlp import torch as module

        class Other(module.BatchNorm):
            def __init__(self, width, **how):
                super().__init__(width, **how | changes)

        side.patch.setattr(module, "BatchNorm", Other)

    return mutate


def keras_norm(**changes):
    """Keras's own layer, with other settings than it is given."""

    def mutate(side):
        import keras

        right = keras.layers.BatchNormalization
        side.patch.setattr(
            keras.layers, "BatchNormalization", lambda *a, **named: right(*a, **named | changes)
        )

    return mutate


def never_training(side):
    right = side.model_module("mlp").Mlp.call
    return wrongs.twin("mlp", call=lambda side: lambda self, x, training=False: right(self, x))(
        side
    )


def layer_norm(compute):
    def mutate(side):
        def forward(self, x):
            return compute(x, self.eps) * self.weight + self.bias

        side.patch.setattr(nn.LayerNorm, "forward", forward)

    return mutate


def over_samples(x, eps):
    return (x - x.mean(0)) / torch.sqrt(x.var(0, correction=0) + eps)


def with_unbiased(x, eps):
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True) + eps)


def beside_the_root(x, eps):
    return (x - x.mean(-1, keepdim=True)) / (
        torch.sqrt(x.var(-1, keepdim=True, correction=0)) + eps
    )


def transposed(placed):
    """The square kernel of the second layer, its listed transpose taken away or added."""
    place = placed["layer2.w"]
    return placed | {"layer2.w": place._replace(axes=None if place.axes else (1, 0))}


def exchanged(placed):
    return placed | {"layer1.b": placed["layer2.b"], "layer2.b": placed["layer1.b"]}


# Images


def cnn(pad=lambda x: x, pool=None, flatten=lambda x: x.permute(0, 2, 3, 1).flatten(1)):
    def forward(self, x):
        x = x.permute(0, 3, 1, 2)
        x = watching.seen("conv1", self.convs[0](pad(x)), (0, 3, 1, 2))
        x = watching.seen("norm1", self.norms[0](x), (0, 3, 1, 2))
        x = watching.seen("pool1", (pool or self.pool)(torch.relu(x)), (0, 3, 1, 2))
        return self.out(flatten(x))

    return wrongs.twin("cnn", forward=lambda side: forward)


def one_pixel_off(x):
    """Pooled one row and column later, as padding at the other end does."""
    return nn.functional.max_pool2d(torch.roll(x, (-1, -1), (2, 3)), 2)


def padding_counts(x):
    return nn.functional.avg_pool2d(x, 2, padding=1, count_include_pad=True)[..., :4, :4]


def padding_does_not_count(x):
    return tf.nn.avg_pool2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), 2, 2, "VALID")


def average_at_ties(x):
    """The maximum, whose gradient at a tie goes to all of them alike."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).amax((3, 5))


def tied(values):
    """A start from which every pool sees four equal numbers, of patches that differ."""
    return values | {
        "conv1.kernel": 0 * values["conv1.kernel"], "norm1.shift": values["norm1.shift"] + 0.5
    }  # fmt: skip


def keras_cnn(flatten=None, kernel=None):
    def mutate(side):
        right = side.model_module("cnn").Cnn.call

        def call(self, x, training=False):
            if kernel is not None:
                x = kernel(x)
            return right(self, x, training=training)

        return wrongs.twin("cnn", call=lambda side: call)(side)

    return mutate


# Sequences


def reversed_time(name, method="forward"):
    def mutate(side):
        right = getattr(side.model_module(name), name.capitalize())
        flip = (
            (lambda x: torch.flip(x, [1]))
            if side.name == "torch"
            else (lambda x: tf.reverse(x, [1]))
        )
        if side.name == "torch":
            wrong = lambda self, x: right.forward(self, flip(x))  # noqa: E731
            return wrongs.twin(name, forward=lambda side: wrong)(side)
        wrong = lambda self, x, training=False: right.call(self, flip(x), training=training)  # noqa: E731
        return wrongs.twin(name, call=lambda side: wrong)(side)

    return mutate


def batch_for_time(side):
    """Batch and time exchanged, where both are eight."""
    right = side.model_module("rnn").Rnn.forward
    return wrongs.twin("rnn", forward=lambda side: lambda self, x: right(self, x.transpose(0, 1)))(
        side
    )


def gates(order):
    """A GRU of TensorFlow whose gates are read in another order."""

    def mutate(side):
        right = side.model_module("rnn").Rnn.gru

        def gru(self, row, state):
            parts = tf.split(row, 3, axis=1)
            return right(self, tf.concat([parts[i] for i in order], axis=1), state)

        return wrongs.twin("rnn", gru=lambda side: gru)(side)

    return mutate


def summed_positions(side):
    def forward(self, x):
        x = watching.seen("embed", self.embed(x) + self.positions)
        x = watching.seen("norm1", self.norm1(x + watching.seen("attend", self.attend(x))))
        up = watching.seen("up", self.up(x))
        x = watching.seen("norm2", self.norm2(x + self.down(torch.relu(up))))
        return self.out(torch.sum(x, dim=1))

    return wrongs.twin("attention", forward=lambda side: forward)(side)


def norm_at_zero(side):
    """A length added that is 0: its gradient is 0 in PyTorch and NaN in TensorFlow."""

    def make(side, right):
        if side.name == "torch":
            return lambda x: (
                right(x) + torch.linalg.vector_norm(x - x.detach(), dim=-1, keepdim=True)
            )
        return lambda x: right(x) + tf.norm(x - tf.stop_gradient(x), axis=-1, keepdims=True)

    wrongs.activation("tanh", make)(side)


def like(name, torch_function, tf_function):
    return wrongs.activation(
        name, lambda side, right: torch_function if side.name == "torch" else tf_function
    )


OUTPUT = ("output",)
STATES = ("state1",)
STATISTICS = ("norm1.mean", "norm1.variance", "norm2.mean", "norm2.variance")

FAULTS = {
    "1 a target without a column": Fault(MSE, wrongs.loss(mse=broadcast), "loss", ("loss",), runs=BOTH),
    "1 a target without a column, in TensorFlow": Fault(
        MSE, wrongs.loss(mse=broadcast), "loss", ("loss",), side="tensorflow"),
    "2 softmax twice": Fault(MLP, double_softmax(-1), "loss", ("loss",), runs=(f.SHORT_32, f.MIDDLE_64)),
    "2 softmax over the samples, in TensorFlow": Fault(
        MLP, double_softmax(0), "loss", ("loss",), side="tensorflow"),
    "3 summed over the samples": Fault(
        (*RNN, "optimizer.clip_norm=0.5"), wrongs.loss(cross_entropy=per_sample_sum), "loss", ("loss",), ratio=64.0,
        runs=(f.SHORT_32, f.MIDDLE_32)),
    "7 batch norm's epsilon 0.8": Fault(NORM, norm(epsilon=0.8), "forward", ("norm1",), runs=BOTH),
    "8 momentum for 1 - momentum": Fault(NORM, norm(decay=0.1), "update", STATISTICS, runs=(f.SHORT_32, f.MIDDLE_64)),
    "8 momentum for 1 - momentum, in TensorFlow": Fault(
        NORM, keras_norm(momentum=0.1), "update", STATISTICS, side="tensorflow"),
    "9 flattened channels first": Fault(
        CNN, cnn(flatten=lambda x: x.flatten(1)), "forward", OUTPUT, runs=(f.SHORT_32, f.LONG_32)),
    "10 one pixel off": Fault(CNN, cnn(pool=one_pixel_off), "forward", ("pool1",), runs=BOTH),
    "10 an image shifted, in TensorFlow": Fault(
        CNN, keras_cnn(kernel=lambda x: tf.roll(x, [1], [1])), "forward", ("conv1",), side="tensorflow"),
    "11 a GRU's gates, in TensorFlow": Fault(
        RNN, gates((1, 0, 2)), "forward", STATES, side="tensorflow", runs=(f.SHORT_32, f.MIDDLE_64)),
    "12 a bias that moves twice": Fault(
        LSTM, wrongs.scaled(2.0, where=wrongs.is_shaped((24,))), "update", ("bias",), ratio=2.0,
        runs=(f.SHORT_32, f.MIDDLE_32, f.SHORT_64)),
    "14 inference mode in the loop": Fault(
        NORM, never_training, "forward", ("norm1",), side="tensorflow", runs=(f.SHORT_32, f.SHORT_64)),
    "24 summed over the positions": Fault(ATTENTION, summed_positions, "forward", OUTPUT, runs=BOTH),
    "26 a mean by the weights": Fault(
        MLP, both_sides(weighted("weights"), weighted("count")), "loss", ("loss",), both=True),
    "29 a binary's smoothing": Fault(
        (*MLP, "loss.smoothing=0.1"), wrongs.loss(cross_entropy=smoothing_of_binary), "loss", ("loss",), runs=BOTH),
    "30 a tie of a maximum": Fault(
        CNN, cnn(pool=average_at_ties), "gradients",
        ("conv1.kernel",), first=tied, runs=(f.SHORT_32, f.SHORT_64)),
    "31 a length of 0": Fault(
        (*MLP, "model.activation=tanh"), both_sides(norm_at_zero, norm_at_zero), "gradients",
        HIDDEN[:4], side="tensorflow", both=True, runs=(f.SHORT_32, f.SHORT_64)),
    "32 the unbiased variance": Fault(
        (*MLP, "model.norm=layer"), layer_norm(with_unbiased), "forward", ("norm1",), runs=(f.SHORT_32, f.MIDDLE_32)),
    "layer norm over the samples": Fault(
        (*MLP, "model.norm=layer"), layer_norm(over_samples), "forward", ("norm1",), runs=BOTH),
    "epsilon beside the root": Fault(
        (*MLP, "model.norm=layer"), layer_norm(beside_the_root), "forward", ("norm1",), runs=BOTH),
    "a transposed square kernel, in TensorFlow": Fault(
        MLP, wrongs.twin("mlp", places=transposed), "forward", ("layer2",), side="tensorflow"),
    "exchanged biases, in TensorFlow": Fault(
        MLP, wrongs.twin("mlp", places=exchanged), "forward", ("layer1",), side="tensorflow",
        first=f.moved_biases),
    "a leaky relu": Fault(
        MLP, like("relu", functools.partial(nn.functional.leaky_relu, negative_slope=0.001), None),
        "forward", ("activation1",), runs=(f.SHORT_32, f.MIDDLE_64)),
    "a leaky relu, in TensorFlow": Fault(
        MLP, like("relu", None, lambda x: tf.nn.leaky_relu(x, 0.2)), "forward", ("activation1",),
        side="tensorflow"),
    "relu up to 6": Fault(
        (*MLP, "optimizer.lr=1e-3"), like("relu", lambda x: torch.clamp(x, 0, 0.5), None), "forward",
        ("activation1",)),
    "gelu by tanh, in TensorFlow": Fault(
        (*MLP, "model.activation=gelu"), like("gelu", None, lambda x: tf.nn.gelu(x, approximate=True)),
        "forward", ("activation1",), side="tensorflow", runs=BOTH),
    "gelu by a sigmoid": Fault(
        (*MLP, "model.activation=gelu"), like("gelu", lambda x: x * torch.sigmoid(1.702 * x), None),
        "forward", ("activation1",)),
    "a hard sigmoid, in TensorFlow": Fault(
        (*MLP, "model.activation=sigmoid"), like("sigmoid", None, lambda x: tf.clip_by_value(0.2 * x + 0.5, 0, 1)),
        "forward", ("activation1",), side="tensorflow"),
    "time reversed": Fault(RNN, reversed_time("rnn"), "forward", STATES, runs=(f.SHORT_32, f.MIDDLE_64)),
    "time reversed, in TensorFlow": Fault(
        ATTENTION, reversed_time("attention"), "forward", ("embed",), side="tensorflow"),
    "padding in front": Fault(
        (*CNN, "model.kernel=2"), cnn(pad=lambda x: nn.functional.pad(x, (1, 0, 1, 0))), "forward", ("conv1",),
        runs=BOTH),
    "an average that counts the padding": Fault(
        (*CNN, "model.pool=average"), cnn(pool=padding_counts), "forward", ("pool1",), runs=BOTH),
    "Huber's delta, in TensorFlow": Fault(
        (*VALUES, "loss=huber"), wrongs.loss(huber=lambda p, t, *, ops, delta: losses.huber(p, t, ops=ops, delta=1.01)),
        "loss", ("loss",), side="tensorflow", runs=BOTH),
    "Huber divided by delta": Fault(
        (*VALUES, "loss=huber", "loss.delta=0.5"),
        wrongs.loss(huber=lambda p, t, *, ops, delta: losses.huber(p, t, ops=ops, delta=delta) / delta), "loss",
        ("loss",), ratio=2.0),
    "half of the squared error": Fault(
        MSE, wrongs.loss(mse=lambda p, t, *, ops: 0.5 * losses.mse(p, t, ops=ops)), "loss", ("loss",), ratio=0.5,
        side="tensorflow"),
}  # fmt: skip


@pytest.mark.parametrize(("fault", "run"), f.cases(FAULTS))
def test_a_fault_of_a_port_is_named(monkeypatch, fault, run):
    f.check(fault, run, monkeypatch)
