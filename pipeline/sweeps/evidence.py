"""What measures the pairs of a sweep at its end, within a budget of time."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from pipeline.config.schema import parse_recorded, read_accepted
from pipeline.naming import name_runs
from pipeline.record.record import RunRecord
from pipeline.redact import redact


def make_evidence(settings: Any, records: Sequence[RunRecord], *, budget: float) -> Any:
    """Return what measures a pair of these runs at a sweep's end, as long as the budget (s) lasts.

    What it measures is said with the names that tell these runs from each other.
    """
    from pipeline.jobs.resolve import allow_code
    from pipeline.stages.probe import find_evidence, probe_and_save
    from pipeline.stages.run import needs_own_process

    allow_code(settings)
    remaining = budget
    named = dict(zip(map(id, records), name_runs(records), strict=True))

    def measured(a: RunRecord, b: RunRecord) -> Any:
        nonlocal remaining
        known = find_evidence(a, b, **probe_options(settings))
        drawn = (
            parse_recorded(a.config).model.init == "framework"
        )  # starts of their own: no pair to probe
        if known is not None or settings.parity.probe == "off" or drawn or not a.named("param"):
            return known
        # Both sides in both precisions from either's states, and the reference.
        expected = 5 * sum(side.about["time"].get("train_s", 0.0) for side in (a, b))
        if expected > remaining or any(
            needs_own_process(parse_recorded(side.config)) for side in (a, b)
        ):
            return None
        start = time.perf_counter()
        pair = f"{named[id(a)]} against {b.label()}"
        print(f"probing {pair}: every step from equal states", flush=True)
        try:
            return probe_and_save(a, b, say=print_step, **probe_options(settings))
        except Exception as error:  # the runs are compared all the same, by what there is
            reason = redact(f"{type(error).__name__}: {error}")
            print(f"twingrad: warning: the probe failed: {reason}", file=sys.stderr)
            return None
        finally:
            remaining -= time.perf_counter() - start

    return measured


def print_step(text: str) -> None:
    """Print what a probe does next."""
    print(f"  {text}", flush=True)


def probe_options(settings: Any) -> dict[str, Any]:
    """Return what a probe is told by the config."""
    parity = settings.parity
    return {
        "prove": parity.prove,
        "gradcheck": parity.gradcheck,
        "accept": read_accepted(parity.accept),
        "precision": parity.precision,
    }
