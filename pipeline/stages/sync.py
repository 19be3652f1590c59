"""The stage ``sync``: what runs could not tell their store is delivered; trains nothing."""

from __future__ import annotations

from pipeline import tracking
from pipeline.config import Config, ConfigError


def sync(settings: Config) -> int:
    """Deliver what waits on disk for the store, and return the exit code: 1 if something stays.

    Runs whose process was killed are closed on the way; see `pipeline.tracking.recover`.

    Raises
    ------
    ConfigError
        If the store is not there, or the stage does not stand alone.
    """
    if settings.stages != ("sync",):
        raise ConfigError("stages", list(settings.stages), "sync stands alone")
    place = settings.tracking
    tracking.find(place.uri, stale=place.stale)  # delivers, as every command's start does
    left = tracking.undelivered()
    for folder in left:
        print(f"left    {folder}")
    print(f"sync    {len(left)} runs still wait" if left else "sync    nothing waits")
    return 1 if left else 0
