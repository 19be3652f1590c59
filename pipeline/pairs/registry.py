"""The pairs that there are, by name; looking one up imports no framework."""

from __future__ import annotations

import importlib
import pkgutil

from pipeline.config.signatures import choose_option
from pipeline.pairs import builtin
from pipeline.pairs.pair import Pair


def list_pairs() -> list[str]:
    """Return the names of all pairs: the folders of `pipeline.pairs.builtin`."""
    return sorted(module.name for module in pkgutil.iter_modules(builtin.__path__) if module.ispkg)


def find_pair(name: str) -> Pair:
    """Return the pair of a name.

    Raises
    ------
    ConfigError
        If there is none, with the names of those that there are.
    """
    choose_option("model.name", name, dict.fromkeys(list_pairs()))
    package = importlib.import_module(f"{builtin.__name__}.{name}")
    files = {module.name for module in pkgutil.iter_modules(package.__path__)}
    spec = importlib.import_module(f"{package.__name__}.spec")
    return Pair(name, spec, tuple(sorted(files - {"spec"})))
