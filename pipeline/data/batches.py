"""The order in which samples are seen; NumPy only, and the same for every backend."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
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


class Noted:
    """Batches that note a fingerprint of each as they give it out; otherwise those they wrap.

    Attributes
    ----------
    samples, sequence
        A number for each batch that depends on its samples alone, and on their order as well.
    """

    def __init__(self, batches: AnyBatches) -> None:
        self.size: int = batches.size
        self.group: int = batches.group
        self.fixed: bool = batches.fixed
        self.count: int = batches.count
        self._batches = batches
        self.samples: list[int] = []
        self.sequence: list[int] = []

    def blocks(self, epoch: int) -> Blocks:
        """Yield what the wrapped batches yield."""
        for x, y in self._batches.blocks(epoch):
            samples, sequence = fingerprints(x, y, size=self.size)
            self.samples += samples
            self.sequence += sequence
            yield x, y

    def arrays(self, updates: int) -> dict[str, np.ndarray]:
        """Return the fingerprints of the batches of so many updates, as in a record."""
        found = {}
        for name, kept in (("samples", self.samples), ("sequence", self.sequence)):
            per_epoch = -(-self.count // self.group)
            epochs = -(-updates // per_epoch)
            numbers = np.array(kept * (epochs if self.fixed else 1), dtype=np.uint64)
            rest = (updates - (epochs - 1) * per_epoch) * self.group
            found[f"order/{name}"] = numbers[: (epochs - 1) * self.count + min(rest, self.count)]
        return found


AnyBatches = Batches | StreamedBatches | Noted


def fingerprints(x: np.ndarray, y: np.ndarray, *, size: int) -> tuple[list[int], list[int]]:
    """Return two numbers for each batch of a block, from the bits of its samples and targets.

    A row's words are multiplied with odd constants and summed modulo 2⁶⁴; the first number is the
    sum over the rows, the second one weighs each row with its place. Two batches that differ have
    the same number with a probability of about 2⁻⁶³ (M. Dietzfelbinger et al., "A reliable
    randomized algorithm for the closest-pair problem", 1997).
    """
    rows = np.zeros(len(x), dtype=np.uint64)
    for array in (x, y):
        flat = array.reshape(len(array), -1)
        flat = flat if flat.dtype in (np.float32, np.float64) else flat.astype(np.float64)
        words = np.ascontiguousarray(flat).view(np.uint32).astype(np.uint64)
        odd = _odd(words.shape[1])
        rows = rows * np.uint64(0x9E3779B97F4A7C15) + (words * odd).sum(axis=1, dtype=np.uint64)
    rows ^= rows >> np.uint64(32)  # so that a sum of rows is not a sum of words
    rows *= np.uint64(0xD6E8FEB86659FD93)
    starts = np.arange(0, len(x), size)
    places = _odd(size)[np.arange(len(x)) % size]
    return (
        np.add.reduceat(rows, starts).tolist(),
        np.add.reduceat(rows * places, starts).tolist(),
    )


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
