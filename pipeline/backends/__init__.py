"""The backends: each a package of its own, loaded by name at the last moment."""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np

from pipeline.backends.base import Backend
from pipeline.config.signatures import choose_option

_GPUS = Path("/proc/driver/nvidia/gpus")
_CPU = Path("/proc/cpuinfo")


def names() -> list[str]:
    """Return the names of all backends: the packages here."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


@functools.cache
def traits(name: str) -> dict[str, Any]:
    """Return a backend's constants (``LOOPS``, ``XLA``, ...) without loading its framework.

    So an impossible choice is refused within a moment.
    """
    choose_option("backend.name", name, dict.fromkeys(names()))
    module = importlib.import_module(f"{__name__}.{name}.traits")
    return {key: getattr(module, key) for key in Backend.__annotations__}


def load(name: str) -> Backend:
    """Import a backend, and with it its framework."""
    return cast(Backend, importlib.import_module(f"{__name__}.{name}.backend"))


def load_capability(name: str, capability: str) -> Any:
    """Import a module that some backends have beside what all have, such as ``edit``."""
    load(name)  # quiets its framework first
    return importlib.import_module(f"{__name__}.{name}.{capability}")


def environment(name: str, *, device: str) -> dict[str, str]:
    """Return what of this machine can change the bits of a backend's results.

    Without importing the framework, so that a job that was finished before is found at once.

    Parameters
    ----------
    device
        The setting ``backend.device``. For ``auto`` it is the NVIDIA device, if there is one and
        the framework is not a build for CPUs; what the framework then takes is in the record.

    Returns
    -------
    dict
        By name, the versions of the backend's packages and of NumPy, its flags that are set, what
        the CPU can do, and the device.
    """
    constants = traits(name)
    versions = {each: _version(each) for each in sorted({*constants["PACKAGES"], "numpy"})}
    flags = {flag: os.environ[flag] for flag in constants["FLAGS"] if flag in os.environ}
    frameworks = [versions[each] for each in constants["PACKAGES"] if each != "numpy"]
    able = any(frameworks) and not any("+cpu" in each or "-cpu" in each for each in frameworks)
    gpu = _gpu() if device == "cuda" or (device == "auto" and able) else ""
    usual = "cpu" if device == "auto" else device
    return {**versions, **flags, "cpu": _cpu(), "device": f"cuda:{gpu}" if gpu else usual}


def _version(package: str) -> str:
    """Return a package's version; of one that another distribution brings, that one's name too."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        others = sorted(set(metadata.packages_distributions().get(package, ())))
        return ", ".join(f"{other} {metadata.version(other)}" for other in others)


def _cpu() -> str:
    """Return what chooses kernels on a CPU: its architecture, its maker, and NumPy's features."""
    extensions = np.show_config(mode="dicts")["SIMD Extensions"]  # those that are there, not built
    maker = ""
    if _CPU.is_file():
        lines = (line.partition(":") for line in _CPU.read_text().splitlines())
        maker = next((value.strip() for key, _, value in lines if key.strip() == "vendor_id"), "")
    features = [
        *extensions.get("baseline", ()),
        *extensions.get("found", ()),
    ]  # an empty one is left out
    return " ".join([platform.machine(), maker, *features])


def _gpu() -> str:
    """Return the model of the first NVIDIA device that processes here may see; empty if none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if visible in ("", "-1"):
        return ""
    files = sorted(_GPUS.glob("*/information"))
    place = int(visible) if visible.isdigit() and int(visible) < len(files) else 0
    for line in files[place].read_text().splitlines() if files else ():
        key, _, value = line.partition(":")
        if key.strip() == "Model":
            return value.strip()
    return ""
