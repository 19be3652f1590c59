"""What the written pages say of the code is what the code says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from pipeline.backends import names
from pipeline.parity.verdict import KINDS, RUNGS, WORST

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def test_the_layers_are_those_that_are_checked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = (c for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    wanted = [set(re.findall(r"pipeline\.(\w+)", layer)) for layer in contract["layers"]]
    page = (DOCS / "architecture.md").read_text()
    rows = re.findall(r"^\| (`.*?`) \|", page[page.index("| layer |") :], re.M)
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == wanted


def test_every_room_is_a_layer():
    layers = (DOCS / "architecture.md").read_text()
    for path in (ROOT / "pipeline").iterdir():
        if not path.name.startswith("__"):
            assert f"`{path.stem}`" in layers, path.name


def test_the_glossary_is_sorted_and_complete():
    text = (DOCS / "glossary.md").read_text()
    words = re.findall(r"^\*\*(.+?)\*\*: ", text, re.M)
    assert words == sorted(words)
    flat = " ".join(text.split())
    assert f"What sort of fault a FAIL is: {said(KINDS[:-1])}, or `{KINDS[-1]}`" in flat
    assert f"One question of the ladder: {', '.join(RUNGS[:-1])} or {RUNGS[-1]}." in flat
    assert all(verdict in text for verdict in WORST)
    assert all(f"`{name}`" in text for name in names())


def said(kinds):
    *first, last = (f"`{kind}`" for kind in kinds)
    return f"{', '.join(first)} or {last}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", prose):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target
