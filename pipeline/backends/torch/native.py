"""The step with PyTorch's own loss and optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from pipeline.backends.base import (
    Program,
)
from pipeline.backends.torch.step import fill_gradients
from pipeline.optimizers import Update

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


def make_optimizer(parameters: Sequence[torch.Tensor], update: Update) -> torch.optim.Optimizer:
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


def make_native(
    model: nn.Module,
    parameters: Sequence[torch.Tensor],
    loss: str,
    loss_settings: Mapping[str, Any],
    update: Update,
) -> Program:
    """Return a step with the framework's own loss and optimizer."""
    loss_of = LOSSES[loss](reduction="mean", **loss_settings)
    rule = make_optimizer(parameters, update)
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
        gradients = fill_gradients([p.grad for p in parameters], parameters, lacking)
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
