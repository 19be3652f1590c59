"""A map held against values: with distinct random weights both models compute the same."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.align.propose import RECURRENT, Match, family_of, list_candidates
from pipeline.backends.base import Tensor
from pipeline.pairs.arrange import Variable, to_framework, to_neutral
from pipeline.pairs.pair import Layout

Values = Mapping[str, np.ndarray]


class Shown(NamedTuple):
    """What a model makes of some rows.

    Attributes
    ----------
    outputs
        What counts of its result.
    layers
        Results of layers, by the first model's name of the layer.
    """

    outputs: np.ndarray
    layers: Values


Show = Callable[[Sequence[Match], Values], Shown]
Gradients = Callable[[Values], Values]

# Right models of two frameworks are up to 7e-7 apart in float64, where a constant in their code is
# float32; a wrong map moves the outputs by their own size. In float32 rounding is as far as 1e-4.
NEARS = {"float64": 1e-5, "float32": 1e-3}
_TRIES = 200  # maps that are tried where the proposed one does not hold


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proof:
    """Whether a map holds.

    Attributes
    ----------
    matches
        The map, as it was proposed or as values changed it.
    apart
        The distance of the outputs relative to their size, with distinct random weights.
    changed
        Paths of tensors whose match values changed.
    interchangeable
        Groups of paths that no value tells apart: with any two of them exchanged the outputs are
        the same.
    alternatives
        The maps with two of them exchanged.
    near
        How far apart outputs may be that are the same.
    gradient
        Where the map holds, the parameter whose gradients of the outputs, times random numbers, are
        farthest apart, and how far, relative to the largest of all gradients.
    """

    matches: Sequence[Match]
    apart: float
    changed: Sequence[str] = ()
    interchangeable: Sequence[Sequence[str]] = ()
    alternatives: Sequence[Sequence[Match]] = ()
    near: float = NEARS["float64"]
    gradient: tuple[str, float] | None = None

    @property
    def holds(self) -> bool:
        """Whether both models compute the same with it."""
        return bool(self.apart <= self.near)


def draw_values(tensors: Sequence[Tensor], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return distinct random values for tensors, of a spread at which layers keep their scale.

    ``N(0, 1/fan)`` with the longest sum as fan for matrices, ``N(0, 0.3²)`` around 0 or 1 for
    vectors; a variance is positive.
    """
    values = {}
    for tensor in tensors:
        noise = rng.standard_normal(tensor.shape)
        if "var" in tensor.attribute:
            values[tensor.path] = 1 + 0.3 * np.abs(noise)
        elif len(tensor.shape) > 1:
            fan = np.prod(tensor.shape) / max(tensor.shape[0], 1)
            values[tensor.path] = noise / np.sqrt(max(float(fan), 1.0))
        else:
            one = tensor.attribute in ("weight", "gamma") and len(tensor.shape) == 1
            values[tensor.path] = float(one) + 0.3 * noise
    return values


def carry(matches: Sequence[Match], values: Values) -> dict[str, np.ndarray]:
    """Return the first model's values as the second one holds them, by the second one's paths."""
    variables = {match.a.path: Variable(None, match.axes, True) for match in matches}
    shapes = [match.b.shape for match in matches]
    wanted = {match.a.path: values[match.a.path] for match in matches}
    arrays = to_framework(variables, wanted, shapes)
    return {match.b.path: array for match, array in zip(matches, arrays, strict=True)}


def carry_back(matches: Sequence[Match], values: Values) -> dict[str, np.ndarray]:
    """Return the second model's values as the first one holds them."""
    return {match.a.path: to_neutral(match.axes, values[match.b.path]) for match in matches}


def prove(
    matches: Sequence[Match],
    *,
    values: Values,
    wanted: Shown,
    show: Show,
    gradients: Gradients,
    near: float = NEARS["float64"],
) -> Proof:
    """Hold a map against values, and where it does not hold look for one that does.

    Parameters
    ----------
    matches
        The map as it was proposed.
    values
        Distinct random weights of the first model, by path.
    wanted
        What the first model makes with them.
    show
        Given a map and weights of the second model by path, what that one makes.
    gradients
        Given them, the gradients by path of the outputs' sum with random weights.
    near
        How far apart outputs may be that are the same, relative to their size.
    """

    def look(each: Sequence[Match]) -> tuple[float, dict[str, bool]]:
        shown = show(each, carry(each, values))
        agreeing = {
            layer: measure(rows, shown.layers[layer]) <= near
            for layer, rows in wanted.layers.items()
            if layer in shown.layers and shown.layers[layer].shape == rows.shape
        }
        return measure(wanted.outputs, shown.outputs), agreeing

    def distance(each: Sequence[Match]) -> float:
        return look(each)[0]

    best = _follow_layers(matches, look, near)
    by_layers, apart = best, distance(best)
    tries = 0
    while not apart <= near and tries < _TRIES:
        nearest, next_best = apart, best
        for other in list_neighbours(best)[: _TRIES - tries]:
            tries += 1
            now = distance(other)
            if np.isfinite(now) and now < nearest:
                nearest, next_best = now, other
            if now <= near:
                break
        if not nearest < 0.7 * apart:
            break
        apart, best = nearest, next_best
    for other in [] if apart <= near else _joint_changes(by_layers):
        tries += 1
        if tries > 2 * _TRIES:
            break
        if (now := distance(other)) <= near:
            apart, best = now, other
            break
    if not apart <= near:  # what outputs alone brought nearer is not believed
        changed = _list_changed(matches, by_layers)
        return Proof(matches=by_layers, apart=distance(by_layers), changed=changed, near=near)
    changed = _list_changed(matches, best)
    groups, alternatives = _find_interchangeable(
        best, distance, near, differ=_find_differing(best, values, gradients)
    )
    return Proof(
        matches=best, apart=apart, changed=changed, interchangeable=groups,
        alternatives=alternatives, near=near,
    )  # fmt: skip


def _list_changed(matches: Sequence[Match], best: Sequence[Match]) -> list[str]:
    """Return the names of the tensors whose match values changed."""
    return [m.a.name for m, n in zip(best, matches, strict=True) if m != n]


def _follow_layers(
    matches: Sequence[Match],
    look: Callable[[Sequence[Match]], tuple[float, dict[str, bool]]],
    near: float,
) -> list[Match]:
    """Return a map in which more layers return the same, from the first one on that does not.

    Up to that layer both models agree, so the map is wrong there or the models differ there.
    """
    best = list(matches)
    apart, agreeing = look(best)
    tries = 0
    while not apart <= near and not all(agreeing.values()):
        layers = dict.fromkeys(match.a.layer for match in best)
        first = next(layer for layer in layers if not agreeing.get(layer, True))
        for other in list_neighbours(best):
            if first not in {m.a.layer for m, n in zip(other, best, strict=True) if m != n}:
                continue
            tries += 1
            apart, now = look(other)
            if apart <= near or sum(now.values()) > sum(agreeing.values()):
                best, agreeing = other, now
                break
            if tries >= _TRIES:
                return best
        else:
            break
    return best


def measure(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest distance of two outputs' elements, each relative to its size.

    That is at least the median size of all elements, so that neither a large element hides the
    others nor a small one is all rounding. The same infinity on both sides is the same; infinite
    where shapes differ, or a value is not finite on one side alone.
    """
    if one.shape != other.shape:
        return float("inf")
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    if not (np.isfinite(one) | same).all() or not (np.isfinite(other) | same).all():
        return float("inf")
    one, other = np.where(same, 0, one), np.where(same, 0, other)
    size = np.maximum(np.abs(one), np.abs(other))
    typical = float(np.median(size[size > 0])) if (size > 0).any() else 1.0
    return float((np.abs(one - other) / np.maximum(size, typical)).max(initial=0.0))


def compare_gradients(
    matches: Sequence[Match], left: Values, right: Values
) -> tuple[str, float] | None:
    """Return the parameter whose gradients in both models are farthest apart; see `Proof`.

    A gradient that a side does not have is 0.
    """
    pairs = {
        match.a.name: (
            left.get(match.a.path, np.zeros(match.a.shape)),
            to_neutral(match.axes, right.get(match.b.path, np.zeros(match.b.shape))),
        )
        for match in matches if match.a.trained and match.b.trained
    }  # fmt: skip
    largest = max((float(np.linalg.norm(each)) for pair in pairs.values() for each in pair),
                  default=0.0)  # fmt: skip
    if not largest or not np.isfinite(largest):
        return None
    apart = {name: float(np.linalg.norm(a - b)) / largest for name, (a, b) in pairs.items()}
    name = max(apart, key=lambda each: apart[each])
    return name, apart[name]


def list_neighbours(matches: Sequence[Match]) -> list[list[Match]]:
    """Return the maps in which one tensor is held otherwise, or two have changed places."""
    maps = list(_reorder_parts(matches))
    for i, match in enumerate(matches):
        for candidate in list_candidates(match.a, match.b):
            if candidate.axes != match.axes:
                maps.append([*matches[:i], match._replace(axes=candidate.axes), *matches[i + 1 :]])
    maps += [_exchange(matches, i, j) for i, j in _exchangeable(matches)]
    maps += [_exchange_layers(matches, one, other) for one, other in _like_layers(matches)]
    return maps


def _reorder_parts(matches: Sequence[Match]) -> Iterator[list[Match]]:
    """Yield the maps in which parameters that are held together stand in another order.

    So do the gates of a recurrent layer that the second model has written out. Those of one layer,
    its weights and biases, move alike.
    """
    joined: dict[tuple[str, int], list[int]] = {}
    for i, match in enumerate(matches):
        count = match.a.attribute.count("+") + 1
        family = family_of(match.a)
        if family in RECURRENT and family_of(match.b) != family:
            count = RECURRENT[family]
        is_gated = isinstance(match.axes, Layout) and bool(match.axes.blocks)
        if count > 1 and not is_gated:
            joined.setdefault((match.a.layer, count), []).append(i)
    together: dict[int, list[list[int]]] = {}
    for (_, count), numbers in joined.items():
        together.setdefault(count, []).append(numbers)
    for count, groups in together.items():
        every = [number for numbers in groups for number in numbers]
        for numbers in [*groups, *([every] if len(groups) > 1 else [])]:
            for order in itertools.permutations(range(count)):
                if order != tuple(range(count)):
                    yield _reorder(matches, numbers, order)


def _reorder(
    matches: Sequence[Match], numbers: Sequence[int], order: tuple[int, ...]
) -> list[Match]:
    """Return a map in which equal parts of some tensors stand in another order."""
    other = list(matches)
    for i in numbers:
        match = matches[i]
        axes = match.axes.axes if isinstance(match.axes, Layout) else match.axes
        axes = tuple(range(len(match.a.shape))) if axes is None else axes
        other[i] = match._replace(axes=Layout(match.a.shape, axes, match.b.shape, order))
    return other


def _like_layers(matches: Sequence[Match]) -> list[tuple[str, str]]:
    """Return pairs of the second model's layers that hold tensors of the same shapes."""
    held: dict[str, list[tuple[int, ...]]] = {}
    for match in matches:
        held.setdefault(match.b.layer, []).append(match.b.shape)
    several = [layer for layer, shapes in held.items() if len(shapes) > 1]
    return [
        (one, other) for i, one in enumerate(several) for other in several[i + 1 :]
        if sorted(held[one]) == sorted(held[other])
    ]  # fmt: skip


def _exchange_layers(matches: Sequence[Match], one: str, other: str) -> list[Match]:
    """Return a map in which two layers of the second model have changed places whole."""
    held = {
        layer: {(m.b.attribute, m.b.shape): m for m in matches if m.b.layer == layer}
        for layer in (one, other)
    }
    instead = {one: other, other: one}
    exchanged = []
    for match in matches:
        partner = held.get(instead.get(match.b.layer, ""), {}).get(
            (match.b.attribute, match.b.shape)
        )
        exchanged.append(match if partner is None else Match(match.a, partner.b, partner.axes))
    return exchanged


_TOGETHER = 4  # tensors whose places are tried in every order at once


def _joint_changes(matches: Sequence[Match]) -> Iterator[list[Match]]:
    """Yield the maps in which a few tensors that can change places do so at once, held any way."""
    groups: list[set[int]] = []
    for i, j in _exchangeable(matches):
        if _families(matches[i]) != _families(matches[j]):
            continue
        pair = {i, j}
        joined = [group for group in groups if group & pair]
        groups = [group for group in groups if not group & pair] + [pair.union(*joined)]
    for group in groups:
        numbers = sorted(group)
        if len(numbers) > _TOGETHER:
            continue
        for order in itertools.permutations(numbers):
            partners = [matches[j].b for j in order]
            ways = [
                [candidate.axes for candidate in list_candidates(matches[i].a, b)]
                for i, b in zip(numbers, partners, strict=True)
            ]
            for axes in itertools.product(*ways):
                other = list(matches)
                for i, b, way in zip(numbers, partners, axes, strict=True):
                    other[i] = Match(matches[i].a, b, way)
                yield other


def _families(match: Match) -> tuple[str, str]:
    """Return what the layers of both tensors do."""
    return family_of(match.a), family_of(match.b)


def _exchangeable(matches: Sequence[Match]) -> list[tuple[int, int]]:
    """Return the numbers of matches whose second tensors can change places."""
    return [
        (i, j)
        for i, one in enumerate(matches)
        for j, other in enumerate(matches)
        if i < j and one.b.shape == other.b.shape and one.a.shape == other.a.shape
        and list_candidates(one.a, other.b) and list_candidates(other.a, one.b)
    ]  # fmt: skip


def _exchange(matches: Sequence[Match], i: int, j: int) -> list[Match]:
    """Return a map in which the second tensors of two matches have changed places."""
    other = list(matches)
    other[i] = matches[i]._replace(b=matches[j].b, axes=matches[j].axes)
    other[j] = matches[j]._replace(b=matches[i].b, axes=matches[i].axes)
    return other


def _find_differing(
    matches: Sequence[Match], values: Values, gradients: Gradients
) -> Callable[[int, int], bool]:
    """Return whether two matches are told apart by a gradient, so that no exchange need be tried.

    All tensors that can change places get equal values here. If two of them are interchangeable
    at all weights, they are at these, and then their gradients are equal, too.
    """
    equal = {match.a.path: values[match.a.path] for match in matches}
    for i, j in _exchangeable(matches):
        equal[matches[j].a.path] = equal[matches[i].a.path]
    at_equal = gradients(carry(matches, equal))
    held = [
        to_neutral(match.axes, at_equal.get(match.b.path, np.zeros(match.b.shape)))
        for match in matches
    ]

    def differ(i: int, j: int) -> bool:
        one, other = held[i], held[j]
        size = max(float(np.linalg.norm(one)), float(np.linalg.norm(other)))
        largest = max(float(np.linalg.norm(each)) for each in held)
        is_seen = bool(matches[i].b.trained and matches[j].b.trained and size > _SMALL * largest)
        return is_seen and float(np.linalg.norm(one - other)) > _SMALL * size

    return differ


_SMALL = 1e-2  # far above rounding: what is nearer is tried


def _find_interchangeable(
    matches: Sequence[Match],
    distance: Callable[[Sequence[Match]], float],
    near: float,
    *,
    differ: Callable[[int, int], bool],
) -> tuple[list[list[str]], list[list[Match]]]:
    """Return groups of tensors that can change places without changing the outputs, and how."""
    groups: list[set[str]] = []
    maps: list[list[Match]] = []
    by_b = {match.b.path: i for i, match in enumerate(matches)}
    tried = [(i, j) for i, j in _exchangeable(matches) if not differ(i, j)]
    for i, j in tried[:_TRIES]:
        exchanged = _exchange(matches, i, j)
        if not distance(exchanged) <= near:
            continue
        maps.append(exchanged)
        pair = {matches[i].a.name, matches[j].a.name}
        joined = [group for group in groups if group & pair]
        groups = [group for group in groups if not group & pair]
        groups.append(pair.union(*joined))
    for one, other in _like_layers(matches)[:_TRIES]:
        exchanged = _exchange_layers(matches, one, other)
        moved = [(i, by_b[match.b.path]) for i, match in enumerate(exchanged)]
        if any(differ(i, j) for i, j in moved if i != j):
            continue
        if distance(exchanged) <= near:
            maps.append(exchanged)
            groups.append({m.a.layer.removeprefix("module.") for m in matches
                           if m.b.layer in (one, other)})  # fmt: skip
    return [sorted(group) for group in groups], maps
