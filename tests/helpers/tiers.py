"""Which cases `make test` takes, and which are left to `make test-long`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def tiered(cases: Iterable[Any], *, short: Callable[[int, Any], bool]) -> list[Any]:
    """Return pytest's parameters; those of which `short(number, case)` is false are long."""
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=() if short(number, case) else pytest.mark.long,
        )
        for number, case in enumerate(cases)
    ]
