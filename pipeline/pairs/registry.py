"""The pairs that there are, by name; looking one up imports no framework."""

from __future__ import annotations

import importlib
import pkgutil

from pipeline.config.signatures import choose_option
from pipeline.pairs import builtin
from pipeline.pairs.pair import Pair

FOREIGN = "own"  # the name of pairs that are not ours


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
    choose_option("model.name", name, dict.fromkeys([*list_pairs(), FOREIGN]))
    parent = "pipeline.pairs" if name == FOREIGN else builtin.__name__
    package = importlib.import_module(f"{parent}.{name}")
    if name == FOREIGN:
        spec = importlib.import_module(f"{package.__name__}.spec")
        return Pair(name, package.__name__, spec, ("tensorflow", "torch"))
    files = {module.name for module in pkgutil.iter_modules(package.__path__)}
    spec = importlib.import_module(f"{package.__name__}.spec")
    return Pair(name, package.__name__, spec, tuple(sorted(files - {"spec"})))
