"""How much memory there is, and samples that would need more."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

from pipeline.config.types import ConfigError

_COPIES = 3  # of all samples at once: as read, side by side, and split


def measure_memory() -> float:
    """Return the bytes of memory that this process may have; infinite where nobody says."""
    sizes = [math.inf]
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):  # a container's; "max" if it has no limit
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(sizes)


def check_room(size: int, *, key: str, value: object, instead: str) -> None:
    """Refuse samples of so many bytes that cannot be held; at times there are three copies.

    Parameters
    ----------
    size
        Bytes of all samples, once.
    key, value
        The setting that asks for them.
    instead
        What would need less.
    """
    memory = measure_memory()
    if size * _COPIES > memory:
        raise ConfigError(
            key, value,
            f"needs about {size * _COPIES / 2**30:.3g} GiB of memory, of {memory / 2**30:.3g};"
            f" {instead}",
        )  # fmt: skip
