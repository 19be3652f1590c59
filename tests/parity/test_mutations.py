"""The ladder must be able to fail: one twin made wrong in one place, named at its first rung.

Side a is TensorFlow as it is, side b PyTorch with one mutation, all in float32. Beside them every
pair of the project unmutated, over five seeds: no false alarm.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import rightly
import wrongs
from tiers import tiered
from wrongs import WrongSide

from pipeline import losses, watching
from pipeline.backends.torch.tensors import to_tensor
from pipeline.data.batches import Batches
from pipeline.pairs.builtin.mlp import torch as mlp_torch
from pipeline.pairs.pair import Place, Side
from pipeline.pairs.registry import find_pair, list_pairs

torch = pytest.importorskip("torch")
nn = torch.nn

SHORT = ("train.epochs=1", "data=digits", "data.test=0.75", "train=minibatch",
         "train.batch=64", "loss=cross_entropy", "model.init=shared")  # fmt: skip
MLP = (*SHORT, "model=mlp", "model.widths=[12,12]", "optimizer=adam", "optimizer.lr=1e-3")
NORM = (*MLP, "model.norm=batch")
CNN = (*SHORT, "data.layout=image", "model=cnn", "model.channels=[3]", "optimizer=gd")
RNN = (*SHORT, "data.layout=rows", "model=rnn", "model.width=6", "optimizer=gd")
ATTENTION = (*SHORT, "data.layout=rows", "model=attention", "model.width=8", "model.heads=2",
             "model.hidden=8", "optimizer=gd")  # fmt: skip


class Mutation(NamedTuple):
    """What is made wrong, and what the ladder shall say: rung, one of some tensors, the step.

    Several tensors are there where all of them are wrong: which is the farthest is chance.
    """

    overrides: tuple[str, ...]
    mutate: object
    rung: str
    tensors: tuple[str, ...]
    step: int | None = None
    kind: str = "meaning"


def twin_of(name, *, model=None, places=None):
    """The PyTorch twin with another subclass, or with some entries of its name map replaced."""
    twin = find_pair(name).load_side("torch")
    mapped = twin.name_map
    if places:

        def mapped(built, original=twin.name_map):
            return places(original(built))

    return {"twin": Side(model or twin.model, mapped)}


def with_method(name, **methods):
    """A subclass of a twin's class with some methods replaced."""
    base = find_pair(name).load_side("torch").model
    return type(base.__name__, (base,), methods)


def with_update(monkeypatch, change):
    """The backend's loop, and its single steps, with another optimizer."""
    wrongs.update(change)(WrongSide("torch", monkeypatch))
    return {}


class Rule:
    """An `Update` whose rule is replaced."""

    def __init__(self, update, rule=None, clipped=None, scalars=None):
        self._update, self._rule, self._clipped, self._scalars = update, rule, clipped, scalars

    def __getattr__(self, name):
        return getattr(self._update, name)

    def rule(self, *, sqrt):
        if self._rule is None:
            return self._update.rule(sqrt=sqrt)
        return functools.partial(self._rule, sqrt=sqrt, **self._update.settings)

    def clipped(self, gradients, *, ops):
        if self._clipped is None:
            return self._update.clipped(gradients, ops=ops)
        return self._clipped(gradients, self._update.clip_norm)

    def scalars(self, step, lr):
        return (self._scalars or self._update.scalars)(step, lr)


def rule(function):
    return lambda patch: with_update(patch, lambda update: Rule(update, rule=function))


def settings(**changes):
    return lambda patch: with_update(
        patch, lambda update: dataclasses.replace(update, settings=update.settings | changes)
    )


def loss(**functions):
    def mutate(patch):
        WrongSide("torch", patch).set("losses", SimpleNamespace(**vars(losses) | functions))
        return {}

    return mutate


# The mutations


def transposed_kernel(patch):
    def places(placed):
        return placed | {"layer2.w": placed["layer2.w"]._replace(axes=None)}

    return twin_of("mlp", places=places)


def swapped_biases(patch):
    def places(placed):
        return placed | {"layer1.b": placed["layer2.b"], "layer2.b": placed["layer1.b"]}

    return twin_of("mlp", places=places)


def keras_epsilon(w, g, slots, *, rate, correction, sqrt, beta1, beta2, epsilon):
    m, v = slots
    m.mul_(beta1).add_((1 - beta1) * g)
    v.mul_(beta2).add_((1 - beta2) * g * g)
    w -= rate * math.sqrt(correction) * m / (sqrt(v) + epsilon)
    return w, (m, v)


def no_correction(w, g, slots, *, rate, correction, sqrt, beta1, beta2, epsilon):
    m, v = slots
    m.mul_(beta1).add_((1 - beta1) * g)
    v.mul_(beta2).add_((1 - beta2) * g * g)
    w -= 1e-3 * m / (sqrt(v) + epsilon)
    return w, (m, v)


def epsilon_inside(w, g, slots, *, lr, sqrt, rho, epsilon):
    (v,) = slots
    v.mul_(rho).add_((1 - rho) * g * g)
    w -= lr * g / sqrt(v + epsilon)
    return w, (v,)


class KerasMomentum:
    """``v ← μv − lr·g``, kept in units of the gradient: the rates of two steps mix."""

    def __init__(self):
        self.lr = {}

    def __call__(self, w, g, slots, *, lr, sqrt, momentum):
        (v,) = slots
        before = self.lr.get(id(w), lr)
        self.lr[id(w)] = lr
        v.mul_(momentum * before / lr).add_(g)
        w -= lr * v
        return w, (v,)


def plain_momentum(w, g, slots, *, lr, sqrt, momentum):
    (v,) = slots
    v.mul_(momentum).add_(g)
    w -= lr * v
    return w, (v,)


def coupled(patch):
    return with_update(patch, lambda update: dataclasses.replace(update, decay="l2"))


def by_tensor(gradients, most):
    return [g * (most / torch.clamp(torch.linalg.vector_norm(g), min=most)) for g in gradients]


def clip_by_tensor(patch):
    return with_update(patch, lambda update: Rule(update, clipped=by_tensor))


def batch_norm(**changes):
    """Another batch normalisation in the twin."""

    def mutate(patch):
        class Other(mlp_torch.BatchNorm):
            def __init__(self, width, **how):
                super().__init__(width, **how | changes)

        patch.setattr(mlp_torch, "BatchNorm", Other)
        return {}

    return mutate


def unbiased(patch):
    class Other(mlp_torch.BatchNorm):
        def forward(self, x):
            before = self.variance.clone()
            out = super().forward(x)
            if self.training:
                n = len(x)
                with torch.no_grad():
                    grown = (self.variance - self.decay * before) * (n / (n - 1))
                    self.variance.copy_(self.decay * before + grown)
            return out

    patch.setattr(mlp_torch, "BatchNorm", Other)
    return {}


def train_mode(patch):
    def predict(model, x):
        model.train()
        with torch.no_grad():
            return model(to_tensor(x, next(model.parameters()))).numpy()

    WrongSide("torch", patch).set("predict", predict)
    return {}


def not_zeroed(patch):
    original = WrongSide("torch", None).get("_manual")

    def manual(model, parameters, *rest, **how):
        program = original(model, parameters, *rest, **how)
        kept = [None] * len(parameters)

        def stale(parts, scalars, slots, given):
            for p, g in zip(parameters, kept, strict=True):
                p.grad = g
            value, gradients, slots = program.step(parts, scalars, slots, given)
            kept[:] = [g.clone() for g in gradients]
            return value, gradients, slots

        return program._replace(step=stale)

    WrongSide("torch", patch).set("_manual", manual)
    return {}


def in_samples(change):
    """Samples of which one thing is changed, seen by every training of side b."""

    def mutate(patch):
        original = WrongSide("torch", None).get("cut_updates")

        class Other:
            def __init__(self, batches):
                self._batches = batches

            def __getattr__(self, name):
                return getattr(self._batches, name)

            def blocks(self, epoch):
                for x, y in self._batches.blocks(epoch):
                    yield change(x.copy(), y.copy())

        return {"samples": lambda batches: Other(batches) if isinstance(batches, Batches) else batches,
                "original": original}  # fmt: skip

    return mutate


def swapped_order(x, y):
    for a in (x, y):
        a[[3, 70]] = a[[70, 3]]
    return x, y


def within_batch(x, y):
    for a in (x, y):
        a[[3, 4]] = a[[4, 3]]
    return x, y


def one_pixel(x, y):
    x[5, 20] += np.float32(0.0625)
    return x, y


def late_schedule(patch):
    return {"rates": lambda lr: np.concatenate([lr[:1], lr[:-1]])}


def padded_in_front(patch):
    def forward(self, x):
        x = x.permute(0, 3, 1, 2)
        x = watching.seen("conv1", self.convs[0](nn.functional.pad(x, (1, 0, 1, 0))), (0, 3, 1, 2))
        x = watching.seen("norm1", self.norms[0](x), (0, 3, 1, 2))
        x = watching.seen("pool1", self.pool(torch.relu(x)), (0, 3, 1, 2))
        return self.out(x.permute(0, 2, 3, 1).flatten(1))

    return twin_of("cnn", model=with_method("cnn", forward=forward))


def average_pool(patch):
    from pipeline.pairs.builtin.cnn import torch as cnn_torch

    patch.setitem(cnn_torch.POOLS, "max", nn.functional.avg_pool2d)
    return {}


def flattened_as_nchw(patch):
    def forward(self, x):
        x = x.permute(0, 3, 1, 2)
        x = watching.seen("conv1", self.convs[0](x), (0, 3, 1, 2))
        x = watching.seen("norm1", self.norms[0](x), (0, 3, 1, 2))
        x = watching.seen("pool1", self.pool(torch.relu(x)), (0, 3, 1, 2))
        return self.out(x.flatten(1))

    return twin_of("cnn", model=with_method("cnn", forward=forward))


def dropout_unscaled(patch):
    base = find_pair("mlp").load_side("torch").model

    def forward(self, x, *masks):
        return base.forward(self, x, *((mask > 0).to(x.dtype) for mask in masks))

    return twin_of("mlp", model=with_method("mlp", forward=forward))


def gate_order(patch):
    def lstm(self, row, state, memory):
        f, i, c, o = torch.chunk(row + state @ self.recurrent, 4, dim=1)
        memory = torch.sigmoid(f) * memory + torch.sigmoid(i) * torch.tanh(c)
        return torch.sigmoid(o) * torch.tanh(memory), memory

    return twin_of("rnn", model=with_method("rnn", lstm=lstm))


def reset_before(patch):
    def gru(self, row, state):
        width = self.width
        z, r, c = torch.chunk(row, 3, dim=1)
        w_z, w_r, w_c = torch.split(self.recurrent, width, dim=1)
        z, r = torch.sigmoid(z + state @ w_z), torch.sigmoid(r + state @ w_r)
        candidate = torch.tanh(c + (r * state) @ w_c + self.inner)
        return z * state + (1 - z) * candidate

    return twin_of("rnn", model=with_method("rnn", gru=gru))


def gru_gates(patch):
    def gru(self, row, state):
        r, z, c = torch.chunk(row, 3, dim=1)
        from_r, from_z, from_c = torch.chunk(state @ self.recurrent, 3, dim=1)
        z, r = torch.sigmoid(z + from_z), torch.sigmoid(r + from_r)
        return z * state + (1 - z) * torch.tanh(c + r * (from_c + self.inner))

    return twin_of("rnn", model=with_method("rnn", gru=gru))


def attention(scale=True, axis=-1):
    def mutate(patch):
        def attend(self, x):
            q = self.query(x).reshape(self.split).transpose(1, 2)
            k = self.key(x).reshape(self.split).permute(0, 2, 3, 1)
            v = self.value(x).reshape(self.split).transpose(1, 2)
            score = watching.seen("score", q @ k * (self.split[-1] ** -0.5 if scale else 1.0))
            weight = torch.softmax(score, dim=axis)
            return self.mix((weight @ v).transpose(1, 2).reshape(x.shape))

        return twin_of("attention", model=with_method("attention", attend=attend))

    return mutate


def activation(name, function):
    def mutate(patch):
        patch.setitem(mlp_torch.ACTIVATIONS, name, function)
        return {}

    return mutate


def layer_norm_epsilon(patch):
    original = nn.LayerNorm
    patch.setattr(nn, "LayerNorm", lambda *a, eps, **k: original(*a, eps=1e-3, **k))
    patch.setattr(mlp_torch, "norm_map", lambda norm, name, path: {
        f"{name}.scale": Place(f"{path}.weight"), f"{name}.shift": Place(f"{path}.bias")})  # fmt: skip
    return {}


def other_smoothing(z, y, *, ops, smoothing):
    classes = z.shape[-1]
    smooth = y * (1 - smoothing) + (1 - y) * smoothing / (classes - 1)
    return ops.mean(ops.logsumexp(z) - ops.sum(smooth * z))


def start(change):
    def mutate(patch):
        def first(values):
            values = {k: v.astype(np.float32) for k, v in values.items()}
            values["layer2.w"][2, 3] = change(values["layer2.w"][2, 3])
            return values

        return {"first": first}

    return mutate


def accumulated_sum(patch):
    original = WrongSide("torch", None).get("cut_updates")

    def updates(batches, epoch, *, group, like):
        for parts in original(batches, epoch, group=group, like=like):
            yield [(x, y, 1.0) for x, y, _ in parts]

    WrongSide("torch", patch).set("cut_updates", updates)
    return {}


def rounded(x):
    """A float32 tensor in bfloat16 for a moment; float64 is left alone."""
    return x.to(torch.bfloat16).to(x.dtype) if x.dtype == torch.float32 else x


def half_precision(patch):
    original = nn.Linear.forward
    patch.setattr(nn.Linear, "forward", lambda self, x: original(self, rounded(x)))
    return {}


def half_gradients(patch):
    return with_update(
        patch,
        lambda update: Rule(update, clipped=lambda gradients, most: list(map(rounded, gradients))),
    )


HIDDEN = ("layer1.w", "layer1.b", "layer2.w", "layer2.b", "out.w", "out.b")
MUTATIONS = {
    "a transposed square kernel": Mutation(MLP, transposed_kernel, "forward", ("layer2",), 1),
    "swapped biases": Mutation(MLP, swapped_biases, "gradients", ("layer1.b", "layer2.b"), 1),
    "Adam's epsilon 1e-7": Mutation(MLP, settings(epsilon=1e-7), "update", HIDDEN, 1),
    "Keras's place of Adam's epsilon": Mutation(MLP, rule(keras_epsilon), "update", HIDDEN, 1),
    "Adam without bias correction": Mutation(MLP, rule(no_correction), "update", HIDDEN, 1),
    "Adam's beta2 0.99": Mutation(MLP, settings(beta2=0.99), "update", ("correction (as used)",), 1),
    "RMSprop's epsilon inside the root": Mutation(
        (*MLP, "optimizer=rmsprop"), rule(epsilon_inside), "update", HIDDEN, 1),
    "layer norm's epsilon 1e-3": Mutation(
        (*MLP, "model.norm=layer"), layer_norm_epsilon, "forward", ("norm1",), 1),
    "batch norm's epsilon 1e-3": Mutation(NORM, batch_norm(epsilon=1e-3), "forward", ("norm1",), 1),
    "Keras's momentum under a schedule": Mutation(
        (*MLP, "optimizer=momentum", "optimizer.lr=0.1", "schedule=exponential"),
        lambda patch: rule(KerasMomentum())(patch), "trajectory",
        tuple(f"{n} (slot v)" for n in HIDDEN), 2, "state"),  # the rule keeps the rate before
    "Nesterov without looking ahead": Mutation(
        (*MLP, "optimizer=nesterov", "optimizer.lr=0.1"), rule(plain_momentum), "update", HIDDEN, 1),
    "decay coupled instead of decoupled": Mutation(
        (*MLP, "optimizer.decay=decoupled", "optimizer.weight_decay=0.01"), coupled, "update",
        tuple(f"{n}.w (slot {slot})" for n in ("layer1", "layer2", "out") for slot in "mv"), 1),
    "batch norm's momentum 0.99": Mutation(
        NORM, batch_norm(decay=0.99), "update",
        ("norm1.mean", "norm1.variance", "norm2.mean", "norm2.variance"), 1),
    "the unbiased running variance": Mutation(
        NORM, unbiased, "update", ("norm1.variance", "norm2.variance"), 1),
    "a loss summed instead of averaged": Mutation(
        (*MLP, "data=diabetes", "loss=mse"),
        loss(mse=lambda p, t, *, ops: ops.total(ops.square(p - t))), "loss", ("loss",), 1),
    "Huber's delta": Mutation(
        (*MLP, "data=diabetes", "loss=huber"),
        loss(huber=lambda p, t, *, ops, delta: losses.huber(p, t, ops=ops, delta=0.5)), "loss",
        ("loss",), 1),
    "label smoothing in the other form": Mutation(
        (*MLP, "loss.smoothing=0.1"), loss(cross_entropy=other_smoothing), "loss", ("loss",), 1),
    "gradients not zeroed": Mutation(MLP, not_zeroed, "trajectory", HIDDEN, 2, "state"),
    "accumulation summed": Mutation(
        (*MLP, "optimizer.accumulate=2", "train.batch=32"), accumulated_sum, "loss", ("loss",), 1),
    "clipping by tensor": Mutation(
        (*MLP, "optimizer=gd", "optimizer.lr=0.1", "optimizer.clip_norm=0.01"), clip_by_tensor,
        "update", HIDDEN, 1),
    "one sample's order swapped": Mutation(MLP, in_samples(swapped_order), "data", ("batches",), 1, "data"),
    "an order swapped within a batch": Mutation(MLP, in_samples(within_batch), "data", ("order",), 1, "data"),
    "one pixel of one sample": Mutation(MLP, in_samples(one_pixel), "data", ("batches",), 1, "data"),
    "a schedule off by one step": Mutation(
        (*MLP, "schedule=exponential"), late_schedule, "trajectory", ("lr",), 2),
    "padding on the other side": Mutation(
        (*CNN, "model.kernel=2"), padded_in_front, "forward", ("conv1",), 1),
    "average instead of maximum": Mutation(CNN, average_pool, "forward", ("pool1",), 1),
    "flattened channels first": Mutation(CNN, flattened_as_nchw, "forward", ("output",), 1),
    "dropout not scaled": Mutation(
        (*MLP, "model.dropout=0.3"), dropout_unscaled, "forward", ("dropout1",), 1),
    "an LSTM's gate order": Mutation((*RNN, "model.cell=lstm"), gate_order, "forward", ("state1",), 1),
    "a GRU's reset before": Mutation(RNN, reset_before, "forward", ("state2",), 1),
    "a GRU's gate order": Mutation(RNN, gru_gates, "forward", ("state1",), 1),
    "attention not scaled": Mutation(ATTENTION, attention(scale=False), "forward", ("score",), 1),
    "softmax over the other axis": Mutation(ATTENTION, attention(axis=-2), "forward", ("attend",), 1),
    "training mode in evaluation": Mutation(NORM, train_mode, "evaluation", ("best",), None, "state"),
    "GELU by tanh": Mutation(
        (*MLP, "model.activation=gelu"),
        activation("gelu", functools.partial(nn.functional.gelu, approximate="tanh")), "forward",
        ("activation1",), 1),
    "a leaky relu": Mutation(
        MLP, activation("relu", functools.partial(nn.functional.leaky_relu, negative_slope=0.01)),
        "forward", ("activation1",), 1),
    "products in bfloat16": Mutation(MLP, half_precision, "forward", ("layer2",), 1, "precision"),  # pixels fit
    "gradients sent in bfloat16": Mutation(
        (*MLP, "optimizer=gd", "optimizer.lr=0.1"), half_gradients, "update", HIDDEN, 1, "precision"),
    "one weight off by a thousandth": Mutation(
        MLP, start(lambda w: w * np.float32(1.001)), "init", ("layer2.w",), 0, "start"),
}  # fmt: skip


@functools.cache
def right(recorded, overrides):
    return recorded("backend=tensorflow", *overrides)


# Each needs a probe of ten seconds; another mutation of the same pair is in `make test`.
SLOW = {"softmax over the other axis", "a GRU's gate order", "an LSTM's gate order",
        "average instead of maximum", "GELU by tanh"}  # fmt: skip


@pytest.mark.parametrize(
    "name", tiered(MUTATIONS, short=lambda number, name: name not in SLOW and number % 12 == 0)
)
def test_a_mutation_is_named_at_its_first_rung(parity, monkeypatch, name):
    case = MUTATIONS[name]
    a = right(parity.recorded, case.overrides)
    changes = case.mutate(monkeypatch)
    changes.pop("original", None)
    b = parity.recorded("backend=torch", *case.overrides, **changes)
    twins = {"b": changes["twin"]} if "twin" in changes else None
    found = parity.ladder(a, b, twins=twins)
    parity.show(found)
    assert (found.verdict, found.kind) == ("FAIL", case.kind)
    assert found.finding.rung == case.rung
    assert found.finding.tensor in case.tensors
    before = found.rungs[: [rung.name for rung in found.rungs].index(case.rung)]
    assert {rung.verdict for rung in before} <= {"PASS"}
    assert case.step is None or found.finding.step == case.step


def test_one_ulp_at_the_start_is_rounding_and_not_bits(parity):
    a = right(parity.recorded, MLP)
    b = parity.recorded(
        "backend=torch", *MLP, **start(lambda w: np.nextafter(w, np.float32(9)))(None)
    )
    found = parity.ladder(a, b)
    parity.show(found)
    init = next(rung for rung in found.rungs if rung.name == "init")
    assert (init.verdict, init.by, init.tensor) == ("PASS", "rounding", "layer2.w")
    assert found.verdict == "PASS"


VARIANTS = {
    "linear": [("data=linear", "data.n=40", "model=linear", "train.epochs=12")],
    "dense": [("data=multilinear", "data.n=60", "model=dense", "train.epochs=12", "optimizer=adam")],
    "polynomial": [("data=polynomial", "data.n=60", "model=polynomial", "train.epochs=12")],
    "softmax": [("data=wine", "model=softmax", "loss=cross_entropy", "train.epochs=12")],
    "mlp": [(*MLP, "model.dropout=0.2"), (*NORM, "optimizer=nesterov"),
            (*MLP, "model.norm=layer", "model.activation=gelu", "optimizer=adadelta")],
    "dynamic": [("data=moons", "data.n=60", "model=dynamic", "model.width=4", "model.most=4",
                 "loss=bce", "train.epochs=8")],
    "cnn": [CNN, (*CNN, "optimizer=adam", "model.pool=average", "model.kernel=2")],
    "rnn": [RNN, (*RNN, "model.cell=lstm", "optimizer=rmsprop")],
    "attention": [(*ATTENTION, "optimizer=adamw")],
}  # fmt: skip


def test_every_pair_is_here():
    assert set(VARIANTS) == set(list_pairs())


# One seed of the quick ones; attention and the slower variants are long.
@pytest.mark.parametrize(
    ("name", "number", "seed"),
    tiered(
        (
            (n, i, seed)
            for n, many in VARIANTS.items()
            for i in range(len(many))
            for seed in range(5)
        ),
        short=lambda _, case: (
            case[2] == 0
            and case[:2]
            not in {("attention", 0), ("rnn", 0), ("linear", 0), ("dense", 0), ("softmax", 0)}
            and case[1] == 0
        ),
    ),
)
def test_a_right_pair_raises_no_alarm(parity, name, number, seed):
    overrides = VARIANTS[name][number]
    a, b = (
        parity.recorded(f"backend={name}", f"seed={seed}", *overrides)
        for name in ("tensorflow", "torch")
    )
    found = parity.ladder(a, b)
    parity.show(found)
    assert found.verdict == "PASS"
    assert all(rung.by in ("bits", "rounding") for rung in found.rungs)


def test_a_branch_flip_is_no_failure(parity):
    """Biases that leave unit j's input for sample j at nothing but rounding, whose sign is chance."""
    overrides = (*MLP, "optimizer=gd", "optimizer.lr=0.1", "train.batch=48", "model.norm=layer",
                 "model.widths=[12,48]", "model.norm_epsilon=1e-5")  # fmt: skip
    plain = parity.recorded("backend=torch", *overrides)

    def straddling(values):
        """Shift the second norm's output, so that its diagonal over samples and units is about 0."""
        return values | {"norm2.shift": -np.diagonal(plain.arrays["layer/norm2"]).copy()}

    a, b = (
        parity.recorded(f"backend={name}", *overrides, first=straddling)
        for name in ("tensorflow", "torch")
    )
    found = parity.ladder(a, b)
    parity.show(found)
    assert found.verdict == "PASS"
    assert (
        found.rung("gradients").apart > 1e-3
    )  # some unit is on in one framework and off in the other


def test_the_readme_says_how_many_there_are(parity):
    text = " ".join((parity.CONF.parent / "README.md").read_text().split())
    assert f"{len(MUTATIONS)} mutations" in text
    assert f"{len(rightly.PAIRS)} right pairs" in text
