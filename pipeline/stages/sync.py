"""The stage ``sync``: what runs could not tell their store is delivered; trains nothing."""

from __future__ import annotations

from pipeline.config import Config, ConfigError
from pipeline.tracking.recover import close_dead_runs, list_undelivered
from pipeline.tracking.store import use_store


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
    use_store(settings.tracking.uri)
    close_dead_runs(stale=settings.tracking.stale)  # delivers, as every command's start does
    undelivered = list_undelivered()
    for folder in undelivered:
        print(f"left    {folder}")
    print(f"sync    {len(undelivered)} runs still wait" if undelivered else "sync    nothing waits")
    return 1 if undelivered else 0
