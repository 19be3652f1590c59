"""The launchers: what joblib and Ray need before they start, and how their workers end."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.config.types import ConfigError


def ready_launcher(config: DictConfig) -> None:
    """Give the launcher what this program needs of it, where the user said nothing."""
    launcher = config.hydra.launcher
    if launcher._target_.endswith(".JoblibLauncher"):
        if launcher.n_jobs == 0:
            allowed = "must be a number of processes, or -1 for one a core"
            raise ConfigError("hydra.launcher.n_jobs", 0, allowed)
        _check_joblib(launcher)
        path = f"{__name__}.{leave_interrupts_to_main.__name__}"
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


def leave_interrupts_to_main() -> None:
    """Ignore Ctrl-C in a joblib worker, which gets it as well: the main process stops its job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
