"""Ways to make one side of a pair wrong.

Each is a function of a `WrongSide` that returns what `pairs.recorded` takes besides, or None. It stays
while the pair is probed, as wrong code would.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from pipeline import backends, losses
from pipeline.pairs.pair import Side
from pipeline.pairs.registry import find_pair


class WrongSide:
    """The backend that is made wrong."""

    def __init__(self, name: str, patch: Any) -> None:
        self.name, self.patch = name, patch
        self.backend = backends.load(name)

    def set(self, name: str, value: Any) -> None:
        """Replace a name in every file of the backend that has it."""
        for module in self._files():
            if hasattr(module, name):
                self.patch.setattr(module, name, value)

    def get(self, name: str) -> Any:
        """Return what a file of the backend has by a name."""
        return next(getattr(module, name) for module in self._files() if hasattr(module, name))

    def _files(self) -> list[Any]:
        package = importlib.import_module(f"pipeline.backends.{self.name}")
        files = [module.name for module in pkgutil.iter_modules(package.__path__)]
        return [importlib.import_module(f"{package.__name__}.{name}") for name in files]

    def model_module(self, name: str) -> Any:
        return importlib.import_module(f"pipeline.pairs.builtin.{name}.{self.name}")


def find_variables(backend: str, model: Any, twin: Side) -> dict[str, Any]:
    """The framework's variables by neutral name, as the backend finds them."""
    module = importlib.import_module(f"pipeline.backends.{backend}.variables")
    return module.find_variables(model, twin)


# The optimizer


class Wrong:
    """An `Update` of which something is changed; `k` is the step that is being made.

    `rule(right, w, g, slots, k, **scalars)`, `clipped(gradients, update, k)` and
    `scalars(right, k, lr)` stand for what they are called after.
    """

    def __init__(self, update, *, rule=None, clipped=None, scalars=None):
        self._update, self._rule, self._clipped, self._scalars = update, rule, clipped, scalars
        self.k = 0

    def __getattr__(self, name):
        return getattr(self._update, name)

    def scalars(self, step, lr):
        self.k = step
        right = self._update.scalars
        return right(step, lr) if self._scalars is None else self._scalars(right, step, lr)

    def rule(self, *, sqrt):
        right = self._update.rule(sqrt=sqrt)
        if self._rule is None:
            return right

        def rule(w, g, slots, **scalars):
            return self._rule(right, w, g, slots, k=self.k, **scalars)

        return rule

    def clipped(self, gradients, *, ops):
        if self._clipped is None:
            return self._update.clipped(gradients, ops=ops)
        return self._clipped(gradients, self._update, ops, self.k)


def update(change) -> Callable[[WrongSide], None]:
    """Another `Update` in the backend's loop and in its single steps."""

    def mutate(side: WrongSide) -> None:
        for name in ("train", "stepper"):
            original = getattr(side.backend, name)

            def changed(*args, update, original=original, **named):
                return original(*args, update=change(update), **named)

            side.set(name, changed)

    return mutate


def settings(**changes):
    return update(lambda right: dataclasses.replace(right, settings=right.settings | changes))


def words(**changes):
    return update(lambda right: dataclasses.replace(right, **changes))


def rule(function):
    return update(lambda right: Wrong(right, rule=function))


def clipped(function):
    return update(lambda right: Wrong(right, clipped=function))


def scalars(function):
    return update(lambda right: Wrong(right, scalars=function))


def always(k: int) -> bool:
    return True


def every(n: int, *, start: int = 0) -> Callable[[int], bool]:
    return lambda k: k >= start and k % n == 0


def only(*steps: int) -> Callable[[int], bool]:
    return lambda k: k in steps


def since(step: int) -> Callable[[int], bool]:
    return lambda k: k >= step


def is_shaped(*shapes):
    return lambda w: tuple(w.shape) in shapes


def scaled(factor, *, where=lambda w: True, when=always):
    """The update of some tensors at some steps, so many times as large."""

    def wrong(right, w, g, slots, *, k, **numbers):
        if not (where(w) and when(k)):
            return right(w, g, slots, **numbers)
        before = w + 0
        w, slots = right(w, g, slots, **numbers)
        w -= (1 - factor) * (w - before)
        return w, slots

    return rule(wrong)


# A model, a loss, a layer


def twin(name, *, places=None, **methods):
    """The side's twin with some methods replaced, or with another name map."""

    def mutate(side: WrongSide) -> dict[str, Any]:
        right = find_pair(name).load_side(side.name)
        made = {key: functools.partialmethod(make(side)) for key, make in methods.items()}
        model = type(right.model.__name__, (right.model,), made) if made else right.model
        mapped = right.name_map
        return {"twin": Side(model, (lambda built: places(mapped(built))) if places else mapped)}

    return mutate


def loss(**functions):
    def mutate(side: WrongSide) -> None:
        side.set("losses", SimpleNamespace(**vars(losses) | functions))

    return mutate


def in_module(model, name, value):
    """A name of a twin's module replaced; `value` is made from the side."""

    def mutate(side: WrongSide) -> None:
        module = side.model_module(model)
        side.patch.setattr(module, name, value(side, getattr(module, name)))

    return mutate


def activation(name, make):
    def mutate(side: WrongSide) -> None:
        module = side.model_module("mlp")
        side.patch.setitem(module.ACTIVATIONS, name, make(side, module.ACTIVATIONS[name]))

    return mutate


# Arithmetic


def as_type(side: WrongSide, x, narrow: str, *, of: tuple[str, ...] = ("float32",)):
    """Return a tensor that was in a narrower type for a moment; of other types than `of` itself.

    ``tf32`` is a mantissa cut to ten bits, which only float32 has.
    """
    is_torch = side.name == "torch"
    dtype = str(x.dtype).removeprefix("torch.") if is_torch else x.dtype.name
    if dtype not in of:
        return x
    if is_torch:
        import torch

        if narrow == "tf32":
            cut = (x.detach().contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)
            return x + (cut - x).detach()
        return x.to(getattr(torch, narrow)).to(x.dtype)
    import tensorflow as tf

    if narrow == "tf32":
        bits = tf.bitcast(tf.stop_gradient(x), tf.int32)
        cut = tf.bitcast(tf.bitwise.bitwise_and(bits, tf.constant(~0x1FFF, tf.int32)), tf.float32)
        return x + tf.stop_gradient(cut - x)
    return tf.cast(tf.cast(x, narrow), x.dtype)


ANY = ("float32", "float64")


class Clock:
    """Which step a side is making; for what knows nothing of the optimizer."""

    def __init__(self, side: WrongSide) -> None:
        self.k = 0
        update(lambda right: Wrong(right, scalars=self._note))(side)
        right = side.backend.layers

        def layers(*args):  # those of the start
            self.k = 0
            return right(*args)

        side.set("layers", layers)

    def _note(self, right, step, lr):
        self.k = step
        return right(step, lr)


def products(narrow, *, of=("float32",), when=always):
    """The inputs of each linear layer in a narrower type."""

    def mutate(side: WrongSide) -> None:
        clock = None if when is always else Clock(side)

        def rounded(x):
            return as_type(side, x, narrow, of=of) if clock is None or when(clock.k) else x

        if side.name == "torch":
            from torch import nn

            right = nn.Linear.forward
            side.patch.setattr(nn.Linear, "forward", lambda self, x: right(self, rounded(x)))
        else:
            import keras

            right = keras.layers.Dense.call
            side.patch.setattr(
                keras.layers.Dense, "call",
                lambda self, x, training=None: right(self, rounded(x)),
            )  # fmt: skip

    return mutate


def gradients(change, *, when=always):
    """The gradients as the loop gets them from autodiff: `change(side, i, g)`."""

    def mutate(side: WrongSide) -> None:
        clock, right = Clock(side), side.get("fill_gradients")

        def filled(grown, parameters, lacking):
            rest = right(grown, parameters, lacking)
            return [change(side, i, g) for i, g in enumerate(rest)] if when(clock.k) else rest

        side.set("fill_gradients", filled)

    return mutate


# Between two steps


def during_training(make):
    """Something that happens in the loop alone, not in a step that is made again by itself.

    `make(side)` gives `act(program, step, k, parts, numbers, slots, given, model)`, which stands
    for the loop's step.
    """

    def mutate(side: WrongSide) -> None:
        act, training = make(side), []
        original_train, original_manual = side.backend.train, side.get("_manual")

        def train(*args, **named):
            training.append(True)
            try:
                return original_train(*args, **named)
            finally:
                training.pop()

        def manual(model, *rest, **named):
            program = original_manual(model, *rest, **named)
            if not training:
                return program
            at = [0]

            def numbers(k, lr):
                at[0] = k
                return program.numbers(k, lr)

            def step(parts, given_numbers, slots, given):
                return act(program.step, at[0], model, (parts, given_numbers, slots, given))

            return program._replace(step=step, numbers=numbers)

        side.set("train", train)
        side.set("_manual", manual)

    return mutate


def after_epoch(change):
    """Something done to the model after each epoch: `change(side, model, epoch)`."""

    def mutate(side: WrongSide) -> None:
        original = side.backend.train

        def train(model, *args, after, **named):
            def then(epoch, slots):
                stop = after(epoch, slots)
                change(side, model, epoch)
                return stop

            return original(model, *args, after=then, **named)

        side.set("train", train)

    return mutate


def add_to(side: WrongSide, variable, value) -> None:
    """Change a parameter in place."""
    if side.name == "torch":
        import torch

        with torch.no_grad():
            variable.add_(value)
    else:
        variable.assign_add(
            np.asarray(value, dtype=np.dtype(variable.dtype))
            + np.zeros(variable.shape, variable.dtype)
        )
