"""The README's commands: every override in them is one that the program knows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from pipeline.config.compose import compose_values

README = (Path(__file__).parents[2] / "README.md").read_text()
# What Hydra itself reads, or is no override at all.
_OTHERS = ("hydra", "-", "tags.", "sweep=", "SWEEP=", "PORT=", "ARGS=", "JOBS=", "PAIR=", "MLFLOW")
# Shortened, with a place to fill in, a folder that the reader makes, or a search in MLflow.
_NO_COMMAND = re.compile(r"…|<|-cd|^eval|^tags\.")


def commands() -> list[str]:
    """Every line of a block, and every piece of code in a table, that has an override."""
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.S)
    lines = [line.split("#")[0] for block in blocks for line in block.splitlines()]
    rows = [line for line in README.splitlines() if line.startswith("|")]
    lines += [piece for row in rows for piece in re.findall(r"`([^`]+)`", row)]
    return [line for line in dict.fromkeys(lines) if "=" in line and not _NO_COMMAND.search(line)]


def overrides(command: str) -> list[str]:
    """The overrides of a command that its jobs have, of several values the first."""
    words = [word for word in shlex.split(command.split(";")[0]) if "=" in word]
    words = [word for word in words if not word.startswith(_OTHERS)]
    first = []
    for word in OverridesParser.create().parse_overrides(words):
        if word.is_discrete_sweep():
            value = next(iter(word.sweep_string_iterator()))
        elif word.is_sweep_override():
            value = str(word.value().start)
        else:
            value = word.get_value_element_as_str()
        first.append(f"{word.get_key_element()}={value}")
    return first


@pytest.mark.parametrize("command", commands())
def test_every_override_is_known(command):
    words = overrides(command)
    if any(word.startswith("data.source") for word in words):
        words = ["data=file", "data.path=a.npy", "data.features=[a]", "data.target=[b]", *words]
    compose_values(words)


def test_the_commands_are_found():
    assert len(commands()) > 40
    assert any("optimizer.lr" in word for command in commands() for word in overrides(command))
