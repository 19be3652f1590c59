"""Which tensors count of what a model returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def list_outputs(result: Any, kind: type) -> list[Any]:
    """Return the tensors of a result: itself, or those of a mapping by key or of a sequence.

    Empty where there is none, or something besides tensors and None.
    """
    if isinstance(result, kind):
        return [result]
    if isinstance(result, Mapping):
        values = [result[key] for key in sorted(result)]
    else:
        values = list(result) if isinstance(result, tuple | list) else [result]
    there = [value for value in values if value is not None]
    return there if all(isinstance(value, kind) for value in there) else []
