"""``docs/pairs.md`` is what its source makes of the twins."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pipeline.pairs.registry import list_pairs

DOCS = Path(__file__).parents[2] / "docs"
_spec = importlib.util.spec_from_file_location("pairs_page", DOCS / "pairs.py")
pairs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pairs)


def test_the_page_is_not_stale():
    assert (DOCS / "pairs.md").read_text() == pairs.page(), "run: make docs"


def test_every_pair_is_there_whole():
    page = (DOCS / "pairs.md").read_text()
    for name in list_pairs():
        assert f"## {name}\n" in page
        for side in ("torch", "tensorflow"):
            source = (
                DOCS.parent / "pipeline" / "pairs" / "builtin" / name / f"{side}.py"
            ).read_text()
            assert source[source.index("def name_map") :].strip() in page
