"""The loops in PyTorch; read this file beside those of the other backends, line by line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

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
from pipeline.backends.torch.native import make_native
from pipeline.backends.torch.own import make_own
from pipeline.backends.torch.step import bind_loss, compile_step, fill_gradients
from pipeline.backends.torch.tensors import (
    OPS,
    add_masks,
    cut_updates,
    make_copier,
    shorten_gradients,
    stack_rows,
    to_array,
    to_scalars,
    to_tensors,
)
from pipeline.backends.torch.variables import (
    arrange_values,
    find_variables,
    load_state,
    name_parameters,
    name_slots,
)
from pipeline.data.batches import AnyBatches, Seen
from pipeline.optimizers import Update
from pipeline.pairs.arrange import to_neutral, trained_first
from pipeline.pairs.pair import Side
from pipeline.record.trace import Trace


def train(
    model: nn.Module,
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
    parameters = [place.tensor for place in placed.values() if place.trained]
    layouts = {name: partial(to_neutral, p.axes, leading=1) for name, p in placed.items()}
    trace.bind(stack_rows, layouts, slots=update.slots)
    program, as_scalars = _program(
        model, parameters, loop, loss, loss_settings, update, execution, xla, trace.rates
    )
    slots = [tuple(torch.zeros_like(p) for _ in update.slots) for p in parameters]
    copies = [make_copier(place.tensor) for place in placed.values()]

    updates = partial(cut_updates, batches, group=update.accumulate, like=parameters[0])
    always = list(updates(1)) if batches.fixed else None

    model.train()
    done = 0
    if resume is not None:
        done, begin = resume
        slots = load_state(placed, begin)
    rates, k = trace.rates.tolist(), done * -(-batches.count // update.accumulate)
    for epoch in range(done + 1, epochs + 1):
        for parts in always or updates(epoch):
            k += 1
            seen.note(k, epoch, parts, to_array)
            if masks is not None:
                parts = add_masks(parts, masks, k)
            numbers = program.numbers(k, rates[k - 1])
            scalars = as_scalars(numbers)
            trace.start()
            value, gradients, slots = program.step(parts, scalars, slots, None)
            if trace.full:
                state = [make_copier(s)() for each in slots for s in each]
                trace.keep(value, gradients, [copy() for copy in copies], state)
            else:
                trace.keep(value, shorten_gradients(gradients))
            trace.used(program.used(numbers))
            if len(program.lacking) > len(trace.without_gradient):
                trace.lacks(name_parameters(placed, program.lacking))
        if after(epoch, partial(name_slots, placed, slots, update.slots)):
            return


def stepper(
    model: nn.Module,
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
    parameters = [place.tensor for place in placed.values() if place.trained]
    trained = {name: place for name, place in placed.items() if place.trained}
    program, as_scalars = _program(
        model, parameters, loop, loss, loss_settings, update, execution, xla, rates
    )

    def once(start: Start) -> Arrays:
        slots = load_state(placed, (start.values, start.slots))
        program.load(slots, start.k)
        masks = start.masks or [()] * len(start.parts)
        parts = []
        for (x, y, share), drawn in zip(start.parts, masks, strict=True):
            x, y, *drawn = to_tensors((x, y, *drawn), parameters[0])
            parts.append((x, y, share, *drawn))
        given = None
        if start.gradients is not None:
            given = to_tensors(arrange_values(trained, start.gradients), parameters[0])
        model.train()
        numbers = program.numbers(start.k, float(rates[start.k - 1]))
        value, gradients, slots = program.step(parts, as_scalars(numbers), slots, given)
        outcome = {"loss": to_array(value)}
        for (name, place), g in zip(trained.items(), gradients, strict=False):  # fit has none
            outcome[f"grad/{name}"] = to_neutral(place.axes, to_array(g).copy())
        for slot, arrays in name_slots(placed, slots, update.slots).items():
            outcome |= {f"slot/{slot}/{name}": value for name, value in arrays.items()}
        for name, place in placed.items():
            outcome[f"param/{name}"] = to_neutral(place.axes, to_array(place.tensor).copy())
        used = program.used(numbers)
        return outcome | {f"scalar/{name}": np.array(float(v)) for name, v in used.items()}

    return once


def cut(
    batches: AnyBatches, epoch: int, *, group: int, device: str, dtype: str
) -> Iterator[list[Part]]:
    """Yield the batches of each update of an epoch, as the loop cuts them."""
    like = torch.empty((), dtype=getattr(torch, dtype), device=device)
    for parts in cut_updates(batches, epoch, group=group, like=like):
        yield [(to_array(x), to_array(y), share) for x, y, share in parts]


def _program(
    model: nn.Module,
    parameters: Sequence[torch.Tensor],
    loop: str,
    loss: str,
    loss_settings: Mapping[str, Any],
    update: Update,
    execution: str,
    xla: bool,
    rates: np.ndarray,
) -> tuple[Program, Callable[[Mapping[str, float]], Mapping[str, Any]]]:
    """Return a loop's update, and how its scalars become those of its execution."""
    compiled = execution == "compiled"
    if loop == "own":
        loss_of = bind_loss(model, partial(getattr(losses, loss), ops=OPS, **loss_settings))
        return make_own(model, parameters, loss_of, update), dict
    makers: dict[str, Callable] = {
        "manual": partial(_manual, compiled=compiled),
        "native": make_native,
    }
    program = makers[loop](model, parameters, loss, loss_settings, update)
    if not compiled:
        return program, dict
    step = compile_step(program.step, loop == "manual")
    return program._replace(step=step), partial(to_scalars, like=parameters[0])


def _manual(
    model: nn.Module,
    parameters: Sequence[torch.Tensor],
    loss: str,
    loss_settings: Mapping[str, Any],
    update: Update,
    compiled: bool,
) -> Program:
    """Return the article's step: forward, autodiff, and an update written by hand."""
    loss_of = bind_loss(model, partial(getattr(losses, loss), ops=OPS, **loss_settings))
    rule = update.rule(sqrt=torch.sqrt)
    lacking: set[int] = set()
    weights = [p.detach() for p in parameters]  # the same memory, outside of autodiff
    if compiled:  # a graph must not know that memory by two names
        rule, weights = torch.no_grad()(rule), [*parameters]

    def step(parts, scalars, slots, given):
        values = []
        for x, y, share, *masks in parts:
            value = loss_of(x, y, *masks)
            if len(parts) > 1:
                value = value * share
            value.backward()  # adds to what is there
            values.append(value.detach())
        gradients, new_slots = fill_gradients([p.grad for p in parameters], parameters, lacking), []
        used = update.clipped(gradients if given is None else given, ops=OPS)
        for p, w, g, s in zip(parameters, weights, used, slots, strict=True):
            new, s = rule(w, g, s, **scalars)
            if new is not w:  # a rule may return another tensor than it was given
                with torch.no_grad():
                    w.copy_(new)
            new_slots.append(s)
            p.grad = None
        return values[0] if len(values) == 1 else sum(values), gradients, new_slots

    return Program(step, update.scalars, lambda slots, k: None, dict, lacking)
