"""Jobs in other processes: asked to stop by a signal's handler, waited for by nobody in it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import pytest
from omegaconf import OmegaConf

from pipeline.cli import signals
from pipeline.sweeps import close
from pipeline.sweeps.opened import OpenSweep, forget_open_sweep, set_open_sweep


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep with one job in another process that lives; signals are put back at the end."""
    handlers = {each: signal.getsignal(each) for each in (*signals.STOPPING, signal.SIGALRM)}
    monkeypatch.setattr(signals, "_received", None)
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    opened = OpenSweep(parent=None, config=config, title="lr", jobs=1)
    opened.running.mkdir()
    (opened.running / "0").write_text(f"{socket.gethostname()} {os.getpid()}")
    set_open_sweep(opened)
    yield opened
    forget_open_sweep()
    signal.setitimer(signal.ITIMER_REAL, 0)
    for each, handler in handlers.items():
        signal.signal(each, handler)


def refuse_to_wait(*_):
    raise AssertionError("a handler waited")


def test_a_handler_asks_and_waits_for_nobody(sweep, monkeypatch):
    """The launcher is interrupted, which ends its workers, after the job has saved, not before."""
    monkeypatch.setattr(time, "sleep", refuse_to_wait)
    signals.stop(signal.SIGTERM, None)
    assert (sweep.running / "stop").exists()
    assert all(signal.getsignal(each) == signal.SIG_IGN for each in signals.STOPPING)
    signals.stop_when_saved(signal.SIGALRM, None)  # the job is still there
    (sweep.running / "0").unlink()
    with pytest.raises(KeyboardInterrupt):
        threading.Event().wait(60)  # the timer raises
    with pytest.raises(KeyboardInterrupt):
        signals.end_waiting()  # also where the launcher ended before the timer looked
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_without_a_job_elsewhere_a_handler_raises_at_once(sweep):
    (sweep.running / "0").unlink()
    with pytest.raises(signals.Terminated):
        signals.stop(signal.SIGTERM, None)
    assert (sweep.running / "stop").exists()


def test_a_job_that_does_not_end_is_waited_for_until_a_deadline(sweep):
    signals.stop(signal.SIGINT, None)
    sweep.deadline = 0.0
    with pytest.raises(KeyboardInterrupt):
        signals.stop_when_saved(signal.SIGALRM, None)


def test_the_end_of_a_sweep_waits_before_it_ends_the_workers(sweep, monkeypatch):
    steps = []
    monkeypatch.setattr(time, "sleep", lambda _: (sweep.running / "0").unlink())
    monkeypatch.setattr(close, "end_workers", lambda: steps.append((sweep.running / "0").exists()))
    monkeypatch.setattr(close, "_close_parent", lambda *_, **options: 0)
    assert close.finish(interrupted=True) == 0
    assert steps == [False]
