"""The page's own blocks, applied to a copy of the project, are trained with and judged."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCK = re.compile(
    r"```(?:python|yaml)\n# ([\w./]+?)(?:, below: ([^\n]+))?\n(.*?)^```", re.S | re.M
)
QUICK = ("tracking.model=false", "tracking.figures=[png]")
TRAIN = """
import sys
from pipeline import compare, run

for words in sys.argv[1:]:
    names, *overrides = words.split()
    a, b = (run(*overrides, f"backend={name}") for name in names.split(","))
    result = compare(a, b)
    print(words, result.verdict, *result.notes, sep="|")
    assert result.verdict == "PASS", result.finding
"""
RUNS = {
    "data set": "torch,tensorflow data=spiral data.n=64 data.n_val=0 data.n_test=20 model=mlp "
    "loss=cross_entropy train.epochs=2 optimizer=lion",
    "model, loss": "torch,tensorflow data=sine data.n=64 model=wave loss=log_cosh train.epochs=2",
    "backend": "torch,mirror data.n=20 train.epochs=2",
}
# What runs over all options by itself, of what was added.
FILES = (
    "config/test_schema.py",
    "test_optimizers.py",
    "test_losses.py",
    "backends/test_contract.py",
)
ADDED = "spiral or lions or (lion and not pytorchs) or log_cosh or wave or mirror"


def blocks():
    return [(path, after, body) for path, after, body in BLOCK.findall(PAGE)]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the project with all that the page adds."""
    folder = tmp_path_factory.mktemp("extended")
    for part in ("pipeline", "conf", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for path, after, body in blocks():
        file = folder / path
        file.parent.mkdir(exist_ok=True)
        text = file.read_text() if file.exists() else ""
        if after:
            lines = text.splitlines(keepends=True)
            (at,) = (i for i, line in enumerate(lines) if line.strip() == after)
            file.write_text("".join([*lines[: at + 1], body, *lines[at + 1 :]]))
        else:
            file.write_text(f"{text}\n\n{body}" if text else body)
    return folder


def in_copy(copy, *command):
    done = subprocess.run(
        [sys.executable, *command], cwd=copy, capture_output=True, text=True,
        env=environment(PYTHONPATH=str(copy), TF_CPP_MIN_LOG_LEVEL="3"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_every_block_says_where_it_belongs():
    code = re.findall(r"```(?:python|yaml)\n(.*)", PAGE)
    assert len(code) == len(blocks())
    assert all(re.match(r"# (pipeline|conf|tests)/", first) for first in code)


@pytest.mark.long
def test_what_the_page_adds_trains_and_passes(copy):
    told = in_copy(copy, "-c", TRAIN, *(" ".join((r, *QUICK)) for r in RUNS.values()))
    assert told.count("|PASS|") + told.count("|PASS\n") == len(RUNS)


@pytest.mark.long
def test_the_tests_of_all_options_take_it_up(copy):
    files = [f"tests/{name}" for name in FILES]
    out = in_copy(copy, "-m", "pytest", "-vv", "-p", "no:cacheprovider", *files, "-k", ADDED)
    for name in ("spiral", "lion", "log_cosh", "wave", "mirror"):
        assert re.search(rf"\b{name}\b.* PASSED", out), name


def test_the_page_names_tests_that_are_there():
    for path in set(re.findall(r"`(tests/[\w/]+?\.py)`", PAGE)):
        assert os.path.exists(ROOT / path), path
