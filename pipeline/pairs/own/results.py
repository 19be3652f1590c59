"""Which tensor counts of what a model returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEYS = ("logits", "last_hidden_state")


def choose_output(result: Any, kind: type) -> Any:
    """Return the one tensor of a result; None where there is none, or more than one to choose from.

    Of a mapping the first of `KEYS` that it has; of a tuple or list the only item.
    """
    if isinstance(result, kind):
        return result
    if isinstance(result, Mapping):
        named = next((result[key] for key in KEYS if key in result), None)
        values = [named] if named is not None else [*result.values()]
    else:
        values = list(result) if isinstance(result, tuple | list) else []
    return values[0] if len(values) == 1 and isinstance(values[0], kind) else None
