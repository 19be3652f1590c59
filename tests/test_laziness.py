"""What an import loads, each seen in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment
from tiers import tiered

import pipeline
from pipeline import backends
from pipeline.pairs.registry import find_pair, list_pairs

ROOT = Path(pipeline.__file__).parent
FRAMEWORKS = {"torch": {"torch"}, "tensorflow": {"tensorflow", "keras"}}
HEAVY = {"torch", "tensorflow", "keras", "mlflow", "matplotlib"}
OWN = {"pipeline.tracking": {"mlflow"}, "pipeline.figures": {"matplotlib"}}
ABOVE = (
    *OWN,
    "pipeline.report",
    "pipeline.stages",
    "pipeline.sweeps",
)  # layers on top of those two

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


EFFECTS = """
import importlib, json, logging, multiprocessing, os, signal, sys, warnings
def state():
    return {
        "environment": dict(os.environ),
        "signals": {s.name: repr(signal.getsignal(s)) for s in signal.valid_signals()
                    if isinstance(s, signal.Signals)},
        "loggers": [logging.getLogger(n).level for n in ("", "mlflow", "urllib3", "alembic")],
        "handlers": len(logging.getLogger().handlers),
        "start": multiprocessing.get_start_method(allow_none=True),
        "folder": os.getcwd(), "umask": os.umask(os.umask(0)), "hook": repr(sys.excepthook),
        "store": "__deepcopy__" in vars(importlib.import_module("hydra.core.config_store").ConfigStore),
        "sweeper": repr(importlib.import_module("hydra.plugins.sweeper").Sweeper
                        .validate_batch_is_legal),
    }
for name in sys.argv[1].split(","):
    importlib.import_module(name)  # theirs, which set what they like
before = state()
for name in sys.argv[2:]:
    importlib.import_module(name)
after = state()
print(json.dumps({key: [before[key], after[key]] for key in before if before[key] != after[key]}))
"""


@pytest.mark.parametrize(
    "framework", ["torch", pytest.param("tensorflow", marks=pytest.mark.long), "none"]
)
def test_importing_changes_nothing_in_the_process(framework):
    """No environment, signals, logging, start method or class of another's, in any module."""
    theirs = ["mlflow", "matplotlib.figure", "sqlalchemy", "threadpoolctl"]
    names = framework_free()
    if framework != "none":
        theirs.append({"tensorflow": "keras"}.get(framework, framework))
        package = ROOT / "backends" / framework
        names = [f"pipeline.backends.{framework}.{path.stem}" for path in package.glob("*.py")]
        names += [f"pipeline.pairs.builtin.{m}.{framework}" for m in list_pairs()]
        theirs += ["tensorflow"] * (framework == "tensorflow")
    done = subprocess.run(
        [sys.executable, "-c", EFFECTS, ",".join(theirs), *sorted(names)],
        cwd=ROOT.parent, capture_output=True, text=True, check=False, timeout=120,
        env=environment(TF_CPP_MIN_LOG_LEVEL="3"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {}


@pytest.mark.parametrize("name", [name for name in OWN if name in framework_free()])
def test_tracking_and_plots_load_what_is_theirs_alone(name):
    assert loaded_after(name)[name] <= OWN[name]


@pytest.mark.parametrize(
    "backend", tiered(backends.names(), short=lambda _, name: name != "tensorflow")
)
def test_a_backend_and_its_twins_load_no_other_framework(backend):
    twins = [f"pipeline.pairs.builtin.{m}.{backend}" for m in list_pairs()
             if backend in find_pair(m).backends]  # fmt: skip
    *_, loaded = loaded_after(*twins, f"pipeline.backends.{backend}.backend").values()
    loaded &= {"torch", "tensorflow", "keras"}  # Keras itself loads matplotlib where it is there
    assert loaded == FRAMEWORKS.get(backend, set())
