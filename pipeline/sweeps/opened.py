"""The sweep that this process has open, from its parent run's start until it is closed.

Hydra makes its callback itself and hands nothing on from there to the jobs, to a signal handler or
to the end of the command. So one name of this module leads to the open sweep; whoever needs more
than to find it is handed the sweep itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

if TYPE_CHECKING:
    from pipeline.sweeps.live.board import Board

PARENT = "TWINGRAD_PARENT"  # the environment variable that tells a job its parent's id
GRACE = 30.0  # seconds that jobs elsewhere have to save what they hold
RUNNING, JOBS = ".running", "jobs"  # the folder of jobs that run, and in it what each one tells


@dataclass
class OpenSweep:
    """What a sweep's main process remembers of it; jobs in other processes have none.

    Parameters
    ----------
    parent
        The tracked parent run.
    config
        The multirun's config, with the group `hydra`.
    title
        The parent run's name.
    jobs
        How many there will be; None in a search, which has no such number.
    board
        What is shown while it runs.
    deadline
        When jobs in other processes that were asked to stop are waited for no longer, in seconds of
        the monotonic clock.

    Attributes
    ----------
    folder
        The sweep's own folder.
    running
        The folder in it where each job that runs has a file; absolute.
    """

    parent: Any
    config: DictConfig
    title: str
    jobs: int | None
    board: Board | None = None
    deadline: float | None = None
    folder: Path = field(init=False)
    running: Path = field(init=False)

    def __post_init__(self) -> None:
        """Note where the sweep lies, before a job changes the working directory."""
        self.folder = Path(self.config.hydra.sweep.dir)
        self.running = self.folder.absolute() / RUNNING


_open: list[OpenSweep] = []  # one at most


def set_open_sweep(sweep: OpenSweep) -> None:
    """Make a sweep the one that this process has open."""
    _open[:] = [sweep]


def find_open_sweep() -> OpenSweep | None:
    """Return the sweep whose parent run this process opened and has not closed yet."""
    return _open[0] if _open else None


def forget_open_sweep() -> None:
    """Let this process have no sweep open any more."""
    _open.clear()
