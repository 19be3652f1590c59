"""``docs/api.md`` is what its script makes of the docstrings, and misses no public name."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pipeline
from pipeline.config.signatures import list_functions

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_not_stale(script):
    assert (DOCS / "api.md").read_text() == script("api").page(), "run: make docs"


def test_every_name_can_be_imported_from_where_the_page_says():
    sections = re.split(r"^## ", (DOCS / "api.md").read_text(), flags=re.M)[1:]
    assert len(sections) == 9
    for section in sections:
        module = importlib.import_module(re.search(r"^`([\w.]+)`$", section, re.M)[1])
        names = re.findall(r"^### (\w+)$", section, re.M)
        assert names
        for name in names:
            assert callable(getattr(module, name))
            assert f"```python\n{name}(" in section


def test_the_library_and_the_groups_that_grow_are_whole(script):
    page = (DOCS / "api.md").read_text()
    names = set(re.findall(r"^### (\w+)$", page, re.M))
    assert set(pipeline.__all__) <= names
    for module in ("optimizers", "losses", "schedules"):
        assert set(list_functions(importlib.import_module(f"pipeline.{module}"))) <= names


def test_docstrings_become_lists_and_code(script):
    api = script("api")
    source = (
        'def f(a, *b: int, c: str = "x=y") -> None:\n'
        '    """Do ``this``.\n\n    Parameters\n    ----------\n    a, *b\n'
        '        What\n        it takes.\n\n    Returns\n    -------\n    int\n        It.\n    """\n'
    )
    (node,) = api.ast.parse(source).body
    assert api.prose(node) == (
        "Do `this`.\n\n**Parameters**\n\n- `a`, `*b`: What\n  it takes.\n\n**Returns**\n\n- `int`: It."
    )
    assert api.signature(node) == "f(a, *b: int, c: str = 'x=y') -> None"
