"""The step with the optimizer that a pair brings itself, judged as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pipeline.backends.base import Program
from pipeline.backends.torch.step import fill_gradients
from pipeline.optimizers import Update

# What optimizers call their arrays, by class and by the name of our own rules.
ARRAYS: dict[str, dict[str, str]] = {
    "SGD": {"v": "momentum_buffer"},
    "Adam": {"m": "exp_avg", "v": "exp_avg_sq"},
    "AdamW": {"m": "exp_avg", "v": "exp_avg_sq"},
    "RMSprop": {"v": "square_avg"},
    "Adagrad": {"a": "sum"},
    "Adadelta": {"u": "acc_delta", "v": "square_avg"},
}


def make_optimizer(model: Any) -> torch.optim.Optimizer:
    """Return the pair's own optimizer for its model; anything else is refused."""
    rule: torch.optim.Optimizer = model.call(model.functions.optimizer, model.module)
    if not isinstance(rule, torch.optim.Optimizer):
        kind = type(rule).__name__
        model.refuse(f"torch_optimizer returned a {kind}, no torch.optim.Optimizer")
    return rule


def make_own(
    model: Any,
    parameters: Sequence[torch.Tensor],
    loss_of: Callable[..., torch.Tensor],
    update: Update,
) -> Program:
    """Return a step with the pair's own optimizer."""
    rule = make_optimizer(model)
    arrays_of = ARRAYS[type(rule).__name__]
    keys = [arrays_of[name] for name in update.slots]
    lacking: set[int] = set()
    rate = {"lr": 0.0}

    def step(parts, scalars, slots, given):
        rule.zero_grad()
        values = []
        for x, y, share, *masks in parts:
            value = loss_of(x, y, *masks)
            if len(parts) > 1:
                value = value * share
            value.backward()  # adds to what is there
            values.append(value.detach())
        without = [p.grad is None for p in parameters]
        gradients = fill_gradients([p.grad for p in parameters], parameters, lacking)
        used = gradients if given is None else given
        for p, g, is_without in zip(parameters, used, without, strict=True):
            p.grad = None if is_without else g.clone()
        rate["lr"] = float(rule.param_groups[0]["lr"])
        rule.step()
        return values[0] if len(values) == 1 else sum(values), gradients, read_slots()

    def read_slots():
        return [
            tuple(rule.state[p].get(key, torch.zeros_like(p)) for key in keys) for p in parameters
        ]

    def load(slots, k):
        """Put slots where the optimizer keeps them, and its count of steps before k."""
        rule.state.clear()
        if k == 1:  # it makes its own, which may be more than zeros
            return
        for p, arrays in zip(parameters, slots, strict=True):
            rule.state[p] = {n: a.clone() for n, a in zip(keys, arrays, strict=True)}
            if update.counts_steps:
                rule.state[p]["step"] = torch.tensor(float(k - 1))

    return Program(step, lambda k, lr: {"lr": lr}, load, lambda scalars: dict(rate), lacking)


def describe_optimizer(model: Any) -> dict[str, Any]:
    """Return what the pair's own optimizer keeps, and its settings in the meaning of both sides."""
    rule = make_optimizer(model)
    for group in rule.param_groups:
        for p in group["params"]:
            p.grad = torch.full_like(p, 1e-3)
    rule.step()
    state: dict[str, Any] = next(iter(rule.state.values()), {})
    known = ARRAYS.get(type(rule).__name__, {})
    there = {name for name, value in state.items() if value is not None}
    unknown = sorted(there - {"step", *known.values()})
    if unknown or type(rule).__name__ not in ARRAYS:
        listed = ", ".join(unknown) or type(rule).__name__
        model.refuse(f"torch_optimizer: no step can begin from the state of {listed}")
    names = [name for name, key in known.items() if key in there]
    group = rule.param_groups[0]
    settings = {"class": type(rule).__name__, "rate": float(group["lr"])}
    for ours, theirs in (("epsilon", "eps"), ("momentum", "momentum"), ("rho", "alpha")):
        if theirs in group:
            settings[ours] = group[theirs]
    if "betas" in group:
        settings |= {"beta1": float(group["betas"][0]), "beta2": float(group["betas"][1])}
    settings |= {"clipping": None, "schedule": None, "average": False}
    settings["weight decay"] = float(group.get("weight_decay", 0.0))
    return {"slots": names, "counts_steps": "step" in state, "settings": settings}
