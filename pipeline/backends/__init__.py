"""The backends: each a module of its own, loaded by name at the last moment."""

from __future__ import annotations

import ast
import functools
import importlib
from pathlib import Path
from typing import Any, cast

from pipeline import config
from pipeline.backends.base import Backend


def names() -> list[str]:
    """Return the names of all backends: the modules here beside the protocol."""
    found = {path.stem for path in Path(__file__).parent.glob("*.py")}
    return sorted(found - {"__init__", "base"})


@functools.cache
def traits(name: str) -> dict[str, Any]:
    """Read a backend's constants (``LOOPS``, ``XLA``, ...) from its source, without importing it.

    So an impossible choice is refused within a moment and before a framework is loaded.
    """
    config.choose("backend.name", name, dict.fromkeys(names()))
    tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text())
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name) and target.id in Backend.__annotations__:
                found[target.id] = ast.literal_eval(node.value)
    return found


def load(name: str) -> Backend:
    """Import a backend, and with it its framework."""
    return cast(Backend, importlib.import_module(f"{__name__}.{name}"))
