"""The loops in PyTorch; read them beside ``tensorflow.py``, line by line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
from pipeline.models import (
    Placed,
    Twin,
    check_mapped_once,
    check_trained,
    to_framework,
    to_neutral,
    trained_first,
)
from pipeline.optimizers import Update
from pipeline.record.trace import Trace
from pipeline.watching import watched

LOOPS = ("manual", "native")
DTYPES = ("float32", "float64")
EXECUTIONS = ("eager", "compiled")
INITS = ("shared", "framework")
XLA = False
ONCE = ()
PACKAGES = ("torch",)
FLAGS = (
    "ATEN_CPU_CAPABILITY",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "OPENBLAS_CORETYPE",
    "NVIDIA_TF32_OVERRIDE",
)
FLAVOR = "pytorch"
INEXACT = {
    "momentum+decoupled": "torch.optim.SGD adds its weight_decay to the gradient (l2)",
    "nesterov+decoupled": "torch.optim.SGD adds its weight_decay to the gradient (l2)",
    "rmsprop+decoupled": "torch.optim.RMSprop adds its weight_decay to the gradient (l2)",
    "adagrad+decoupled": "torch.optim.Adagrad adds its weight_decay to the gradient (l2)",
    "adadelta+decoupled": "torch.optim.Adadelta adds its weight_decay to the gradient (l2)",
    "clip_norm": "clip_grad_norm_ divides by the norm + 1e-6",
}
COARSE = {
    "native+bce": "BCEWithLogitsLoss takes the logarithm of a rounded 1 + exp(-|z|)",
}

OPS = SimpleNamespace(
    mean=torch.mean,
    sum=partial(torch.sum, dim=-1, keepdim=True),
    total=torch.sum,
    square=torch.square,
    sqrt=torch.sqrt,
    absolute=torch.abs,
    minimum=lambda a, most: torch.clamp(a, max=most),
    maximum=lambda a, least: torch.clamp(a, min=least),
    logsumexp=partial(torch.logsumexp, dim=-1, keepdim=True),
    top=lambda z: torch.amax(z.detach(), dim=-1, keepdim=True),
    softplus=partial(nn.functional.softplus, beta=1, threshold=40),
)
LOSSES = {
    "mse": nn.MSELoss,
    "mae": nn.L1Loss,
    "huber": nn.HuberLoss,
    "bce": nn.BCEWithLogitsLoss,
    "cross_entropy": lambda *, reduction, smoothing: nn.CrossEntropyLoss(
        reduction=reduction, label_smoothing=smoothing
    ),
}

# What the framework's own optimizers call the slots of each rule, in the rule's order.
STATES: dict[str, tuple[str, ...]] = {
    "gd": (),
    "momentum": ("momentum_buffer",),
    "nesterov": ("momentum_buffer",),
    "rmsprop": ("square_avg",),
    "adagrad": ("sum",),
    "adadelta": ("acc_delta", "square_avg"),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
}


def _optimizer(parameters: Sequence[torch.Tensor], update: Update) -> torch.optim.Optimizer:
    """Return the framework's own optimizer with the same hyperparameters, all spelled out."""
    s, decay = update.settings, {"none": 0.0}.get(update.decay, update.weight_decay)
    how = {"maximize": False, "foreach": False, "differentiable": False, "weight_decay": decay}
    moments = {"amsgrad": False, "capturable": False, "fused": False}
    make: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "gd": partial(torch.optim.SGD, momentum=0.0, dampening=0.0, nesterov=False, fused=False),
        "momentum": partial(torch.optim.SGD, dampening=0.0, nesterov=False, fused=False),
        "nesterov": lambda p, *, momentum, **how: torch.optim.SGD(  # refuses nesterov without any
            p, momentum=momentum, dampening=0.0, nesterov=momentum > 0, fused=False, **how
        ),
        "rmsprop": lambda p, *, rho, epsilon, **how: torch.optim.RMSprop(
            p, alpha=rho, eps=epsilon, momentum=0.0, centered=False, capturable=False, **how
        ),
        "adagrad": lambda p, *, epsilon, **how: torch.optim.Adagrad(
            p, eps=epsilon, lr_decay=0.0, initial_accumulator_value=0.0, fused=False, **how
        ),
        "adadelta": lambda p, *, rho, epsilon, **how: torch.optim.Adadelta(
            p, rho=rho, eps=epsilon, capturable=False, **how
        ),
        "adam": lambda p, *, beta1, beta2, epsilon, **how: torch.optim.Adam(
            p,
            betas=(beta1, beta2),
            eps=epsilon,
            decoupled_weight_decay=update.decay == "decoupled",
            **moments,
            **how,
        ),
        "adamw": lambda p, *, beta1, beta2, epsilon, **how: torch.optim.AdamW(
            p, betas=(beta1, beta2), eps=epsilon, **moments, **how
        ),
    }
    return make[update.name](parameters, lr=1.0, **s, **how)


def configure(*, threads: int, deterministic: bool, device: str, dtype: str, seed: int) -> str:
    """Set everything global, and return the device that ``auto`` means here."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and found != "cuda":
        raise ConfigError("backend.device", device, "PyTorch sees no CUDA device; use cpu or auto")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    # Not `use_deterministic_algorithms`: it imports the compiler, a second, also for eager runs.
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.set_default_dtype(getattr(torch, dtype))
    torch.manual_seed(seed)
    return found if device == "auto" else device


def build(
    twin: Twin,
    *,
    values: Mapping[str, np.ndarray] | None,
    inputs: tuple[int, ...],
    outputs: int,
    settings: Mapping[str, Any],
    device: str,
    dtype: str,
) -> nn.Module:
    """Make the model and load neutral first values; None keeps the framework's own draw."""
    model = twin.model(inputs=inputs, outputs=outputs, **settings).to(device)
    placed = twin.name_map(model)
    check_mapped_once(placed.values(), [*model.parameters(), *model.buffers()])
    check_trained(placed.values(), [p for p in model.parameters() if p.requires_grad])
    if values is not None:
        _load(placed, values)
    return model


def read(model: nn.Module, twin: Twin) -> dict[str, np.ndarray]:
    """Return the parameters by neutral name, in the neutral layout and native precision."""
    return {
        name: to_neutral(place, place.variable.detach().cpu().numpy().copy())
        for name, place in twin.name_map(model).items()
    }


def write(model: nn.Module, twin: Twin, values: Mapping[str, np.ndarray]) -> None:
    """Put neutral values into the parameters, in the model's own precision."""
    _load(twin.name_map(model), values)


def train(
    model: nn.Module,
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
    parameters = [place.variable for place in placed.values() if place.trained]
    layouts = {name: partial(to_neutral, p, leading=1) for name, p in placed.items()}
    trace.bind(_stack, layouts, slots=update.slots)
    program, as_scalars = _program(
        model, parameters, loop, loss, loss_settings, update, execution, xla, trace.rates
    )
    slots = [tuple(torch.zeros_like(p) for _ in update.slots) for p in parameters]
    copies = [_copier(place.variable) for place in placed.values()]

    updates = partial(_updates, batches, group=update.accumulate, like=parameters[0])
    always = list(updates(1)) if batches.fixed else None

    model.train()
    done = 0
    if resume is not None:
        done, begin = resume
        slots = _force(placed, begin)
    rates, k = trace.rates.tolist(), done * -(-batches.count // update.accumulate)
    for epoch in range(done + 1, epochs + 1):
        for parts in always or updates(epoch):
            k += 1
            seen.note(k, epoch, parts, _array)
            if masks is not None:
                parts = _masked(parts, masks, k)
            numbers = program.numbers(k, rates[k - 1])
            scalars = as_scalars(numbers)
            trace.start()
            value, gradients, slots = program.step(parts, scalars, slots, None)
            if trace.full:
                state = [_copier(s)() for each in slots for s in each]
                trace.keep(value, gradients, [copy() for copy in copies], state)
            else:
                trace.keep(value, _brief(gradients))
            trace.used(program.used(numbers))
            if len(program.lacking) > len(trace.without_gradient):
                trace.lacks(_names(placed, program.lacking))
        if after(epoch, partial(_named, placed, slots, update.slots)):
            return


def stepper(
    model: nn.Module,
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
    parameters = [place.variable for place in placed.values() if place.trained]
    trained = {name: place for name, place in placed.items() if place.trained}
    program, as_scalars = _program(
        model, parameters, loop, loss, loss_settings, update, execution, xla, rates
    )

    def once(start: Start) -> Arrays:
        slots = _force(placed, (start.values, start.slots))
        program.load(slots, start.k)
        masks = start.masks or [()] * len(start.parts)
        parts = []
        for (x, y, share), drawn in zip(start.parts, masks, strict=True):
            x, y, *drawn = _tensors((x, y, *drawn), parameters[0])
            parts.append((x, y, share, *drawn))
        given = None
        if start.gradients is not None:
            given = _tensors(_arranged(trained, start.gradients), parameters[0])
        model.train()
        numbers = program.numbers(start.k, float(rates[start.k - 1]))
        value, gradients, slots = program.step(parts, as_scalars(numbers), slots, given)
        outcome = {"loss": _array(value)}
        for (name, place), g in zip(trained.items(), gradients, strict=False):  # fit has none
            outcome[f"grad/{name}"] = to_neutral(place, _array(g).copy())
        for slot, arrays in _named(placed, slots, update.slots).items():
            outcome |= {f"slot/{slot}/{name}": value for name, value in arrays.items()}
        for name, place in placed.items():
            outcome[f"param/{name}"] = to_neutral(place, _array(place.variable).copy())
        used = program.used(numbers)
        return outcome | {f"scalar/{name}": np.array(float(v)) for name, v in used.items()}

    return once


def cut(
    batches: AnyBatches, epoch: int, *, group: int, device: str, dtype: str
) -> Iterator[list[Part]]:
    """Yield the batches of each update of an epoch, as the loop cuts them."""
    like = torch.empty((), dtype=getattr(torch, dtype), device=device)
    for parts in _updates(batches, epoch, group=group, like=like):
        yield [(_array(x), _array(y), share) for x, y, share in parts]


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
    makers: dict[str, Callable] = {"manual": partial(_manual, compiled=compiled), "native": _native}
    program = makers[loop](model, parameters, loss, loss_settings, update)
    if not compiled:
        return program, dict
    step = _compile(program.step, loop == "manual")
    return program._replace(step=step), partial(_scalars, like=parameters[0])


def _manual(
    model: nn.Module,
    parameters: Sequence[torch.Tensor],
    loss: str,
    loss_settings: Mapping[str, Any],
    update: Update,
    compiled: bool,
) -> Program:
    """Return the article's step: forward, autodiff, and an update written by hand."""
    loss_of = partial(getattr(losses, loss), ops=OPS, **loss_settings)
    rule = update.rule(sqrt=torch.sqrt)
    lacking: set[int] = set()
    weights = [p.detach() for p in parameters]  # the same memory, outside of autodiff
    if compiled:  # a graph must not know that memory by two names
        rule, weights = torch.no_grad()(rule), [*parameters]

    def step(parts, scalars, slots, given):
        values = []
        for x, y, share, *masks in parts:
            value = loss_of(model(x, *masks), y)
            if len(parts) > 1:
                value = value * share
            value.backward()  # adds to what is there
            values.append(value.detach())
        gradients, new_slots = _filled([p.grad for p in parameters], parameters, lacking), []
        used = update.clipped(gradients if given is None else given, ops=OPS)
        for p, w, g, s in zip(parameters, weights, used, slots, strict=True):
            _, s = rule(w, g, s, **scalars)
            new_slots.append(s)
            p.grad = None
        return values[0] if len(values) == 1 else sum(values), gradients, new_slots

    return Program(step, update.scalars, lambda slots, k: None, dict, lacking)


def _native(
    model: nn.Module,
    parameters: Sequence[torch.Tensor],
    loss: str,
    loss_settings: Mapping[str, Any],
    update: Update,
) -> Program:
    """Return a step with the framework's own loss and optimizer."""
    loss_of = LOSSES[loss](reduction="mean", **loss_settings)
    rule = _optimizer(parameters, update)
    lacking: set[int] = set()

    def step(parts, scalars, slots, given):
        rule.param_groups[0]["lr"] = scalars["lr"]
        rule.zero_grad()
        values = []
        for x, y, share, *masks in parts:
            value = loss_of(model(x, *masks), y)
            if len(parts) > 1:
                value = value * share
            value.backward()  # adds to what is there
            values.append(value.detach())
        gradients = _filled([p.grad for p in parameters], parameters, lacking)
        for p, g in zip(parameters, gradients if given is None else given, strict=True):
            p.grad = g
        if update.clip_norm is not None:
            gradients = [g.clone() for g in gradients]
            nn.utils.clip_grad_norm_(parameters, update.clip_norm, norm_type=2.0, foreach=False)
        rule.step()
        return values[0] if len(values) == 1 else sum(values), gradients, kept_slots()

    def kept_slots():
        names = STATES[update.name]
        # Without momentum there is no velocity: it is the gradient.
        return [tuple(rule.state[p].get(name, p.grad) for name in names) for p in parameters]

    def load(slots, k):
        """Put slots where the optimizer keeps them, and its count of steps before k."""
        if k == 1:  # it makes its own, which may be more than zeros
            rule.state.clear()
            return
        names = STATES[update.name]
        for p, arrays in zip(parameters, slots, strict=True):
            rule.state[p] = {name: a.clone() for name, a in zip(names, arrays, strict=True)}
            if update.name not in ("gd", "momentum", "nesterov"):
                rule.state[p]["step"] = torch.tensor(float(k - 1))

    def used(scalars):
        return {"lr": rule.param_groups[0]["lr"]}

    return Program(step, lambda k, lr: {"lr": lr}, load, used, lacking)


def _filled(
    gradients: Sequence[torch.Tensor | None], parameters: Sequence[torch.Tensor], lacking: set[int]
) -> list[torch.Tensor]:
    """Return gradients with zeros for parameters that have none, and note which those are."""
    lacking |= {i for i, g in enumerate(gradients) if g is None}
    return [
        torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)
    ]


def _compile(step: Callable, whole: bool) -> Callable:
    """Compile a whole step, backward pass and update included, into one graph.

    With `whole` false into several: PyTorch's own optimizers break the graph around their step.
    """
    torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())
    torch._dynamo.reset()
    torch._dynamo.config.trace_autograd_ops = whole
    return torch.compile(step, fullgraph=whole)


def predict(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """Return the model's outputs in evaluation mode."""
    before = model.training
    model.eval()
    with torch.no_grad():
        outputs = model(_tensor(x, next(model.parameters()))).cpu().numpy()
    model.train(before)
    return outputs


def layers(model: nn.Module, x: np.ndarray, masks: Sequence[np.ndarray]) -> Arrays:
    """Return what the twin shows of one batch in training mode, and its ``output``."""
    like = next(model.parameters())
    model.train()
    with torch.no_grad(), watched() as found:
        output = model(_tensor(x, like), *(_tensor(mask, like) for mask in masks))
    return {
        name: to_neutral(Placed(None, axes), value.cpu().numpy())
        for name, (value, axes) in (found | {"output": (output, None)}).items()
    }


def scale(x: torch.Tensor, factors_of: Callable[[np.ndarray], np.ndarray]) -> torch.Tensor:
    """Return an intermediate result times factors that follow from its values."""
    return x * _tensor(factors_of(_array(x)), x)


def observe(call: Callable[[], object]) -> Observed:
    """Return what the operations of a call, run eagerly, were seen to do."""
    types, draws = set(), set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, kinds, arguments=(), named=None):
            result = function(*arguments, **named or {})
            for value in tree_leaves((arguments, named, result)):
                if isinstance(value, torch.Tensor) and value.is_floating_point():
                    types.add(str(value.dtype).removeprefix("torch."))
            if torch.Tag.nondeterministic_seeded in function.tags:
                draws.add(str(function))
            return result

    with Watch():
        call()
    return Observed(frozenset(types), frozenset(draws))


def versions() -> dict[str, str]:
    """Return versions and flags that can change the bits of a result."""
    return {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "onednn": str(torch.backends.mkldnn.is_available()),
        "mkl": str(torch.backends.mkl.is_available()),
        "cuda": str(torch.version.cuda),
    }


def _load(placed: Mapping[str, Placed], values: Mapping[str, np.ndarray]) -> None:
    shapes = [tuple(place.variable.shape) for place in placed.values()]
    with torch.no_grad():
        for place, value in zip(placed.values(), to_framework(placed, values, shapes), strict=True):
            place.variable.copy_(torch.from_numpy(value))


def _force(placed: Mapping[str, Placed], state: State) -> list[tuple]:
    """Load a state and return its slots, those of each trained parameter in a tuple."""
    values, named = state
    _load(placed, values)
    trained = {name: place for name, place in placed.items() if place.trained}
    like = next(iter(trained.values())).variable
    columns = [_tensors(_arranged(trained, arrays), like) for arrays in named.values()]
    return [*zip(*columns, strict=True)] if columns else [()] * len(trained)


def _arranged(placed: Mapping[str, Placed], values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return neutral arrays, one for each place, as the framework holds them."""
    return to_framework(placed, values, [tuple(p.variable.shape) for p in placed.values()])


def _tensor(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(array).to(dtype=like.dtype, device=like.device)


def _tensors(arrays: Iterable[np.ndarray], like: torch.Tensor) -> list[torch.Tensor]:
    return [_tensor(array, like) for array in arrays]


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array


def _names(placed: Mapping[str, Placed], numbers: set[int]) -> tuple[str, ...]:
    """Return the names of parameters by their numbers in the loop's order."""
    return tuple(name for i, name in enumerate(placed) if i in numbers)


def _named(
    placed: Mapping[str, Placed], slots: Sequence[tuple], names: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Return the optimizer's slots by their and the parameters' neutral names."""
    trained = [(name, place) for name, place in placed.items() if place.trained]
    named: dict[str, dict[str, np.ndarray]] = {slot: {} for slot in names}
    for (name, place), arrays in zip(trained, slots, strict=True):
        for key, slot in zip(names, arrays):  # noqa: B905 - Keras's fit hands out none
            named[key][name] = to_neutral(place, _array(slot).copy())
    return named


def _updates(batches: AnyBatches, epoch: int, *, group: int, like: torch.Tensor) -> Iterator[list]:
    """Yield what each update of an epoch sees: some batches ``(x, y, share of the update)``."""
    for x_block, y_block in batches.blocks(epoch):
        lengths, shares = cuts(len(x_block), size=batches.size, group=group)
        xs = torch.split(_tensor(x_block, like), lengths)
        ys = torch.split(_tensor(y_block, like), lengths)
        parts = list(zip(xs, ys, shares, strict=True))
        yield from (parts[i : i + group] for i in range(0, len(parts), group))


def _masked(parts: list, masks: Masks, k: int) -> list:
    """Add to each batch of an update its dropout masks."""
    drawn = masks(k, [len(y) for _, y, _ in parts])
    return [
        (x, y, share, *(_tensor(m, x) for m in own))
        for (x, y, share), own in zip(parts, drawn, strict=True)
    ]


def _scalars(values: Mapping[str, float], like: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return numbers as tensors, which a compiled step takes without being compiled anew."""
    return {
        name: torch.tensor(v, dtype=like.dtype, device=like.device) for name, v in values.items()
    }


def _copier(parameter: torch.Tensor) -> Callable[[], Any]:
    """Return what copies a parameter; NumPy does it at a tenth of the price where it can."""
    value = parameter.detach()
    return value.clone if value.is_cuda else value.numpy().copy


def _brief(gradients: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Return what has the gradients' norm: they themselves, or on a GPU a number, soon copied."""
    return [nn.utils.get_total_norm(gradients)] if gradients[0].is_cuda else gradients


def _stack(rows: Sequence[Any]) -> np.ndarray:
    return np.array(rows) if isinstance(rows[0], np.ndarray) else torch.stack(rows).cpu().numpy()
