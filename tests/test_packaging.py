"""What pyproject.toml promises is what the tests run with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_no_older_version_is_promised_than_was_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().split()
    tested = dict(line.lower().replace("_", "-").split("==") for line in lines)
    needed = list(project["dependencies"])
    for group in project["optional-dependencies"].values():
        needed += group
    bounds = dict(
        re.match(r"([a-z0-9-]+)>=([0-9.]+)", need.lower()).groups()
        for need in needed
        if not need.startswith("twingrad[")
    )
    assert len(bounds) == len(needed) - 1
    for name, bound in bounds.items():
        assert f"{tested[name]}.".startswith(f"{bound}."), name
