"""The launchers: what joblib and Ray need before they start, and how their workers end."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.config.types import ConfigError
from pipeline.sweeps.opened import GRACE


def ready_launcher(config: DictConfig) -> None:
    """Give the launcher what this program needs of it, where the user said nothing."""
    launcher = config.hydra.launcher
    if launcher._target_.endswith(".JoblibLauncher"):
        if launcher.n_jobs == 0:
            allowed = "must be a number of processes, or -1 for one a core"
            raise ConfigError("hydra.launcher.n_jobs", 0, allowed)
        _check_joblib(launcher)
        path = f"{__name__}.{prepare_worker.__name__}"
        quiet = {"_target_": "hydra.utils.get_method", "path": path}
        settings: Any = OmegaConf.to_container(launcher)  # whose own schema has no such key
        config.hydra.launcher = {**settings, "initializer": quiet}
    elif launcher._target_.endswith(".RayLauncher"):
        launcher.ray.remote.setdefault("max_retries", 0)
        _start_ray(config)


def _check_joblib(launcher: DictConfig) -> None:
    """Refuse what joblib itself refuses, before a parent run is opened."""
    from joblib import Parallel

    settings: Any = OmegaConf.to_container(launcher, resolve=True)
    try:
        Parallel(**{key: value for key, value in settings.items() if key != "_target_"})
    except (ValueError, TypeError) as error:
        raise ConfigError("hydra.launcher", "joblib", str(error)) from None


def prepare_worker() -> None:
    """Let a joblib worker leave Ctrl-C to the main process, and end once that is gone.

    A terminal sends Ctrl-C to the workers as well; the main process stops their jobs. One that is
    killed cannot do so.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: a job has time to save, an idle one ends at once.

    SIGTERM is what stops a job (`workers.in_worker`), is ignored while it saves, and ends a process
    that has no job.
    """
    while os.getppid() == parent:
        time.sleep(0.5)
    until = time.monotonic() + GRACE
    while time.monotonic() < until:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        time.sleep(0.5)
    os._exit(1)


def _start_ray(config: DictConfig) -> None:
    """Start Ray here, or reach a cluster; the launcher then uses what is there.

    Started by the launcher itself it would take over this process's signals, could fail after the
    parent was opened, and would be given a memory size that a cluster refuses.
    """
    given: Any = OmegaConf.to_container(config.hydra.launcher.ray.init, resolve=True)
    address = given.get("address") or os.environ.get("RAY_ADDRESS") or "local"
    key = "hydra.launcher.ray.init.address"
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise ConfigError(key, address, f"does not answer ({type(error).__name__})") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    import ray

    usual: dict[str, Any] = {"logging_level": "error"}
    if address == "local":
        usual |= {"include_dashboard": False, "object_store_memory": 80_000_000}
    else:  # workers elsewhere have other working directories
        config.hydra.sweep.dir = str(Path(config.hydra.sweep.dir).absolute())
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(**usual | given | {"address": address})
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise ConfigError(key, address, f"Ray: {error}") from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def count_workers(config: DictConfig) -> int:
    """Return how many jobs the launcher runs at once."""
    target = config.hydra.launcher._target_
    if target.endswith(".JoblibLauncher"):
        from joblib import effective_n_jobs

        return int(effective_n_jobs(config.hydra.launcher.n_jobs))
    if target.endswith(".RayLauncher"):
        import ray

        return int(ray.cluster_resources().get("CPU", 1))
    return 1


def end_workers() -> None:
    """End the worker processes of joblib and of a Ray that was started or reached here."""
    loky = sys.modules.get("joblib.externals.loky.reusable_executor")
    executor = getattr(loky, "_executor", None)
    if executor is not None:
        executor.shutdown(wait=True, kill_workers=True)
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()
