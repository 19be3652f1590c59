"""The thread of a process that delivers the journals of its runs."""

from __future__ import annotations

import contextlib
import threading
import time

from pipeline.storage import is_full
from pipeline.tracking.deliver import PENDING, Journal
from pipeline.tracking.store import describe_error


class Courier:
    """One thread of this process that delivers the journals of its runs."""

    def __init__(self) -> None:
        self._journals: list[Journal] = []
        self._changed = threading.Condition()
        self._asked = False
        self._thread: threading.Thread | None = None

    def add(self, journal: Journal) -> None:
        """Deliver this one from now on."""
        with self._changed:
            self._journals.append(journal)
            if self._thread is None or not self._thread.is_alive():  # a fork has no thread
                self._thread = threading.Thread(target=self._loop, name="courier", daemon=True)
                self._thread.start()

    def forget(self, journal: Journal) -> None:
        """Deliver this one no more."""
        with self._changed:
            if journal in self._journals:
                self._journals.remove(journal)

    def journals(self) -> list[Journal]:
        """Return those that this process owns."""
        with self._changed:
            return list(self._journals)

    def journal_of(self, run_id: str) -> Journal | None:
        """Return the journal of a run that this process opened."""
        return next((j for j in self.journals() if run_id in (j.spool.run, PENDING + j.mark)), None)

    def settle(self, journal: Journal, *, patience: float = 0.0) -> bool:
        """Have everything delivered that was written; whether it was.

        A store that answers slowly is given the run's whole waiting time; one that is away only
        `patience` seconds more than one attempt.
        """
        start = time.monotonic()
        limit = max(journal.pace.wait, patience)
        with self._changed:
            attempts = journal.attempts
            self._asked = True
            self._changed.notify_all()
            while not journal.empty:
                failed = journal.attempts > attempts
                if failed and (journal.lost or journal.error):
                    return False
                seconds_left = start + (patience if failed else limit) - time.monotonic()
                if seconds_left <= 0:
                    return False
                self._changed.wait(seconds_left)
        return True

    def _loop(self) -> None:
        """Deliver all journals again and again, at their shortest interval or when asked."""
        while True:
            with self._changed:
                soon = 1.0 if any(j.away for j in self._journals) else 3600.0
                pause = min([soon, *(j.pace.flush for j in self._journals)])
                self._changed.wait_for(lambda: self._asked, timeout=pause)
                self._asked = False
                journals = list(self._journals)
            for journal in journals:
                self._serve(journal)

    def _serve(self, journal: Journal) -> None:
        """Deliver one journal, and note whether the store answered."""
        try:
            journal.deliver()
            failure = None
        except Exception as error:  # the store is away, whatever it raised
            failure = error
            if is_full(error):
                journal.error, journal.cause = describe_error(error), error
            with contextlib.suppress(OSError):
                journal.spool.point()
        with self._changed:
            journal.away = failure is not None
            journal.attempts += journal.away
            if journal.removed and journal in self._journals:
                self._journals.remove(journal)
            self._changed.notify_all()


COURIER = Courier()
