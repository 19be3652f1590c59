"""A first map of two models' tensors, from classes, names, shapes and order; knows no framework.

Nothing here is believed: `pipeline.align.prove` holds it against values.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.backends.base import Tensor
from pipeline.pairs.own.prepared import Regroup
from pipeline.pairs.pair import Axes, Layout

# What layers of a class do with their tensors, by the class of either framework.
FAMILIES: dict[str, str] = {
    **dict.fromkeys(("Linear", "Dense", "EinsumDense", "NonDynamicallyQuantizableLinear"), "dense"),
    **dict.fromkeys(("Conv1d", "Conv2d", "Conv3d", "Conv1D", "Conv2D", "Conv3D"), "conv"),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), "conv"),
    **dict.fromkeys(
        ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d",
         "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), "transposed"),
    **dict.fromkeys(("Embedding", "EmbeddingBag"), "embedding"),
    **dict.fromkeys(
        ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm", "BatchNormalization"),
        "batch norm"),
    **dict.fromkeys(("LayerNorm", "LayerNormalization"), "layer norm"),
    **dict.fromkeys(("GroupNorm", "GroupNormalization"), "group norm"),
    **dict.fromkeys(("RMSNorm", "RMSNormalization"), "rms norm"),
    **dict.fromkeys(("LSTM", "LSTMCell"), "lstm"),
    **dict.fromkeys(("GRU", "GRUCell"), "gru"),
    **dict.fromkeys(("RNN", "RNNCell", "SimpleRNN", "SimpleRNNCell"), "rnn"),
    "PReLU": "prelu",
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), "conv"),
    "MultiheadAttention": "dense",
}  # fmt: skip

# Other names of one thing.
_SYNONYMS = {
    "gamma": "weight", "kernel": "weight", "embeddings": "weight", "scale": "weight",
    "beta": "bias", "shift": "bias", "moving": "running", "variance": "var", "alpha": "weight",
    "recurrent": "hh", "depthwise": "weight", "pointwise": "weight",
}  # fmt: skip
RECURRENT = {"gru": 3, "lstm": 4, "rnn": 1}  # and how many gates they have
_GATES = {"gru": (1, 0, 2)}  # PyTorch has r, z, n, and Keras z, r, h


class Candidate(NamedTuple):
    """One way in which a tensor of the second model can stand for one of the first.

    `cost` is lower where they are more alike.
    """

    axes: Axes
    cost: float


class Match(NamedTuple):
    """Two tensors that belong together, and how the second holds the first."""

    a: Tensor
    b: Tensor
    axes: Axes


def propose(
    left: Sequence[Tensor], right: Sequence[Tensor], *, same: Mapping[str, str]
) -> list[Match]:
    """Return a map of two models' tensors, as an assignment of the least total cost.

    Parameters
    ----------
    left, right
        The tensors of the PyTorch model, whose layout is the neutral one, and of the other.
    same
        Hints: by a name in the first model, the name in the second that belongs to it; of a tensor
        or of all tensors of a layer.
    """
    from scipy.optimize import linear_sum_assignment

    if not left or not right:
        return []
    costs = np.full((len(left), len(right)), _NEVER)
    ranks = _ranks(left), _ranks(right)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            candidate = next(iter(list_candidates(a, b)), None)
            if candidate is None or not _allowed(a, b, same):
                continue
            order = abs(ranks[0][i] - ranks[1][j])
            costs[i, j] = candidate.cost + 3 * _unlike(a, b) + order
    rows, columns = linear_sum_assignment(costs)
    return [
        Match(left[i], right[j], next(iter(list_candidates(left[i], right[j]))).axes)
        for i, j in zip(rows, columns, strict=True) if costs[i, j] < _NEVER
    ]  # fmt: skip


_NEVER = 1e6


def find_regroups(
    left: Sequence[Tensor], right: Sequence[Tensor], *, same: Mapping[str, str]
) -> list[Regroup]:
    """Return which parameters of the first model are to be held in parts, or together.

    So that each has one partner: of what a first map leaves over on both sides, one stands for two
    to four of the other side if these are of one size and have as many numbers together.
    """
    matches = propose(left, right, same=same)
    lonely = [t for t in left if t.trained and t.path not in {m.a.path for m in matches}]
    others = [t for t in right if t.trained and t.path not in {m.b.path for m in matches}]
    groups = []
    for a in [*lonely]:
        for count in (3, 2, 4):
            parts = [b for b in others if math.prod(b.shape) * count == math.prod(a.shape)]
            if len(parts) >= count and a.shape[0] % count == 0:
                groups.append(Regroup((a.path,), parts=count))
                lonely.remove(a)
                others = [b for b in others if b not in parts[:count]]
                break
    for b in others:
        for count in (2, 3, 4):
            same_size = [a for a in lonely if math.prod(a.shape) * count == math.prod(b.shape)]
            alike = [a for a in same_size if a.shape == same_size[0].shape]
            numbered = [a for a in alike if _numbers(a.name) == _numbers(alike[0].name)]
            parts = (numbered if len(numbered) >= count else alike)[:count]
            if len(parts) == count:
                stacked = b.shape == (count, *parts[0].shape)
                groups.append(Regroup(tuple(a.path for a in parts), stacked=stacked))
                lonely = [a for a in lonely if a not in parts]
                break
    return groups


def _numbers(name: str) -> list[str]:
    """Return the numbers in a name: parameters of one block have the same ones."""
    return re.findall(r"\d+", name)


def sort_by_calls(tensors: Sequence[Tensor], calls: Sequence[str]) -> list[Tensor]:
    """Return tensors in the order in which their layers are called; those of a layer as they are.

    A layer that is not called has the place of the nearest one around it.
    """
    numbers = {layer: number for number, layer in enumerate(calls)}

    def number_of(layer: str) -> int:
        while layer and layer not in numbers:
            layer = layer[: max(layer.rfind("."), layer.rfind("/"), 0)]
        return numbers.get(layer, 0)

    return sorted(tensors, key=lambda tensor: number_of(tensor.layer))


def _ranks(tensors: Sequence[Tensor]) -> list[float]:
    """Return where each tensor stands among those of its kind, between 0 and 1.

    Kinds are a layer's family, the part, and the size, so that tensors of one side only move
    little.
    """
    kinds = [(family_of(t), _part_of(t), math.prod(t.shape)) for t in tensors]
    total = {kind: kinds.count(kind) for kind in kinds}
    counted: dict[object, int] = {}
    ranks = []
    for kind in kinds:
        counted[kind] = counted.get(kind, -1) + 1
        ranks.append(counted[kind] / total[kind])
    return ranks


def family_of(tensor: Tensor) -> str:
    """Return what the layer of a tensor does; empty if its class is not a known one."""
    return FAMILIES.get(tensor.owner, "")


def list_candidates(a: Tensor, b: Tensor) -> list[Candidate]:
    """Return the ways in which a tensor of the second model can stand for one of the first.

    The likeliest first; none where their layers, parts or shapes cannot belong together.
    """
    families = family_of(a), family_of(b)
    is_written_out = families[1] == "dense" and families[0] in RECURRENT
    if all(families) and families[0] != families[1] and not is_written_out:
        return []
    if _is_statistic(a) != _is_statistic(b) or math.prod(a.shape) != math.prod(b.shape):
        return []
    family = families[0] or families[1]
    is_known = all(families) and not is_written_out
    unknown = 0.0 if is_known else 0.5
    ways: list[Axes] = []
    if is_known:
        ways = list(_known_ways(a, b, family))
        if family in RECURRENT and _part_of(a) != _part_of(b):
            return []
    else:
        ways = list(_ways_by_shape(a.shape, b.shape))
    return [Candidate(way, unknown + 0.1 * i) for i, way in enumerate(ways)]


def _known_ways(a: Tensor, b: Tensor, family: str) -> Iterator[Axes]:
    """Yield how layers of one family hold the same tensor: one way, or none."""
    n = len(a.shape)
    gates = _GATES.get(family, ())
    if n == 1 or family == "embedding" or family.endswith("norm"):
        if a.shape == b.shape:
            yield Layout(a.shape, tuple(range(n)), b.shape, gates) if gates else None
        elif np.prod(a.shape) == np.prod(b.shape) and not gates:
            yield Layout(a.shape, tuple(range(n)), b.shape)
        return
    is_depthwise = b.owner.startswith("Depthwise") or b.attribute == "depthwise_kernel"
    if family == "conv" and is_depthwise and a.shape[1] == 1:
        channels, multiplier = b.shape[-2], b.shape[-1]
        if a.shape[0] == channels * multiplier and a.shape[2:] == b.shape[:-2]:
            yield Layout(a.shape, (*range(2, n), 0, 1), b.shape)
        return
    axes = (*range(2, n), 1, 0)  # (out, in, ...) and (..., in, out); transposed ones likewise
    moved = tuple(a.shape[axis] for axis in axes)
    if moved == b.shape:
        yield Layout(a.shape, axes, b.shape, gates) if gates else axes
    elif family == "dense" and np.prod(moved) == np.prod(b.shape):  # EinsumDense: heads apart
        yield Layout(a.shape, axes, b.shape)


def _ways_by_shape(one: tuple[int, ...], other: tuple[int, ...]) -> Iterator[Axes]:
    """Yield all ways that two shapes allow where nothing is known of the layer."""
    if one == other:
        yield None
    if len(one) == len(other) == 2 and one[::-1] == other:
        yield (1, 0)
    if len(one) > 2 and len(one) == len(other):
        axes = (*range(2, len(one)), 1, 0)
        if tuple(one[axis] for axis in axes) == other:
            yield axes
    if len(one) != len(other) and _squeezed(one) == _squeezed(other):
        yield Layout(one, tuple(range(len(one))), other)
    elif len(one) != len(other) and _squeezed(one) == _squeezed(other)[::-1]:
        yield Layout(one, tuple(range(len(one)))[::-1], other)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without its axes of one."""
    return tuple(size for size in shape if size != 1)


def _is_statistic(tensor: Tensor) -> bool:
    """Whether a tensor is what a normalisation remembers of the batches."""
    return bool(re.search(r"(running|moving)_", tensor.attribute))


def _part_of(tensor: Tensor) -> str:
    """Return which part of its layer a tensor is: ``weight``, ``bias``, ``hh``, ..."""
    words = split_name(tensor.attribute.partition("+")[0])
    for part in ("mean", "var", "hh", "bias"):
        if part in words:
            return "hh bias" if part == "hh" and "bias" in words else part
    return "weight"


def split_name(path: str) -> list[str]:
    """Return the words of a path, each by its usual name: ``blocks.0.norm`` is blocks, 0, norm."""
    words = re.findall(r"[a-z]+|[A-Z][a-z]*|\d+", path.replace("_", " "))
    return [_SYNONYMS.get(word.lower(), word.lower()) for word in words]


def _unlike(a: Tensor, b: Tensor) -> float:
    """Return how little two tensors' names are alike, 0 to 2: their part, and their path."""
    one, other = _tokens(a.name), _tokens(b.name)
    shared = len(one & other) / max(1, len(one | other))
    return (1 - shared) + float(_part_of(a) != _part_of(b))


def _tokens(name: str) -> set[str]:
    """Return the words of a name, and each number together with the word before it.

    A number alone says nothing: the third of a sequence is no ``dense_2``.
    """
    words = split_name(name)
    numbered = {
        f"{word}{after}"
        for word, after in itertools.pairwise(words)
        if after.isdigit() and not word.isdigit()
    }
    return {word for word in words if not word.isdigit()} | numbered


def _allowed(a: Tensor, b: Tensor, same: Mapping[str, str]) -> bool:
    """Whether hints let two tensors be a match: what one of them names belongs to that one."""
    parts = _list_parts(a.name)
    return all(
        any(is_below(part, one) for part in parts) == is_below(b.name, other)
        for one, other in same.items()
    )


def _list_parts(name: str) -> list[str]:
    """Return the names of the parameters that are held together as one; see `Regroup.labels`."""
    first, *others = name.split("+")
    owner = first.rpartition(".")[0]
    parent = f"{owner.rpartition('.')[0]}.".removeprefix(".")
    return [first, *(f"{parent}{each.replace('/', '.')}" if "/" in each else f"{owner}.{each}"
                     for each in others)]  # fmt: skip


def is_below(path: str, name: str) -> bool:
    """Whether a tensor's name is a name, or lies below it."""
    plain, name = path.replace("/", "."), name.replace("/", ".")
    return plain == name or plain.startswith(f"{name}.") or f".{name}." in f".{plain}."
