"""What a job of a sweep tells of itself while it runs: one small file."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.config.types import ConfigError
from pipeline.redact import redact

Progress = Callable[[int], contextlib.AbstractContextManager[Callable[..., None]]]

PAUSE = 0.5  # seconds between two words of a job, and between two looks at them


class Job:
    """What one job tells of itself; a copy of it works in another process, too.

    Parameters
    ----------
    folder
        Where the jobs of the sweep leave their files.
    lines
        Whether it also prints how far training is.
    """

    def __init__(self, folder: Path, *, number: int, name: str, lines: bool) -> None:
        """Describe a job by its `number` and `name` in the sweep; nothing is written yet."""
        self._file = folder / f"{number}.json"
        self._lines = lines
        self._about: dict[str, Any] = {
            "name": name, "state": "running", "host": socket.gethostname(), "pid": os.getpid(),
            "start": time.time(), "end": None, "step": 0, "total": 0, "loss": None, "note": "",
        }  # fmt: skip

    def _tell(self, **news: Any) -> None:
        """Write the job's file anew with the news in it; an error of the disk is ignored."""
        self._about |= news
        with contextlib.suppress(OSError):  # a full disk is told of by what matters
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps(self._about))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Tell that the job runs, and then how it ended."""
        self._tell()
        state, why = "failed", {}
        try:
            yield
            state = "done"
        except Exception as error:
            why = {"note": redact(_describe_failure(error))}
            raise
        except KeyboardInterrupt:
            state = "stopped"
            raise
        finally:
            with contextlib.suppress(OSError, ValueError):  # what a process of its own told
                self._about |= json.loads(self._file.read_text())
            self._tell(state=state, end=time.time(), **why)

    def note(self, text: str) -> None:
        """Say why there was nothing to do."""
        self._tell(note=text)

    @contextlib.contextmanager
    def progress(self, steps: int) -> Iterator[Callable[..., None]]:
        """Take what a training of so many steps tells, and write it down now and then."""
        from pipeline import terminal

        due = 0.0
        last: tuple[int, float | None] = (0, None)
        printed = terminal.progress(steps) if self._lines else contextlib.nullcontext(None)
        with printed as line:

            def tell_step(step: int, loss: float, score: tuple[str, float] | None = None) -> None:
                nonlocal due, last
                last = step, float(loss)
                if line is not None:
                    line(step, loss, score)
                now = time.monotonic()
                if now >= due:
                    due = now + PAUSE
                    self._tell(step=step, loss=last[1])

            self._tell(total=steps)
            try:
                yield tell_step
            finally:
                self._tell(step=last[0], loss=last[1])


def _describe_failure(error: Exception) -> str:
    """Return in one line why a job failed: its message, with the kind of what nobody foresaw."""
    text = " ".join(str(error).split())
    foreseen = isinstance(error, ConfigError | ArithmeticError | RuntimeError)
    return text if foreseen and text else f"{type(error).__name__}: {text}"
