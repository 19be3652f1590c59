"""Typed names of what two runs are compared in, and where a record has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.record.record import RunRecord

PHASES = ("loss", "gradient", "rate", "slot", "parameter")
"""What happens in one update, in its order; a cause stands in front of its effects."""
_PREFIXES = {"gradient": "grad", "slot": "slot", "parameter": "param", "activation": "layer"}


class Quantity(NamedTuple):
    """One thing that is compared.

    Attributes
    ----------
    kind
        One of `PHASES`, or ``activation``, ``prediction``, ``score``; ``free``, a parameter after
        two updates from one state, each with its own gradient.
    name
        The tensor's neutral name; of a slot ``<slot>/<parameter>``. Names of different kinds may be
        equal: an activation may be called ``lr``.
    """

    kind: str
    name: str

    @property
    def key(self) -> str:
        """The quantity as text that no other one has."""
        return f"{self.kind}/{self.name}"

    @property
    def label(self) -> str:
        """The quantity as a person reads it beside its rung."""
        if self.kind == "slot":
            slot, _, name = self.name.partition("/")
            return f"{name} (slot {slot})"
        return self.name


TEST = Quantity("prediction", "prediction")
"""The predictions for the test set."""
VALIDATION = Quantity("prediction", "validation")
"""Those for the validation set, at each scored epoch's weights."""


def parse_key(key: str) -> Quantity:
    """Return the quantity that has a key."""
    kind, _, name = key.partition("/")
    return Quantity(kind, name)


def recorded_updates(record: RunRecord) -> dict[Quantity, np.ndarray]:
    """Return what a record has of each update, rows for updates 1, 2, …, in phase order."""
    rows: dict[Quantity, np.ndarray] = {}
    if "loss" in record.arrays:
        rows[Quantity("loss", "loss")] = record.arrays["loss"]
    for name, values in record.named("grad").items():
        rows[Quantity("gradient", name)] = values
    if "lr" in record.arrays:
        rows[Quantity("rate", "lr")] = record.arrays["lr"]
    for name, values in record.named("scalar").items():
        rows[Quantity("rate", f"{name} (as used)")] = values
    for name, values in record.named("slot").items():
        rows[Quantity("slot", name)] = values
    for name, values in record.named("param").items():
        rows[Quantity("parameter", name)] = values[1:]
    return rows


def outcome_quantity(key: str) -> Quantity | None:
    """Return the quantity of a row that a stepper gives; None for what is no tensor of a step."""
    prefix, _, name = key.partition("/")
    if prefix == "loss":
        return Quantity("loss", "loss")
    kinds = {value: kind for kind, value in _PREFIXES.items()}
    return Quantity(kinds[prefix], name) if prefix in kinds else None


def list_some(quantities: Sequence[Quantity]) -> str:
    """Return some quantities in words, the first two and the last of many."""
    names = [quantity.label for quantity in quantities]
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:2])} … {names[-1]}"
