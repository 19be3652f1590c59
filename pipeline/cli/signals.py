"""The signals that stop a command."""

from __future__ import annotations

import contextlib
import signal
from typing import Any

from pipeline.cli.errors import say
from pipeline.sweeps.opened import find_open_sweep
from pipeline.sweeps.workers import (
    ask_jobs_to_stop,
    must_wait_for_jobs,
)

_received: int | None = None


# A terminal that is closed sends the last, which some systems do not have.
STOPPING = [s for s in signal.Signals if s.name in ("SIGINT", "SIGTERM", "SIGHUP")]


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP arrived; handled as Ctrl-C is, but for the exit code."""


def catch_signals() -> None:
    """Turn the first signal to stop into an exception and ignore what follows."""
    for each in STOPPING:
        if each.name != "SIGHUP" or signal.getsignal(each) != signal.SIG_IGN:  # as under nohup
            signal.signal(each, stop)


def stop(number: int, frame: Any) -> None:
    """Signal handler: ask jobs elsewhere to end, and raise; while such jobs run, a timer raises.

    Their launcher kills them once this process is interrupted, so that comes after they have saved.
    Nothing waits in a handler: until then the launcher goes on waiting for its jobs.
    """
    global _received
    _received = number  # Ray raises a plain KeyboardInterrupt instead of what a handler raised
    for each in STOPPING:
        signal.signal(each, signal.SIG_IGN)
    sweep = find_open_sweep()
    if sweep is not None:
        ask_jobs_to_stop(sweep)
        if must_wait_for_jobs(sweep):
            signal.signal(signal.SIGALRM, stop_when_saved)
            signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
            return
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def stop_when_saved(number: int, frame: Any) -> None:
    """Timer's handler: raise as soon as no job elsewhere is waited for."""
    sweep = find_open_sweep()
    if sweep is None or not must_wait_for_jobs(sweep):
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt


def end_waiting() -> None:
    """Take the timer away, and raise where a signal arrived that raised nothing yet."""
    if _received is not None:
        with contextlib.suppress(AttributeError):  # a system without timers
            signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt


def tell_stopped() -> int:
    """Say which signal ended the command, and return the exit code it stands for."""
    number = signal.Signals(_received or signal.SIGINT)
    say(f"stopped by {'Ctrl-C' if number == signal.SIGINT else number.name}")
    if find_open_sweep() is not None:
        say(
            "the same command goes on: what is finished is linked, what was interrupted continues "
            "from its checkpoint"
        )
    return 128 + number
