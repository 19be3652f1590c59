"""The order in which samples are seen; NumPy only, and the same for every backend."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.data.streams import Source

Blocks = Iterator[tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batches:
    """A training set in memory, cut into batches epoch by epoch.

    Attributes
    ----------
    x, y
        Samples of shape ``(n, *features)`` and encoded targets of shape ``(n, outputs)``, in the
        precision of the run.
    size
        Samples of a batch; an epoch's last batch may be smaller.
    shuffle
        Whether each epoch has an order of its own.
    stream
        Maps the name of a random stream to its generator; epoch e is shuffled by ``order.<e>``.
    group
        Batches of one update.
    """

    x: np.ndarray
    y: np.ndarray
    size: int
    shuffle: bool
    stream: Callable[[str], np.random.Generator]
    group: int = 1

    @property
    def count(self) -> int:
        """Number of batches of one epoch."""
        return -(-len(self.x) // self.size)

    @property
    def fixed(self) -> bool:
        """Whether every epoch is the same and lies in memory."""
        return not self.shuffle

    def blocks(self, epoch: int) -> Blocks:
        """Yield the samples of one epoch in their order, in blocks to be cut into batches.

        A block is as much as lies in memory at once, here everything. Unshuffled, it is the same
        object in every epoch.
        """
        if self.shuffle:
            order = self.stream(f"order.{epoch}").permutation(len(self.x))
            yield self.x[order], self.y[order]
        else:
            yield self.x, self.y


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamedBatches:
    """A training set in a file, read block by block; `Batches` for what does not fit into memory.

    Attributes
    ----------
    source
        The training samples of the file.
    size, shuffle, stream, group
        As in `Batches`. Shuffled are the blocks of the file, and the rows inside a block, both by
        ``order.<e>``: rows of two blocks never mix, so blocks should be much larger than a batch.
    dtype
        The precision of the run.
    encode
        Turns targets into those the loss wants.
    """

    source: Source
    size: int
    shuffle: bool
    stream: Callable[[str], np.random.Generator]
    dtype: str
    encode: Callable[[np.ndarray], np.ndarray]
    group: int = 1

    @property
    def count(self) -> int:
        """Number of batches of one epoch."""
        return -(-self.source.rows // self.size)

    @property
    def fixed(self) -> bool:
        """Whether every epoch is the same and lies in memory; no."""
        return False

    def blocks(self, epoch: int) -> Blocks:
        """Yield the samples of one epoch in their order, in blocks to be cut into batches.

        All but the last have a multiple of ``size·group`` rows: what is over goes in front of the
        next. What was yielded is not written to again.
        """
        source, unit = self.source, self.size * self.group
        rng = self.stream(f"order.{epoch}")
        blocks = list(source.blocks)
        if self.shuffle:
            rng.shuffle(blocks)
        x_over = np.empty((0, *source.inputs), self.dtype)
        y_over: np.ndarray | None = None
        while blocks:
            together = [blocks.pop(0)]
            rows = len(x_over) + source.length(together[0])
            while rows < unit and blocks:
                together.append(blocks.pop(0))
                rows += source.length(together[-1])
            x, start = np.empty((rows, *source.inputs), self.dtype), len(x_over)
            x[:start] = x_over
            ys = [] if y_over is None else [y_over]
            for block in together:
                length = source.length(block)
                order = rng.permutation(length) if self.shuffle else None
                y = source.read(block, out=x[start : start + length], order=order)
                ys.append(self.encode(y).astype(self.dtype, copy=False))
                start += length
            y = ys[0] if len(ys) == 1 else np.concatenate(ys)
            whole = rows - rows % unit if blocks else rows
            x_over, y_over = x[whole:].copy(), y[whole:].copy()
            if whole:
                yield x[:whole], y[:whole]


class Seen:
    """Fingerprints of the batches that a loop took, in the order in which it took them.

    They are taken from what the loop itself cut, so a backend that cuts otherwise is seen. The
    loop's arrays are held until they are many, and read many at a time outside the timed part.

    Parameters
    ----------
    fixed
        Whether every epoch is the same, so that its first one is enough.
    """

    _HELD = 1 << 24  # bytes of batches held before they become fingerprints
    _ROWS = 1 << 19  # samples that have a fingerprint of their own

    def __init__(self, *, fixed: bool) -> None:
        self._fixed = fixed
        self._first: tuple[int, int] | None = None  # the first epoch and step in this process
        self._held: list[tuple[int, int, Any, Any]] = []
        self._bytes = self._rows = self._taken = 0
        self._parts: list[dict[str, np.ndarray]] = []

    def note(
        self, step: int, epoch: int, parts: Sequence[tuple], read: Callable[[Any], np.ndarray]
    ) -> None:
        """Note the batches ``(x, y, ...)`` of one update; `read` makes NumPy arrays of them."""
        if self._first is None:
            self._first = epoch, step
        if self._fixed and epoch != self._first[0]:
            return
        for x, y, *_ in parts:
            x, y = read(x), read(y)
            self._held.append((step, epoch, x, y))
            self._bytes += x.nbytes + y.nbytes
        if self._bytes > self._HELD:
            self._digest()

    def _digest(self) -> None:
        """Turn the batches that are held into fingerprints, and let go of them."""
        if not self._held:
            return
        steps, epochs, xs, ys = zip(*self._held, strict=True)
        self._held.clear()
        self._bytes = 0
        prints = fingerprints(np.concatenate(xs), np.concatenate(ys), lengths=list(map(len, xs)))
        room = max(0, self._ROWS - self._rows)
        self._rows += len(prints["x_rows"])
        self._parts.append(
            {key: values[:room] if key.endswith("_rows") else values
             for key, values in prints.items()}
            | {"step": np.array(steps, np.uint32), "epoch": np.array(epochs, np.uint32)}
        )  # fmt: skip

    def take(self) -> dict[str, np.ndarray]:
        """Return what was noted since the last call, as ``order/<name>``."""
        self._digest()
        parts, self._taken = self._parts[self._taken :], len(self._parts)
        return {f"order/{key}": values for key, values in _joined(parts).items()}

    def restore(self, rows: Mapping[str, np.ndarray]) -> None:
        """Begin with what `take` returned in another process."""
        if not self._fixed:
            self._parts = [{key.removeprefix("order/"): values for key, values in rows.items()}]
            self._taken, self._rows = 1, len(rows["order/x_rows"])

    def arrays(self, updates: int) -> dict[str, np.ndarray]:
        """Return the fingerprints of the batches of so many updates, as in a record."""
        self._digest()
        noted = _joined(self._parts)
        if self._fixed and len(noted["step"]) and self._first is not None:
            step = noted["step"] - np.uint32(self._first[1] - 1)
            length = int(step.max())  # updates of an epoch
            epochs = -(-updates // length)
            rows = {key: values for key, values in noted.items() if key.endswith("_rows")}
            noted = {key: np.tile(v, epochs) for key, v in noted.items() if key not in rows} | rows
            before = np.repeat(np.arange(epochs, dtype=np.uint32), len(step))
            noted |= {"step": np.tile(step, epochs) + before * np.uint32(length),
                      "epoch": before + np.uint32(1)}  # fmt: skip
        cut = noted["step"] <= updates
        return {
            f"order/{key}": values if key.endswith("_rows") else values[cut]
            for key, values in noted.items()
        }


AnyBatches = Batches | StreamedBatches

_PRINTS: dict[str, Any] = dict.fromkeys(("samples", "sequence", "x"), np.uint64)
_PRINTS |= dict.fromkeys(("lengths", "step", "epoch", "x_rows", "y_rows"), np.uint32)


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return fingerprints one after the other, in a record's types; of no parts, empty arrays."""
    return {
        key: np.concatenate([np.empty(0, dtype), *(part[key] for part in parts)]).astype(dtype)
        for key, dtype in _PRINTS.items()
    }


def fingerprints(x: np.ndarray, y: np.ndarray, *, lengths: Sequence[int]) -> dict[str, np.ndarray]:
    """Return numbers that tell batches, and their samples, from others by their bits.

    A row's words are multiplied with odd constants and summed modulo 2⁶⁴. Two batches that differ
    have the same number with a probability of about 2⁻⁶³ (M. Dietzfelbinger et al., "A reliable
    randomized algorithm for the closest-pair problem", 1997).

    Parameters
    ----------
    x, y
        The samples and targets of some batches, one after the other.
    lengths
        How many rows each batch has.

    Returns
    -------
    dict
        For each batch ``samples`` (whatever their order), ``sequence`` (in their order), ``x``
        (samples without their targets, whatever their order) and ``lengths``; for each row
        ``x_rows`` and ``y_rows``, 32 bits each, which serve to find a row, not to tell batches.
    """
    one, other = _rows(x), _rows(y)
    both = _mixed(one * np.uint64(0x9E3779B97F4A7C15) + other)
    starts = np.cumsum([0, *lengths[:-1]])
    places = np.arange(len(x)) - np.repeat(starts, lengths)
    return {
        "samples": np.add.reduceat(both, starts),
        "sequence": np.add.reduceat(both * _odd(max(lengths))[places], starts),
        "x": np.add.reduceat(_mixed(one), starts),
        "lengths": np.array(lengths, np.uint32),
        "x_rows": (_mixed(one) >> np.uint64(32)).astype(np.uint32),
        "y_rows": (_mixed(other) >> np.uint64(32)).astype(np.uint32),
    }


def _rows(array: np.ndarray) -> np.ndarray:
    """Return one 64-bit number for each row: its 32-bit words times odd constants, summed."""
    flat = array.reshape(len(array), -1)
    flat = flat if flat.dtype in (np.float32, np.float64) else flat.astype(np.float64)
    words = np.ascontiguousarray(flat).view(np.uint32).astype(np.uint64)
    summed: np.ndarray = (words * _odd(words.shape[1])).sum(axis=1, dtype=np.uint64)
    return summed


def _mixed(rows: np.ndarray) -> np.ndarray:
    """Return rows so mixed that a sum of them is not a sum of their words."""
    mixed: np.ndarray = (rows ^ (rows >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return mixed


@functools.cache
def _odd(n: int) -> np.ndarray:
    """Return n odd 64-bit constants."""
    rng = np.random.Generator(np.random.PCG64(20261124))
    return rng.integers(0, 2**63, size=n, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def of(
    dataset: Any,
    *,
    size: int | None,
    shuffle: bool,
    stream: Callable[[str], np.random.Generator],
    dtype: str,
    encode: Callable[[np.ndarray], np.ndarray],
    group: int,
) -> Batches | StreamedBatches:
    """Return the training samples of a data set as batches, in the precision of a run.

    Parameters
    ----------
    dataset
        The `Dataset`.
    size
        Samples of a batch; None for all of them, of a set that is in memory.
    encode
        Turns targets into those the loss wants.
    group
        Batches of one update.
    """
    common: dict[str, Any] = {"shuffle": shuffle, "stream": stream, "group": group}
    if dataset.source is not None:
        assert size is not None  # refused before
        return StreamedBatches(
            source=dataset.source, size=size, dtype=dtype, encode=encode, **common
        )
    x, y = dataset.arrays["x_train"], encode(dataset.arrays["y_train"])
    return Batches(
        x=x.astype(dtype, copy=False),
        y=y.astype(dtype, copy=False),
        size=size or len(x),
        **common,
    )


def cuts(rows: int, *, size: int, group: int) -> tuple[list[int], list[float]]:
    """Return the length of each batch of a block, and its share of the update that it is part of.

    Parameters
    ----------
    rows
        Samples of the block.
    size, group
        Samples of a batch, and batches of an update.
    """
    lengths = [min(size, rows - start) for start in range(0, rows, size)]
    totals = [sum(lengths[i : i + group]) for i in range(0, len(lengths), group)]
    return lengths, [length / totals[i // group] for i, length in enumerate(lengths)]
