"""What can be read of both models' settings, layer by layer; a difference is a suspect, no FAIL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.align.propose import FAMILIES, Match
from pipeline.backends.base import Settings

Listed = Mapping[str, Settings]


class Difference(NamedTuple):
    """One setting that differs: of which layer on either side, its name, and both values."""

    a_layer: str
    b_layer: str
    setting: str
    a: Any
    b: Any


def compare_settings(matches: Sequence[Match], left: Listed, right: Listed) -> list[Difference]:
    """Return the settings in which layers that belong together differ.

    Layers belong together by their parameters, and those without (dropout) by their order.
    """
    layers = {match.a.layer: match.b.layer for match in matches}
    for kind in ("dropout",):
        ones = [name for name, each in left.items() if kind in each.owner.lower()]
        others = [name for name, each in right.items() if kind in each.owner.lower()]
        if len(ones) == len(others):
            layers |= dict(zip(ones, others, strict=True))
    differences = []
    for one, other in layers.items():
        if one not in left or other not in right:
            continue
        a, b = left[one], right[other]
        if FAMILIES.get(a.owner, a.owner) != FAMILIES.get(b.owner, b.owner) and (
            FAMILIES.get(a.owner) is not None or FAMILIES.get(b.owner) is not None
        ):
            continue
        differences += [
            Difference(one, other, name, a.values[name], b.values[name])
            for name in a.values
            if name in b.values and not is_same(a.values[name], b.values[name])
        ]
    return differences


def is_same(one: Any, other: Any) -> bool:
    """Whether two values of a setting are the same; decimals but for their last digits."""
    if isinstance(one, float) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=1e-12, abs_tol=1e-15)
    return bool(one == other)


def compare_optimizers(described: Mapping[str, Mapping[str, Any]]) -> list[Difference]:
    """Return the settings in which the optimizers differ that the pair brings."""
    if not described:
        return []
    one, other = (described[side]["settings"] for side in ("torch", "tensorflow"))
    return [
        Difference("optimizer", "optimizer", name, one[name], other[name])
        for name in one if name in other and not is_same(one[name], other[name])
    ]  # fmt: skip
