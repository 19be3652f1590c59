"""The files that stand alone are what their script writes, and compute what the program does."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import call, environment
from tiers import tiered

from pipeline.record.record import RunRecord

DOCS = Path(__file__).parents[2] / "docs"
FRAMEWORKS = ("torch", "tensorflow")


def text_of(framework):
    return (DOCS / f"loop_{framework}.py").read_text()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_file_is_not_stale(script, framework):
    assert text_of(framework) == script("loops").page(framework), "run: make docs"


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_file_stands_alone(framework):
    nodes = list(ast.walk(ast.parse(text_of(framework))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    own = {"torch": {"torch"}, "tensorflow": {"tensorflow", "keras"}}[framework]
    assert names == {"hashlib", "sys", "functools", "types", "numpy", *own}


def test_both_files_have_the_same_order():
    tops = []
    for framework in FRAMEWORKS:
        body = ast.parse(text_of(framework)).body
        tops.append([n.name for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)])
    assert tops[0] == tops[1]


@pytest.mark.parametrize(
    "framework", tiered(FRAMEWORKS, short=lambda _, framework: framework == "torch")
)
def test_every_step_is_the_programs_to_the_bit(framework, tmp_path):
    done = subprocess.run(
        [sys.executable, "-I", str(DOCS / f"loop_{framework}.py"), "path.npz"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    program = call(
        "experiment=article", f"backend={framework}", "tracking.model=false", "hydra.run.dir=run",
        "stages=[generate,train]", cwd=tmp_path,
    )  # fmt: skip
    assert program.returncode == 0, program.stderr
    record = RunRecord.load(tmp_path / "run" / "record")
    assert record.backend == framework
    assert record.steps == 500
    with np.load(tmp_path / "path.npz") as alone:
        assert set(alone.files) == {"loss", "w", "b"}
        for key, name in (("loss", "loss"), ("w", "param/w"), ("b", "param/b")):
            assert alone[key].dtype == record.arrays[name].dtype == np.float32
            np.testing.assert_array_equal(alone[key], record.arrays[name])
    printed = re.findall(
        r"^epoch +(\d+)  loss ([\d.]+)  w ([\d.]+)  b ([\d.]+)$", done.stdout, re.M
    )
    assert [int(epoch) for epoch, *_ in printed] == list(range(20, 501, 20))
    last = [record.arrays[name][-1] for name in ("loss", "param/w", "param/b")]
    assert printed[-1][1:] == tuple(f"{value:.6f}" for value in last)
    rows = re.findall(r"^\| .* \| ([-\d.]+) \|$", scratch_table(), re.M)
    loss = record.arrays["loss"]
    assert rows == [f"{value:.4f}" for value in (loss[0], loss[479], *last)]


def scratch_table():
    """The table of the article's page that has the from-scratch models."""
    page = (DOCS / "article.md").read_text()
    return page[page.index("## Update by hand") : page.index("## The question")]
