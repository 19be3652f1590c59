"""The loops in NumPy, with gradients derived by hand: the third opinion.

Read it beside ``torch.py``: where the frameworks call their automatic differentiation, this calls
the twin's `backward`. It has a precision the frameworks lack, ``longdouble``.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline import losses
from pipeline.backends.base import (
    After,
    Arrays,
    Masks,
    Observed,
    Part,
    Program,
    Start,
    State,
    Stepper,
)
from pipeline.config.types import ConfigError
from pipeline.data.batches import AnyBatches, Seen, cuts
from pipeline.models import Placed, Twin, to_framework, to_neutral, trained_first
from pipeline.optimizers import Update
from pipeline.record.trace import Trace
from pipeline.watching import watched

LOOPS = ("manual",)
DTYPES = ("float32", "float64", "longdouble")
EXECUTIONS = ("eager",)
INITS = ("shared",)
XLA = False
ONCE = ()
PACKAGES = ("numpy",)
FLAGS = ("OPENBLAS_CORETYPE", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")
FLAVOR = ""
INEXACT: dict[str, str] = {}
COARSE: dict[str, str] = {}


def _logsumexp(z: np.ndarray) -> np.ndarray:
    top = z.max(axis=-1, keepdims=True)
    return top + np.log(np.exp(z - top).sum(axis=-1, keepdims=True))


OPS = SimpleNamespace(
    mean=np.mean,
    sum=partial(np.sum, axis=-1, keepdims=True),
    total=np.sum,
    square=np.square,
    sqrt=np.sqrt,
    absolute=np.abs,
    minimum=np.minimum,
    maximum=np.maximum,
    logsumexp=_logsumexp,
    top=partial(np.max, axis=-1, keepdims=True),
    softplus=partial(np.logaddexp, 0),
)


def _cross_entropy(z: np.ndarray, y: np.ndarray, *, smoothing: float) -> np.ndarray:
    """``∂/∂z mean(log Σ exp z − Σ y·z) = (softmax z − y) / n``, as Σ y = 1."""
    smooth = y * (1 - smoothing) + smoothing / z.shape[-1] if smoothing else y
    z = z - z.max(axis=-1, keepdims=True)
    return (np.exp(z - _logsumexp(z)) - smooth) / len(z)


# The derivative of each loss by the prediction.
LOSSES: dict[str, Callable[..., np.ndarray]] = {
    "mse": lambda p, t: 2 * (p - t) / p.size,
    "mae": lambda p, t: np.sign(p - t) / p.size,
    "huber": lambda p, t, *, delta: np.clip(p - t, -delta, delta) / p.size,
    "bce": lambda z, y: (np.exp(-np.logaddexp(0, -z)) - y) / z.size,
    "cross_entropy": _cross_entropy,
}


def configure(*, threads: int, deterministic: bool, device: str, dtype: str, seed: int) -> str:
    """Set everything global, and return the device that ``auto`` means here."""
    if device == "cuda":
        raise ConfigError("backend.device", device, "NumPy has no CUDA device; use cpu or auto")
    threadpool_limits(limits=threads)
    return "cpu"


def build(
    twin: Twin,
    *,
    values: Mapping[str, np.ndarray] | None,
    inputs: tuple[int, ...],
    outputs: int,
    settings: Mapping[str, Any],
    device: str,
    dtype: str,
) -> Any:
    """Make the model and load neutral first values; None keeps the framework's own draw."""
    if values is None:
        raise ConfigError("model.init", "framework", "NumPy has no draw of its own; use shared")
    model = twin.model(inputs=inputs, outputs=outputs, **settings)
    placed = twin.name_map(model)
    arranged = to_framework(placed, values, [place.variable.shape for place in placed.values()])
    model.p = {n: v.astype(dtype) for n, v in zip(placed, arranged, strict=True)}
    return model


def read(model: Any, twin: Twin) -> dict[str, np.ndarray]:
    """Return the parameters by neutral name, in the neutral layout and native precision."""
    return {
        name: to_neutral(place, place.variable.copy())
        for name, place in twin.name_map(model).items()
    }


def write(model: Any, twin: Twin, values: Mapping[str, np.ndarray]) -> None:
    """Put neutral values into the parameters, in the model's own precision."""
    for name, place in twin.name_map(model).items():
        place.variable[...] = values[name]


def train(
    model: Any,
    twin: Twin,
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
    placed = trained_first(twin.name_map(model))
    parameters = {name: place.variable for name, place in placed.items() if place.trained}
    layouts = {name: partial(to_neutral, p, leading=1) for name, p in placed.items()}
    trace.bind(np.array, layouts, slots=update.slots)
    program = _manual(model, parameters, loss, loss_settings, update)
    slots = [tuple(np.zeros_like(p) for _ in update.slots) for p in parameters.values()]
    dtype = next(iter(parameters.values())).dtype
    updates = partial(_updates, batches, group=update.accumulate, dtype=dtype)
    always = list(updates(1)) if batches.fixed else None

    done = 0
    if resume is not None:
        done, begin = resume
        slots = _force(placed, begin)
    rates, k = trace.rates.tolist(), done * -(-batches.count // update.accumulate)
    for epoch in range(done + 1, epochs + 1):
        for parts in always or updates(epoch):
            k += 1
            seen.note(k, epoch, parts, np.asarray)
            if masks is not None:
                parts = _masked(parts, masks, k)
            scalars = program.numbers(k, rates[k - 1])
            trace.start()
            value, gradients, slots = program.step(parts, scalars, slots, None)
            if trace.full:
                state = [s.copy() for each in slots for s in each]
                changed = [place.variable.copy() for place in placed.values()]
                trace.keep(value, gradients, changed, state)
            else:
                norm = np.sqrt(sum(np.square(g).sum() for g in gradients))
                trace.keep(value, [norm])
            trace.used(program.used(scalars))
            if len(program.lacking) > len(trace.without_gradient):
                trace.lacks([name for i, name in enumerate(placed) if i in program.lacking])
        if after(epoch, partial(_named, placed, slots, update.slots)):
            return


def stepper(
    model: Any,
    twin: Twin,
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
    placed = trained_first(twin.name_map(model))
    parameters = {name: place.variable for name, place in placed.items() if place.trained}
    trained = {name: place for name, place in placed.items() if place.trained}
    program = _manual(model, parameters, loss, loss_settings, update)
    dtype = next(iter(parameters.values())).dtype

    def once(start: Start) -> Arrays:
        slots = _force(placed, (start.values, start.slots))
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
            outcome[f"grad/{name}"] = to_neutral(place, np.array(g))
        for slot, arrays in _named(placed, slots, update.slots).items():
            outcome |= {f"slot/{slot}/{name}": value for name, value in arrays.items()}
        outcome |= {f"param/{name}": value for name, value in read(model, twin).items()}
        used = program.used(numbers)
        return outcome | {f"scalar/{name}": np.array(float(v)) for name, v in used.items()}

    return once


def cut(
    batches: AnyBatches, epoch: int, *, group: int, device: str, dtype: str
) -> Iterator[list[Part]]:
    """Yield the batches of each update of an epoch, as the loop cuts them."""
    yield from _updates(batches, epoch, group=group, dtype=np.dtype(dtype))


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
            _, s = rule(p, g, s, **scalars)
            new_slots.append(s)
        return values[0] if len(values) == 1 else sum(values), gradients, new_slots

    return Program(step, update.scalars, lambda slots, k: None, dict, lacking)


def predict(model: Any, x: np.ndarray) -> np.ndarray:
    """Return the model's outputs in evaluation mode."""
    dtype = next(iter(model.p.values())).dtype
    outputs: np.ndarray = model.forward(x.astype(dtype, copy=False), training=False)
    return outputs


def layers(model: Any, x: np.ndarray, masks: Sequence[np.ndarray]) -> Arrays:
    """Return what the twin shows of one batch in training mode, and its ``output``."""
    dtype = next(iter(model.p.values())).dtype
    with watched() as found:
        output = model.forward(x.astype(dtype), *(m.astype(dtype) for m in masks), training=True)
    return {
        name: to_neutral(Placed(None, axes), np.asarray(value))
        for name, (value, axes) in (found | {"output": (output, None)}).items()
    }


def scale(x: Any, factors_of: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Return an intermediate result times factors that follow from its values."""
    return x * factors_of(np.asarray(x)).astype(x.dtype)


def observe(call: Callable[[], object]) -> Observed:
    """Return what the operations of a call, run eagerly, were seen to do.

    NumPy's cannot be watched; its twins are written to stay in one precision and draw nothing.
    """
    call()
    return Observed(frozenset(), frozenset())


def versions() -> dict[str, str]:
    """Return versions and flags that can change the bits of a result."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "numpy": np.__version__,
        "blas": f"{blas['name']} {blas['version']}",
        "longdouble": str(np.finfo(np.longdouble).nmant + 1) + " bits",
        "cpu": platform.machine(),
    }


def _force(placed: Mapping[str, Placed], state: State) -> list[tuple]:
    """Load a state and return its slots, those of each trained parameter in a tuple."""
    values, named = state
    for name, place in placed.items():
        place.variable[...] = values[name]
    return [
        tuple(arrays[name].astype(place.variable.dtype).copy() for arrays in named.values())
        for name, place in placed.items()
        if place.trained
    ]


def _named(
    placed: Mapping[str, Placed], slots: Sequence[tuple], names: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Return the optimizer's slots by their and the parameters' neutral names."""
    trained = [(name, place) for name, place in placed.items() if place.trained]
    named: dict[str, dict[str, np.ndarray]] = {slot: {} for slot in names}
    for (name, place), arrays in zip(trained, slots, strict=True):
        for key, slot in zip(names, arrays, strict=True):
            named[key][name] = to_neutral(place, np.array(slot))
    return named


def _updates(batches: AnyBatches, epoch: int, *, group: int, dtype: np.dtype) -> Iterator[list]:
    """Yield what each update of an epoch sees: some batches ``(x, y, share of the update)``."""
    for x_block, y_block in batches.blocks(epoch):
        lengths, shares = cuts(len(x_block), size=batches.size, group=group)
        ends = np.cumsum(lengths)[:-1]
        xs = np.split(x_block.astype(dtype, copy=False), ends)
        ys = np.split(y_block.astype(dtype, copy=False), ends)
        parts = list(zip(xs, ys, shares, strict=True))
        yield from (parts[i : i + group] for i in range(0, len(parts), group))


def _masked(parts: list, masks: Masks, k: int) -> list:
    """Add to each batch of an update its dropout masks."""
    drawn = masks(k, [len(y) for _, y, _ in parts])
    return [
        (x, y, share, *(m.astype(x.dtype) for m in own))
        for (x, y, share), own in zip(parts, drawn, strict=True)
    ]
