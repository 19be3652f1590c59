from __future__ import annotations

import pairs
import pytest


@pytest.fixture(scope="session")
def parity():
    return pairs
