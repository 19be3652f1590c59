"""Making the model in NumPy: settings of the process, first values, reading back."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline.backends.numpy.variables import find_variables
from pipeline.config.types import ConfigError
from pipeline.pairs.arrange import to_framework, to_neutral
from pipeline.pairs.pair import Side


def configure(*, threads: int, deterministic: bool, device: str, dtype: str, seed: int) -> str:
    """Set everything global, and return the device that ``auto`` means here."""
    if device == "cuda":
        raise ConfigError("backend.device", device, "NumPy has no CUDA device; use cpu or auto")
    threadpool_limits(limits=threads)
    return "cpu"


def build(
    twin: Side,
    *,
    values: Mapping[str, np.ndarray] | None,
    inputs: tuple[int, ...],
    outputs: int,
    settings: Mapping[str, Any],
    device: str,
    dtype: str,
) -> Any:
    """Make the model and load neutral first values; None keeps the framework's own draw."""
    if values is None:
        raise ConfigError("model.init", "framework", "NumPy has no draw of its own; use shared")
    model = twin.model(inputs=inputs, outputs=outputs, **settings)
    placed = find_variables(model, twin)
    arranged = to_framework(placed, values, [place.tensor.shape for place in placed.values()])
    model.p = {n: v.astype(dtype) for n, v in zip(placed, arranged, strict=True)}
    return model


def read(model: Any, twin: Side) -> dict[str, np.ndarray]:
    """Return the parameters by neutral name, in the neutral layout and native precision."""
    return {
        name: to_neutral(place.axes, place.tensor.copy())
        for name, place in find_variables(model, twin).items()
    }


def write(model: Any, twin: Side, values: Mapping[str, np.ndarray]) -> None:
    """Put neutral values into the parameters, in the model's own precision."""
    for name, place in find_variables(model, twin).items():
        place.tensor[...] = values[name]


def versions() -> dict[str, str]:
    """Return versions and flags that can change the bits of a result."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "numpy": np.__version__,
        "blas": f"{blas['name']} {blas['version']}",
        "longdouble": str(np.finfo(np.longdouble).nmant + 1) + " bits",
        "cpu": platform.machine(),
    }
