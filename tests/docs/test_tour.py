"""The notebook is what its script writes: the cells, and what they print when they are run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.long
def test_the_cells_print_what_the_notebook_shows(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tour = script("tour")
    assert (DOCS / "tour.ipynb").read_text() == tour.notebook(tour.run_cells()), "run: make docs"
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}


def test_it_is_a_notebook():
    page = json.loads((DOCS / "tour.ipynb").read_text())
    assert (page["nbformat"], page["nbformat_minor"]) == (4, 5)
    assert {"kernelspec", "language_info"} <= set(page["metadata"])
    assert len({cell["id"] for cell in page["cells"]}) == len(page["cells"])
    for number, cell in enumerate((c for c in page["cells"] if c["cell_type"] == "code"), start=1):
        assert cell["execution_count"] == number
        compile("".join(cell["source"]), "cell", "exec")
        assert {out["output_type"] for out in cell["outputs"]} == {"stream"}
