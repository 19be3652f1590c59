"""The stage ``sync``: what runs could not tell their store is delivered; trains nothing."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.schema import Config
from pipeline.config.types import ConfigError
from pipeline.tracking.recover import close_dead_runs, finish_spool, list_undelivered
from pipeline.tracking.spool import find_spools
from pipeline.tracking.store import say, use_store

OUTPUTS = Path("outputs")


def sync(settings: Config) -> int:
    """Deliver what waits on disk for the store, and return the exit code: 1 if something stays.

    Runs whose process was killed are closed on the way; see `pipeline.tracking.recover`. Spools
    that nobody noted, as in a folder that was moved, are looked for below ``outputs``.

    Raises
    ------
    ConfigError
        If the store is not there, or the stage does not stand alone.
    """
    if settings.stages != ("sync",):
        raise ConfigError("stages", list(settings.stages), "sync stands alone")
    use_store(settings.tracking.uri)
    close_dead_runs(stale=settings.tracking.stale)  # delivers, as every command's start does
    noted = set(list_undelivered())
    for folder in list_undelivered(OUTPUTS):
        if folder not in noted and (line := finish_spool(folder)):
            say(line)
    undelivered = list_undelivered(OUTPUTS)
    for folder in undelivered:
        print(f"left    {folder}")
    for folder in find_spools(OUTPUTS, file="refused.jsonl"):
        print(f"refused {folder / 'refused.jsonl'}")  # for good: with its reasons, for a person
    waits = f"{len(undelivered)} runs still wait" if undelivered else "nothing waits"
    print(f"sync    {waits}")
    return 1 if undelivered else 0
