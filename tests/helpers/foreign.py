"""Pairs that are not ours, trained and judged in the process of the tests."""

from __future__ import annotations

import contextlib
import os
from functools import cache
from pathlib import Path

import pairs

from pipeline.align import prepare, worker


@contextlib.contextmanager
def mapped_here(folder):
    """Work in a folder, and map pairs in this process, which has both frameworks."""
    before, make = Path.cwd(), prepare.subprocess.run

    class Ended:
        returncode, stderr = 0, ""

    def run(command, **options):
        assert command[1:3] == ["-m", "pipeline.align.worker"]
        worker.main(Path(command[3]))
        return Ended

    os.chdir(folder)
    prepare.subprocess.run = run
    try:
        yield
    finally:
        prepare.subprocess.run = make
        os.chdir(before)


@cache
def verified(path, *overrides, steps=2):
    """Return both records of a pair's file after some steps, and the ladder."""
    given = ("experiment=verify", f"model.path={path}", f"data.batches={steps}", *overrides)
    sides = [pairs.recorded(*given, f"backend={side}") for side in ("torch", "tensorflow")]
    return sides, pairs.ladder(*sides)


def rung_verdicts(ladder):
    """Return the verdicts by rung."""
    return {rung.name: rung.verdict for rung in ladder.rungs}
