"""One seed, split into named streams; there is no global random state anywhere."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the generator of one named stream of a seed.

    Streams of different names are independent, and adding one leaves the others as they are,
    because the name itself (not a counter) is the spawn key.

    Parameters
    ----------
    seed
        The run's seed, 0 or more.
    name
        What is drawn: ``data``, ``test``, ``init``, ``order``, ...
    """
    words = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype="<u4")
    sequence = np.random.SeedSequence(seed, spawn_key=tuple(int(word) for word in words))
    return np.random.Generator(np.random.PCG64(sequence))


def integer(seed: int, name: str) -> int:
    """Return a 31-bit seed drawn from a named stream, for a framework's own generator."""
    return int(stream(seed, name).integers(2**31))
