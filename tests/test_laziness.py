"""What an import loads, each seen in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline import backends
from pipeline.pairs.registry import find_pair, list_pairs

ROOT = Path(pipeline.__file__).parent
FRAMEWORKS = {"torch": {"torch"}, "tensorflow": {"tensorflow", "keras"}}
HEAVY = {"torch", "tensorflow", "keras", "mlflow", "matplotlib"}
OWN = {"pipeline.tracking": {"mlflow"}, "pipeline.figures": {"matplotlib"}}
ABOVE = (*OWN, "pipeline.report", "pipeline.stages", "pipeline.sweep")  # layers on top of those two

PROGRAM = """
import importlib, sys
for name in sys.argv[2:]:
    importlib.import_module(name)
    print(name, *sorted(set(sys.argv[1].split(",")) & set(sys.modules)))
"""


def loaded_after(*modules: str) -> dict[str, set[str]]:
    """Import the modules one after another; return what heavy ones were there after each."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(sorted(HEAVY)), *modules],
        cwd=ROOT.parent, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {line.split()[0]: set(line.split()[1:]) for line in done.stdout.splitlines()}


def framework_free() -> list[str]:
    """All modules but the twins and the backends' own files."""
    names = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        own = (
            parts[-1] in FRAMEWORKS
            if parts[0] == "pairs"
            else parts[0] == "backends"
            and (
                len(parts) == 3
                and parts[1] in FRAMEWORKS
                and parts[2] not in {"__init__", "traits"}
            )
        )
        if own:
            continue
        names.append(".".join(("pipeline", *parts)).removesuffix(".__init__"))
    return names


def test_modules_without_a_framework_load_none():
    """The command and the core load nothing heavy; what stands on tracking and plots comes after."""
    names = framework_free()
    assert {
        "pipeline.config",
        "pipeline.backends.base",
        "pipeline.pairs.builtin.linear.spec",
    } <= set(names)
    order = sorted(names, key=lambda name: name.startswith(ABOVE))
    loaded = loaded_after(*order)
    assert list(loaded) == order
    for name, found in loaded.items():
        assert found <= ({"mlflow", "matplotlib"} if name.startswith(ABOVE) else set()), name


@pytest.mark.parametrize("name", [name for name in OWN if name in framework_free()])
def test_tracking_and_plots_load_what_is_theirs_alone(name):
    assert loaded_after(name)[name] <= OWN[name]


@pytest.mark.parametrize("backend", backends.names())
def test_a_backend_and_its_twins_load_no_other_framework(backend):
    twins = [f"pipeline.pairs.builtin.{m}.{backend}" for m in list_pairs()
             if backend in find_pair(m).backends]  # fmt: skip
    *_, loaded = loaded_after(*twins, f"pipeline.backends.{backend}.backend").values()
    loaded &= {"torch", "tensorflow", "keras"}  # Keras itself loads matplotlib where it is there
    assert loaded == FRAMEWORKS.get(backend, set())
