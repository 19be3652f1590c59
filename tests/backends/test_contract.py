"""Every backend is the Protocol, name for name, without importing it where that is promised."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import yaml

from pipeline import backends, losses, optimizers
from pipeline.backends.base import Backend
from pipeline.config import schema
from pipeline.config.signatures import list_functions
from pipeline.config.types import ConfigError
from pipeline.pairs.registry import list_pairs

NAMES = backends.names()
CONF = Path(__file__).parents[2] / "conf" / "backend"
CONSTANTS = {"LOOPS": tuple, "DTYPES": tuple, "EXECUTIONS": tuple, "INITS": tuple, "XLA": bool,
             "ONCE": tuple, "PACKAGES": tuple, "FLAGS": tuple, "FLAVOR": str, "INEXACT": dict,
             "COARSE": dict, "NATIVE": tuple}  # fmt: skip
FUNCTIONS = sorted(name for name, value in vars(Backend).items()
                   if inspect.isfunction(value) and not name.startswith("_"))  # fmt: skip


OWN = ("Any", "Model")  # the Protocol's words for a type that each framework has of its own


def shape_of(function, *, bound, wanted):
    """Names, kinds, defaults and types, but for those of which each framework has its own."""
    parameters = list(inspect.signature(function).parameters.values())[bound:]
    own = {p.name for p in inspect.signature(wanted).parameters.values() if p.annotation in OWN}
    return [(p.name, p.kind, p.default, None if p.name in own else p.annotation)
            for p in parameters]  # fmt: skip


# What only one framework needs: a start without noise, Keras's fit and its one batch, Keras's slots
# (it keeps the rate inside the velocity), devices by name, its saved settings; PyTorch's copies, a
# batch norm with Keras's statistics; a gelu that is not rounded.
ALONE = {"open_slots", "name_device", "get_config", "_gelu", "make_copier", "BatchNorm",
         "follow_path", "handle_of"}  # fmt: skip
PACKAGE = Path(backends.__file__).parents[1]
TWINS = [*(f"pairs/builtin/{name}/{{}}.py" for name in list_pairs()),
         *(f"backends/{{}}/{name}.py" for name in ("build", "loop", "native", "show", "step",
                                                   "tensors", "variables"))]  # fmt: skip


def outline(path):
    """Names of functions and methods in the order of a file, but for what stands alone."""

    def inside(body):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name not in ALONE:
                yield {"forward": "call"}.get(node.name, node.name)
                yield from inside(node.body if isinstance(node, ast.ClassDef) else [])

    return list(inside(ast.parse(path.read_text()).body))


@pytest.mark.parametrize("path", TWINS)
def test_twins_read_line_by_line(path):
    """The same functions in the same order, so that a diff shows only what truly differs."""
    one, other = (outline(PACKAGE / path.format(name)) for name in ("torch", "tensorflow"))
    assert one == other
    assert len(one) >= 2


def test_the_protocol_is_twelve_functions_and_some_constants():
    assert FUNCTIONS == ["build", "configure", "cut", "layers", "observe", "predict", "read",
                         "scale", "stepper", "train", "versions", "write"]  # fmt: skip
    assert set(Backend.__annotations__) == set(CONSTANTS)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_signatures_are_those_of_the_protocol(name, function):
    wanted, found = getattr(Backend, function), getattr(backends.load(name), function)
    assert shape_of(found, bound=0, wanted=wanted) == shape_of(wanted, bound=1, wanted=wanted)
    assert inspect.getdoc(found).splitlines()[0] == inspect.getdoc(wanted).splitlines()[0]
    returns = inspect.signature(wanted).return_annotation
    assert returns in OWN or inspect.signature(found).return_annotation == returns
    assert all(p.default is p.empty for p in inspect.signature(found).parameters.values())


@pytest.mark.parametrize("name", NAMES)
def test_traits_read_from_the_source_are_the_modules(name):
    module = backends.load(name)
    assert backends.traits(name) == {key: getattr(module, key) for key in CONSTANTS}
    for key, kind in CONSTANTS.items():
        assert type(getattr(module, key)) is kind


@pytest.mark.parametrize("name", NAMES)
def test_words_are_those_of_the_config(name):
    traits, module = backends.traits(name), backends.load(name)
    loops = set(get_args(get_type_hints(schema.Train)["loop"]))
    assert loops == {"manual", "native", "fit"}
    assert {"manual"} <= set(traits["LOOPS"]) <= loops
    assert set(traits["ONCE"]) <= set(get_type_hints(schema.Backend))
    for key, words in (("DTYPES", "dtype"), ("EXECUTIONS", "execution")):
        assert set(traits[key]) <= set(get_args(get_type_hints(schema.Backend)[words]))
    assert set(traits["INITS"]) <= set(get_args(get_type_hints(schema.Model)["init"]))
    assert set(module.LOSSES) == set(list_functions(losses)) - {"own"}  # a pair brings it
    if traits["NATIVE"]:
        native = importlib.import_module(f"pipeline.backends.{name}.native")
        assert set(traits["NATIVE"]) == set(native.STATES)
    known = {*list_functions(optimizers), "l2", "decoupled", "clip_norm", "schedule"}
    assert {word for key in traits["INEXACT"] for word in key.split("+")} <= known
    formulas = {*loops, *list_functions(losses)}
    assert {word for key in traits["COARSE"] for word in key.split("+")} <= formulas


def test_configs_of_backends_differ_in_their_name_alone():
    files = {path.stem: yaml.safe_load(path.read_text()) for path in CONF.glob("*.yaml")}
    assert set(files) == set(NAMES)
    assert {stem: values.pop("name") for stem, values in files.items()} == {n: n for n in NAMES}
    assert all(values == files[NAMES[0]] for values in files.values())


@pytest.mark.parametrize("name", NAMES)
def test_versions_are_words(name):
    versions = backends.load(name).versions()
    assert name in versions
    assert all(isinstance(word, str) for pair in versions.items() for word in pair)


@pytest.mark.parametrize("name", NAMES)
def test_a_device_that_is_not_there_is_refused_and_auto_names_one(name):
    given = {"threads": 1, "deterministic": True, "dtype": "float32", "seed": 0}
    side = backends.load(name)
    found = side.configure(device="auto", **given)
    assert found in {"cpu", "cuda"}
    assert side.configure(device="cpu", **given) == "cpu"
    if found == "cpu":
        with pytest.raises(ConfigError, match=r"backend\.device=cuda"):
            side.configure(device="cuda", **given)


def test_an_unknown_backend_is_refused():
    with pytest.raises(
        ConfigError, match=r"backend\.name=jaxx: must be one of numpy, tensorflow, torch"
    ):
        backends.traits("jaxx")
