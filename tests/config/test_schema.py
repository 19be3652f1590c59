from __future__ import annotations

import copy
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline import data, losses, optimizers, schedules
from pipeline.config import signatures
from pipeline.config.compose import compose_values
from pipeline.config.schema import parse_config
from pipeline.config.signatures import check_settings, choose_option, list_functions
from pipeline.config.types import ConfigError, Count, Finite, Positive, Strings
from pipeline.pairs.own import spec
from pipeline.pairs.registry import find_pair, list_pairs


def changed(values, key, value):
    """A copy of a config with one dotted key set, or left out if `value` is ``...``."""
    values = copy.deepcopy(values)
    *path, last = key.split(".")
    place = values
    for part in path:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return values


def test_the_real_config_is_accepted_and_typed(tools):
    settings = parse_config(tools.composed())
    assert (settings.optimizer.name, settings.optimizer.settings) == ("gd", {})
    assert settings.data.settings["n"] == 200
    assert settings.tracking.figures == ("png",)
    with pytest.raises(AttributeError):
        settings.train.epochs = 3


def test_integers_are_numbers_and_options_may_be_more(tools):
    values = changed(changed(tools.composed(), "optimizer.lr", 1), "parity.rtol", 1e-6)
    settings = parse_config({**values, "experiment": {"anything": 1}})
    assert (settings.optimizer.lr, settings.parity.rtol) == (1.0, 1e-6)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("train.epochs", 0, "greater than or equal to 1"),
        ("train.epochs", 1.0, "integer"),
        ("train.epochs", True, "integer"),
        ("train.epochs", ..., "missing"),
        (
            "train.eposch",
            3,
            "unknown key; allowed here: batch, checkpoint, epochs, evaluate_every, log_every, loop",
        ),
        (
            "train.settings",
            3,
            "unknown key; allowed here: batch, checkpoint, epochs, evaluate_every, log_every, loop",
        ),
        ("train", 3, "batch, checkpoint, epochs, evaluate_every, log_every, loop"),
        ("train", ..., "batch, checkpoint, epochs, evaluate_every, log_every, loop"),
        ("data", None, "group of keys"),
        ("data.name", ..., "missing"),
        ("model.init", "random", "'shared', 'framework'"),
        ("optimizer.lr", 0.0, "greater than 0"),
        ("optimizer.lr", "1e-3", "number"),
        ("optimizer.lr", float("nan"), "finite"),
        ("optimizer.lr", float("inf"), "finite"),
        ("backend.dtype", "float16", "'float32', 'float64' or 'longdouble'"),
        ("backend.xla", 1, "boolean"),
        ("parity.atol", -1e-9, "greater than or equal to 0"),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 0.5, "integer"),
        ("sede", 1, "allowed here: backend, compare"),
        ("compare.runs", "abc", "tuple"),
    ],
)
def test_a_wrong_value_is_one_line_with_key_and_what_is_allowed(tools, key, value, allowed):
    with pytest.raises(ConfigError) as caught:
        parse_config(changed(tools.composed(), key, value))
    text = str(caught.value)
    shown = "???" if value is ... else value
    assert text.startswith(f"{key}={shown}: ")
    assert allowed in text
    assert "\n" not in text


@given(st.text(max_size=400))
def test_an_error_is_one_line_whatever_the_value(value):
    text = str(ConfigError("a.b", value, "must be c"))
    assert len(text.splitlines()) == 1
    assert len(text) < 230
    assert text.startswith("a.b=")
    assert text.endswith(": must be c")


def rule(w, g, *, lr: float, shape: tuple[int, ...], beta: Finite, on: bool, kind: Literal["a", "b"],
         width: Count, names: Strings, scale: Positive | None):  # fmt: skip
    """A signature with every kind of setting (and three parameters that are none)."""


SETTINGS = {"beta": 0.9, "on": True, "kind": "a", "width": 2, "names": ["x"], "scale": None}


def test_settings_are_the_keyword_only_parameters_of_a_checked_type():
    checked = check_settings("optimizer", rule, SETTINGS)
    assert checked == SETTINGS | {"names": ("x",)}


@pytest.mark.parametrize(
    ("key", "value"),
    [("beta", float("inf")), ("beta", "0.9"), ("on", 1), ("kind", "c"), ("width", 0),
     ("width", 1.5), ("names", "x"), ("scale", -1.0), ("shape", (1,)), ("lr", 0.1), ("w", 1)],
)  # fmt: skip
def test_settings_outside_the_signature_are_refused(key, value):
    with pytest.raises(ConfigError, match=rf"^optimizer\.{key}"):
        check_settings("optimizer", rule, SETTINGS | {key: value})


@pytest.mark.parametrize("key", SETTINGS)
def test_every_setting_must_be_given(key):
    rest = {name: value for name, value in SETTINGS.items() if name != key}
    with pytest.raises(ConfigError, match=rf"^optimizer\.{key}=\?\?\?: is missing"):
        check_settings("optimizer", rule, rest)


def test_an_unknown_setting_is_answered_with_all_keys_of_its_group():
    with pytest.raises(
        ConfigError,
        match=r"allowed here: accumulate, beta, clip_norm, decay, kind, lr, name, names, on, scale, w",
    ):
        check_settings("optimizer", rule, SETTINGS | {"momentum": 0.9})


CONF = Path(__file__).parents[2] / "conf"


def _files(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


FUNCTIONS = {
    "data": data.maker,
    "model": lambda name: find_pair(name).settings,
    "loss": list_functions(losses).__getitem__,
    "optimizer": {**list_functions(optimizers), "own": spec.optimizer}.__getitem__,
    "schedule": list_functions(schedules).__getitem__,
}


@pytest.mark.parametrize(("group", "file"), [(g, f) for g in FUNCTIONS for f in _files(g)])
def test_every_file_of_a_growing_group_names_a_function_and_all_its_settings(tools, group, file):
    values = tools.composed()
    values[group] = yaml.safe_load((CONF / group / f"{file}.yaml").read_text())
    component = getattr(parse_config(values), group)
    function = FUNCTIONS[group](component.name)
    checked = check_settings(group, function, component.settings)
    assert checked.keys() == component.settings.keys()


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("model", list_pairs()),
        ("loss", list_functions(losses)),
        ("optimizer", list_functions(optimizers)),
        ("schedule", list_functions(schedules)),
    ],
)
def test_every_option_has_a_file(group, names):
    assert set(names) <= set(_files(group))


def test_functions_are_the_public_ones_a_module_defines_itself():
    assert set(list_functions(losses)) >= {"mse", "mae"}
    assert "choose_option" in list_functions(signatures)
    assert not {"_is_setting", "ConfigError", "create_model"} & set(list_functions(signatures))


def test_choose_says_which_there_are():
    assert choose_option("k", "a", {"a": 1}) == 1
    with pytest.raises(ConfigError, match="k=c: must be one of a, b"):
        choose_option("k", "c", {"b": 1, "a": 2})


@pytest.mark.parametrize(
    ("given", "expected"), [((), "of the machine"), (("tracking.experiment=mine",), "mine")]
)
def test_the_experiment_of_the_environment_holds_where_none_was_given(given, expected, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of the machine")
    assert compose_values(list(given))["tracking"]["experiment"] == expected
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    assert compose_values([])["tracking"]["experiment"] == "twingrad"
