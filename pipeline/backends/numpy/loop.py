"""The loops in NumPy; read this file beside those of the other backends, line by line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from pipeline import losses
from pipeline.backends.base import (
    After,
    Arrays,
    Masks,
    Part,
    Program,
    Start,
    State,
    Stepper,
)
from pipeline.backends.numpy.build import read
from pipeline.backends.numpy.tensors import OPS, add_masks, cut_updates, logsumexp
from pipeline.backends.numpy.variables import find_variables, load_state, name_slots
from pipeline.data.batches import AnyBatches, Seen
from pipeline.optimizers import Update
from pipeline.pairs.arrange import to_neutral, trained_first
from pipeline.pairs.pair import Side
from pipeline.record.trace import Trace


def _cross_entropy(z: np.ndarray, y: np.ndarray, *, smoothing: float) -> np.ndarray:
    """``∂/∂z mean(log Σ exp z − Σ y·z) = (softmax z − y) / n``, as Σ y = 1."""
    smooth = y * (1 - smoothing) + smoothing / z.shape[-1] if smoothing else y
    z = z - z.max(axis=-1, keepdims=True)
    return (np.exp(z - logsumexp(z)) - smooth) / len(z)


# The derivative of each loss by the prediction.
LOSSES: dict[str, Callable[..., np.ndarray]] = {
    "mse": lambda p, t: 2 * (p - t) / p.size,
    "mae": lambda p, t: np.sign(p - t) / p.size,
    "huber": lambda p, t, *, delta: np.clip(p - t, -delta, delta) / p.size,
    "bce": lambda z, y: (np.exp(-np.logaddexp(0, -z)) - y) / z.size,
    "cross_entropy": _cross_entropy,
}


# A training that diverges ends with `NonFiniteLossError`; NumPy's warnings before it add nothing.
@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def train(
    model: Any,
    twin: Side,
    *,
    batches: AnyBatches,
    epochs: int,
    loop: str,
    loss: str,
    loss_settings: Mapping[str, Any],
    update: Update,
    execution: str,
    xla: bool,
    masks: Masks | None,
    trace: Trace,
    seen: Seen,
    after: After,
    resume: tuple[int, State] | None,
) -> None:
    """Train for some epochs with the rates of `trace`; stop where `after` an epoch is true."""
    placed = trained_first(find_variables(model, twin))
    parameters = {name: place.tensor for name, place in placed.items() if place.trained}
    layouts = {name: partial(to_neutral, p.axes, leading=1) for name, p in placed.items()}
    trace.bind(np.array, layouts, slots=update.slots)
    program = _manual(model, parameters, loss, loss_settings, update)
    slots = [tuple(np.zeros_like(p) for _ in update.slots) for p in parameters.values()]
    dtype = next(iter(parameters.values())).dtype
    updates = partial(cut_updates, batches, group=update.accumulate, dtype=dtype)
    always = list(updates(1)) if batches.fixed else None

    done = 0
    if resume is not None:
        done, begin = resume
        slots = load_state(placed, begin)
    rates, k = trace.rates.tolist(), done * -(-batches.count // update.accumulate)
    for epoch in range(done + 1, epochs + 1):
        for parts in always or updates(epoch):
            k += 1
            seen.note(k, epoch, parts, np.asarray)
            if masks is not None:
                parts = add_masks(parts, masks, k)
            scalars = program.numbers(k, rates[k - 1])
            trace.start()
            value, gradients, slots = program.step(parts, scalars, slots, None)
            if trace.full:
                state = [s.copy() for each in slots for s in each]
                changed = [place.tensor.copy() for place in placed.values()]
                trace.keep(value, gradients, changed, state)
            else:
                norm = np.sqrt(sum(np.square(g).sum() for g in gradients))
                trace.keep(value, [norm])
            trace.used(program.used(scalars))
            if len(program.lacking) > len(trace.without_gradient):
                trace.lacks([name for i, name in enumerate(placed) if i in program.lacking])
        if after(epoch, partial(name_slots, placed, slots, update.slots)):
            return


def stepper(
    model: Any,
    twin: Side,
    *,
    loop: str,
    loss: str,
    loss_settings: Mapping[str, Any],
    update: Update,
    execution: str,
    xla: bool,
    rates: np.ndarray,
) -> Stepper:
    """Return the loop's own update as a function of everything that it starts from."""
    placed = trained_first(find_variables(model, twin))
    parameters = {name: place.tensor for name, place in placed.items() if place.trained}
    trained = {name: place for name, place in placed.items() if place.trained}
    program = _manual(model, parameters, loss, loss_settings, update)
    dtype = next(iter(parameters.values())).dtype

    def once(start: Start) -> Arrays:
        slots = load_state(placed, (start.values, start.slots))
        masks = start.masks or [()] * len(start.parts)
        parts = [
            (x.astype(dtype), y.astype(dtype), share, *(mask.astype(dtype) for mask in drawn))
            for (x, y, share), drawn in zip(start.parts, masks, strict=True)
        ]
        given = None
        if start.gradients is not None:
            given = [start.gradients[name].astype(dtype) for name in trained]
        numbers = program.numbers(start.k, float(rates[start.k - 1]))
        value, gradients, slots = program.step(parts, numbers, slots, given)
        outcome = {"loss": np.asarray(value)}
        for (name, place), g in zip(trained.items(), gradients, strict=True):
            outcome[f"grad/{name}"] = to_neutral(place.axes, np.array(g))
        for slot, arrays in name_slots(placed, slots, update.slots).items():
            outcome |= {f"slot/{slot}/{name}": value for name, value in arrays.items()}
        outcome |= {f"param/{name}": value for name, value in read(model, twin).items()}
        used = program.used(numbers)
        return outcome | {f"scalar/{name}": np.array(float(v)) for name, v in used.items()}

    return once


def cut(
    batches: AnyBatches, epoch: int, *, group: int, device: str, dtype: str
) -> Iterator[list[Part]]:
    """Yield the batches of each update of an epoch, as the loop cuts them."""
    yield from cut_updates(batches, epoch, group=group, dtype=np.dtype(dtype))


def _manual(
    model: Any,
    parameters: Mapping[str, np.ndarray],
    loss: str,
    loss_settings: Mapping[str, Any],
    update: Update,
) -> Program:
    """Return the article's step: forward, the gradient by hand, and an update written by hand."""
    loss_of = partial(getattr(losses, loss), ops=OPS, **loss_settings)
    slope_of = partial(LOSSES[loss], **loss_settings)
    rule = update.rule(sqrt=np.sqrt)
    lacking: set[int] = set()

    def step(parts, scalars, slots, given):
        values, grown = [], []
        for x, y, share, *masks in parts:
            prediction = model.forward(x, *masks, training=True)
            value, slope = loss_of(prediction, y), slope_of(prediction, y)
            if len(parts) > 1:
                value, slope = value * share, slope * share
            by_name = model.backward(slope)
            lacking.update(i for i, name in enumerate(parameters) if name not in by_name)
            grown.append([by_name.get(n, np.zeros_like(p)) for n, p in parameters.items()])
            values.append(value)
        gradients = grown[0] if len(grown) == 1 else [sum(g) for g in zip(*grown, strict=True)]
        new_slots = []
        used = update.clipped(gradients if given is None else given, ops=OPS)
        for p, g, s in zip(parameters.values(), used, slots, strict=True):
            new, s = rule(p, g, s, **scalars)
            if new is not p:  # a rule may return another array than it was given
                p[...] = new
            new_slots.append(s)
        return values[0] if len(values) == 1 else sum(values), gradients, new_slots

    return Program(step, update.scalars, lambda slots, k: None, dict, lacking)
