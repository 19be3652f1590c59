"""The loops in PyTorch; read them beside ``tensorflow.py``, line by line."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline import losses, optimizers
from pipeline.config import ConfigError
from pipeline.models import Twin, check_mapped_once, to_framework, to_neutral
from pipeline.record import Trace

NATIVE = ("gd",)
LOOPS = ("manual", "native")
XLA = False
ONCE = ()
FLAVOR = "pytorch"

OPS = SimpleNamespace(mean=torch.mean, square=torch.square, absolute=torch.abs)
LOSSES = {"mse": nn.MSELoss, "mae": nn.L1Loss}
OPTIMIZERS = {
    "gd": partial(
        torch.optim.SGD,
        momentum=0.0,
        dampening=0.0,
        weight_decay=0.0,
        nesterov=False,
        maximize=False,
        foreach=False,
        differentiable=False,
        fused=False,
    )
}


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
    check_mapped_once(placed, model.parameters())
    if values is not None:
        shapes = [tuple(place.variable.shape) for place in placed.values()]
        arranged = to_framework(placed, values, shapes)
        with torch.no_grad():
            for place, value in zip(placed.values(), arranged, strict=True):
                place.variable.copy_(torch.from_numpy(value.astype(dtype)))
    return model


def read(model: nn.Module, twin: Twin) -> dict[str, np.ndarray]:
    """Return the parameters by neutral name, in the neutral layout and native precision."""
    return {
        name: to_neutral(place, place.variable.detach().cpu().numpy().copy())
        for name, place in twin.name_map(model).items()
    }


def train(
    model: nn.Module,
    twin: Twin,
    *,
    x: np.ndarray,
    y: np.ndarray,
    loop: str,
    loss: str,
    loss_settings: Mapping[str, Any],
    optimizer: str,
    optimizer_settings: Mapping[str, Any],
    execution: str,
    xla: bool,
    trace: Trace,
    report: Callable[[int], None],
    log_every: int,
) -> None:
    """Make one update a learning rate of `trace`; call `report` every `log_every` updates."""
    placed = twin.name_map(model)
    parameters = [place.variable for place in placed.values()]
    trace.bind(_stack, [partial(to_neutral, place, leading=1) for place in placed.values()])
    make_step = {"manual": _manual, "native": _native}[loop]
    step = make_step(model, parameters, loss, loss_settings, optimizer, optimizer_settings)
    rule = getattr(optimizers, optimizer)
    as_scalars: Callable[[Mapping[str, float]], Mapping[str, Any]] = dict
    if execution == "compiled":
        whole = loop == "manual"
        step, as_scalars = _compile(step, whole), partial(_scalars, like=parameters[0])
    x, y = _tensor(x, parameters[0]), _tensor(y, parameters[0])
    slots = [tuple(torch.zeros_like(p) for _ in range(rule.slots)) for p in parameters]
    copies = [_copier(p) for p in parameters]

    model.train()
    for k, lr in enumerate(trace.rates.tolist(), start=1):
        scalars = as_scalars(rule.scalars(k, lr, **optimizer_settings))
        trace.start()
        value, gradients, slots = step(x, y, scalars, slots)
        if trace.full:
            trace.keep(value, gradients, [copy() for copy in copies])
        else:
            trace.keep(value, [torch.nn.utils.get_total_norm(gradients)], [])
        if k % log_every == 0:
            report(k)


def _manual(
    model: nn.Module,
    parameters: Sequence[torch.Tensor],
    loss: str,
    loss_settings: Mapping[str, Any],
    optimizer: str,
    optimizer_settings: Mapping[str, Any],
) -> Callable:
    """Return the article's step: forward, autodiff, and an update written by hand."""
    loss_of = partial(getattr(losses, loss), ops=OPS, **loss_settings)
    rule = partial(getattr(optimizers, optimizer), sqrt=torch.sqrt, **optimizer_settings)

    def step(x, y, scalars, slots):
        value = loss_of(model(x), y)
        value.backward()
        gradients, new_slots = [p.grad for p in parameters], []
        with torch.no_grad():
            for p, g, s in zip(parameters, gradients, slots, strict=True):
                _, s = rule(p, g, s, **scalars)
                new_slots.append(s)
                p.grad = None
        return value.detach(), gradients, new_slots

    return step


def _native(
    model: nn.Module,
    parameters: Sequence[torch.Tensor],
    loss: str,
    loss_settings: Mapping[str, Any],
    optimizer: str,
    optimizer_settings: Mapping[str, Any],
) -> Callable:
    """Return a step with the framework's own loss and optimizer."""
    loss_of = LOSSES[loss](reduction="mean", **loss_settings)
    rule = OPTIMIZERS[optimizer](parameters, lr=1.0, **optimizer_settings)

    def step(x, y, scalars, slots):
        rule.param_groups[0]["lr"] = scalars["lr"]
        rule.zero_grad()
        value = loss_of(model(x), y)
        value.backward()
        rule.step()
        return value.detach(), [p.grad for p in parameters], slots

    return step


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
    model.eval()
    with torch.no_grad():
        return model(_tensor(x, next(model.parameters()))).cpu().numpy()


def versions() -> dict[str, str]:
    """Return versions and flags that can change the bits of a result."""
    return {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "onednn": str(torch.backends.mkldnn.is_available()),
        "mkl": str(torch.backends.mkl.is_available()),
        "cuda": str(torch.version.cuda),
    }


def _tensor(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(array).to(dtype=like.dtype, device=like.device)


def _scalars(values: Mapping[str, float], like: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return numbers as tensors, which a compiled step takes without being compiled anew."""
    return {
        name: torch.tensor(v, dtype=like.dtype, device=like.device) for name, v in values.items()
    }


def _copier(parameter: torch.Tensor) -> Callable[[], Any]:
    """Return what copies a parameter; NumPy does it at a tenth of the price where it can."""
    value = parameter.detach()
    return value.clone if value.is_cuda else value.numpy().copy


def _stack(rows: Sequence[Any]) -> np.ndarray:
    return np.array(rows) if isinstance(rows[0], np.ndarray) else torch.stack(rows).cpu().numpy()
