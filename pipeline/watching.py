"""Intermediate results that a model or a loss shows while it computes: noted, or moved.

A twin names its activations where they arise, and a loss what it subtracts from; outside of
`watched` and `moved` the price is two truth tests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

Shown = dict[str, tuple[Any, tuple[int, ...] | None]]
Mover = Callable[[str, Any], Any]

_watchers: list[Shown] = []
_movers: list[Mover] = []


def seen(name: str, x: Any, axes: tuple[int, ...] | None = None) -> Any:
    """Return `x`, an intermediate result; inside `watched` it is noted, inside `moved` replaced.

    `axes` is the order in which the neutral array's axes stand in the framework's, as in
    `pipeline.pairs.pair.Place`.
    """
    if _movers:
        x = _movers[-1](name, x)
    if _watchers:
        _watchers[-1][name] = (x, axes)
    return x


@contextlib.contextmanager
def watched() -> Iterator[Shown]:
    """Note what a forward pass shows of itself, in its order."""
    shown: Shown = {}
    _watchers.append(shown)
    try:
        yield shown
    finally:
        _watchers.pop()


@contextlib.contextmanager
def moved(mover: Mover) -> Iterator[None]:
    """Let `mover`, given a name and a result, replace each result that is shown."""
    _movers.append(mover)
    try:
        yield
    finally:
        _movers.pop()
