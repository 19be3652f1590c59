"""Making the model in PyTorch: settings of the process, first values, reading back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.backends.torch.variables import (
    find_variables,
    load_values,
)
from pipeline.config.types import ConfigError
from pipeline.pairs.arrange import to_neutral
from pipeline.pairs.pair import Side


def configure(*, threads: int, deterministic: bool, device: str, dtype: str, seed: int) -> str:
    """Set everything global, and return the device that ``auto`` means here."""
    available = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and available != "cuda":
        raise ConfigError("backend.device", device, "PyTorch sees no CUDA device; use cpu or auto")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    # Not `use_deterministic_algorithms`: it imports the compiler, a second, also for eager runs.
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.set_default_dtype(getattr(torch, dtype))
    torch.manual_seed(seed)
    return available if device == "auto" else device


def build(
    twin: Side,
    *,
    values: Mapping[str, np.ndarray] | None,
    inputs: tuple[int, ...],
    outputs: int,
    settings: Mapping[str, Any],
    device: str,
    dtype: str,
) -> nn.Module:
    """Make the model and load neutral first values; None keeps the framework's own draw."""
    model = twin.model(inputs=inputs, outputs=outputs, **settings).to(device)
    placed = find_variables(model, twin)
    if values is not None:
        load_values(placed, values)
    return model


def read(model: nn.Module, twin: Side) -> dict[str, np.ndarray]:
    """Return the parameters by neutral name, in the neutral layout and native precision."""
    return {
        name: to_neutral(place.axes, place.tensor.detach().cpu().numpy().copy())
        for name, place in find_variables(model, twin).items()
    }


def write(model: nn.Module, twin: Side, values: Mapping[str, np.ndarray]) -> None:
    """Put neutral values into the parameters, in the model's own precision."""
    load_values(find_variables(model, twin), values)


def versions() -> dict[str, str]:
    """Return versions and flags that can change the bits of a result."""
    return {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "onednn": str(torch.backends.mkldnn.is_available()),
        "mkl": str(torch.backends.mkl.is_available()),
        "cuda": str(torch.version.cuda),
    }
