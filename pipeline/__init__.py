"""Twingrad: the same model trained in PyTorch and in TensorFlow, compared step by step.

``from pipeline import run, compare`` has the library's face, `pipeline.api`; importing the package
itself imports nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api import ComparisonResult, RunResult, compare, run
    from pipeline.config.types import ConfigError

__version__ = "0.1.0"
__all__ = ["ComparisonResult", "ConfigError", "RunResult", "compare", "run"]


def __getattr__(name: str) -> Any:
    """Return a name of `__all__`; its module is imported only when the name is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = "pipeline.config.types" if name == "ConfigError" else "pipeline.api"
    return getattr(import_module(home), name)
