"""The batches of a pair that is not ours: `pipeline.align` makes them, as that runs its code."""

from __future__ import annotations

from typing import NoReturn

from pipeline.config.types import ConfigError, Count
from pipeline.data.prepare import Stream


def own(stream: Stream, *, batches: Count) -> NoReturn:
    """Refuse to make them here, where no pair is known that could.

    Parameters
    ----------
    batches
        How many are trained on in an epoch.
    """
    raise ConfigError("data.name", "own", "belongs to model=own, whose pair file makes the batches")
