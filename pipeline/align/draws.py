"""Which random numbers of dropout belong together in two models, proved in training mode."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.align import prove
from pipeline.align.propose import Match
from pipeline.pairs.own.prepared import Draw

Shapes = Sequence[tuple[int, ...]]
_TOGETHER = 4  # draws whose order is tried


class Drawn(NamedTuple):
    """What both models draw in a training pass.

    Attributes
    ----------
    draws
        In the order of PyTorch; empty where it is not known what belongs together.
    order
        For each draw of TensorFlow the number of PyTorch's that belongs to it.
    matches
        The map, in which tensors that evaluation does not tell apart may have changed places.
    """

    draws: list[Draw]
    order: list[int]
    matches: Sequence[Match]


def settle_draws(
    proof: prove.Proof,
    torch: Shapes,
    tensorflow: Shapes,
    *,
    values: prove.Values,
    outputs_a: Callable[[Sequence[Draw], Sequence[np.ndarray]], np.ndarray],
    outputs_b: Callable[[Mapping[str, np.ndarray], Sequence[np.ndarray]], np.ndarray],
) -> Drawn:
    """Return which draws belong together: those with which both models agree in training mode.

    Where no order agrees, the models differ in training, and the draws belong together in their
    order if no other one was left untried; else it is not known.

    Parameters
    ----------
    torch, tensorflow
        The shapes of what each model draws in a training pass over some rows.
    values
        The first model's weights with which the map was proved.
    outputs_a
        Given draws and numbers for them, the first model's outputs in training mode.
    outputs_b
        Given weights of the second model and numbers in its order, its outputs.
    """
    orders = list(_list_orders(torch, tensorflow))
    if not orders:
        return Drawn([], [], proof.matches)
    rng = np.random.default_rng(2)
    numbers = [(rng.integers(0, 2**20, size=shape) + 0.5) / 2**20 for shape in torch]
    first: Drawn | None = None
    for matches in [proof.matches, *proof.alternatives]:
        arrays = prove.carry(matches, values)
        for order in orders:
            draws = [match_draw(torch[i], tensorflow[k]) for k, i in enumerate(order)]
            known = [draw for draw in draws if draw is not None]
            by_torch = [known[order.index(i)] for i in range(len(order))]
            given = [
                number if draw.axes is None else number.transpose(np.argsort(draw.axes))
                for number, draw in zip(numbers, by_torch, strict=True)
            ]
            drawn = Drawn(by_torch, order, matches)
            first = first or drawn
            one = outputs_a(by_torch, given)
            other = outputs_b(arrays, [given[i] for i in order])
            if prove.measure(one, other) <= proof.near:
                return drawn
    assert first is not None  # of the first order
    is_known = len(torch) <= _TOGETHER or (len(orders) == 1 and len(set(torch)) == len(torch))
    return first if is_known or not proof.holds else Drawn([], [], proof.matches)


def _list_orders(torch: Shapes, tensorflow: Shapes) -> Iterator[list[int]]:
    """Yield the orders in which draws can belong together by their shapes, the same one first."""
    count = len(torch)
    if count != len(tensorflow):
        return
    every = itertools.permutations(range(count)) if count <= _TOGETHER else [tuple(range(count))]
    for order in every:
        if all(match_draw(torch[i], tensorflow[k]) is not None for k, i in enumerate(order)):
            yield list(order)


def match_draw(torch: tuple[int, ...], tensorflow: tuple[int, ...]) -> Draw | None:
    """Return how a draw of one model is that of the other by their shapes; None if it is not.

    Four axes of which both ways fit are not known.
    """
    first = {4: (0, 3, 1, 2), 3: (0, 2, 1)}.get(len(tensorflow))
    ways: list[tuple[int, ...] | None] = [None] if torch == tensorflow else []
    if first is not None and tuple(tensorflow[axis] for axis in first) == torch:
        ways.append(first)
    if not ways or (len(ways) > 1 and len(torch) == 4):
        return None
    return Draw(tensorflow[1:], ways[0])
