"""What makes two configs, jobs and runs the same; and what a job that was finished before is."""

from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import backends, identity
from pipeline.config.compose import compose_values
from pipeline.config.schema import LATER_FILE
from pipeline.identity import Identity, config_digest, differing_keys, identify, pair_key
from pipeline.jobs.resolve import resolve, resolve_recorded


def changed(values, key, value):
    """A copy of a config with one dotted key set."""
    values = copy.deepcopy(values)
    *path, last = key.split(".")
    place = values
    for part in path:
        place = place[part]
    place[last] = value
    return values


keys = st.text("abc", min_size=1, max_size=3)
leaves = st.integers() | st.booleans() | st.none() | st.lists(st.integers(), max_size=2)
trees = st.recursive(st.dictionaries(keys, leaves, min_size=1, max_size=3),
                     lambda t: st.dictionaries(keys, t, min_size=1, max_size=3))  # fmt: skip


@given(trees)
def test_flatten_keeps_every_leaf_under_its_path(tree):
    flat = identity.flatten(tree)
    for key, value in flat.items():
        place = tree
        for part in key.split("."):
            place = place[part]
        assert place == value

    def count(node):
        return sum(count(v) if isinstance(v, dict) else 1 for v in node.values())

    assert len(flat) == count(tree)


BESIDE = [("tracking.experiment", "x"), ("parity.rtol", 1.0), ("compare.runs", ["a"]),
          ("sweep.title", "x"), ("stages", ["train"]), ("run", "x"), ("train.log_every", 7),
          ("train.checkpoint", 0)]  # fmt: skip
DECIDING = [("seed", 1), ("data.n", 201), ("model.name", "dense"), ("loss.name", "mae"),
            ("optimizer.lr", 2e-3), ("train.epochs", 3), ("backend.threads", 2),
            ("backend.dtype", "float64")]  # fmt: skip


def test_digest_changes_with_what_decides_the_numbers_and_with_nothing_else(tools):
    values = tools.composed()
    for key, value in BESIDE:
        assert config_digest(changed(values, key, value)) == config_digest(values), key
    for key, value in [*DECIDING, ("backend.name", "tensorflow"), ("record.trace", "scalars")]:
        assert config_digest(changed(values, key, value)) != config_digest(values), key


def test_the_settings_in_which_two_configs_differ_are_named(tools):
    values = tools.composed()
    for key, value in DECIDING:
        assert differing_keys(values, changed(values, key, value)) == [key]
    for key, value in [*BESIDE, ("backend.name", "tensorflow"), ("record.trace", "scalars")]:
        assert differing_keys(values, changed(values, key, value)) == [], key
    two = changed(changed(values, "seed", 3), "loss.name", "mae")
    assert differing_keys(two, values) == ["loss.name", "seed"]
    assert differing_keys(values, changed(values, "loss.beta", None)) == ["loss.beta"]
    assert differing_keys({"a": 1}, {"a": True}) == ["a"]
    assert differing_keys({"a": [1.0, 2]}, {"a": (1, 2.0)}) == []


def test_a_pair_differs_in_its_backend_alone_and_not_in_the_order_of_keys(tools):
    torch, tensorflow = (
        changed(tools.composed(), "backend.name", b) for b in ("torch", "tensorflow")
    )
    assert config_digest(torch) != config_digest(tensorflow)
    assert pair_key(torch, "d") == pair_key(tensorflow, "d")
    assert pair_key(torch, "d") != pair_key(tensorflow, "e")
    for key, value in DECIDING:
        assert pair_key(torch, "d") != pair_key(changed(tensorflow, key, value), "d"), key
    assert config_digest(dict(reversed(torch.items()))) == config_digest(torch)


@given(st.integers() | st.floats(allow_nan=False) | st.booleans(),
       st.integers() | st.floats(allow_nan=False) | st.booleans())  # fmt: skip
def test_two_numbers_are_one_setting_when_they_are_equal_and_no_bool_is_a_number(one, other):
    same = one == other and isinstance(one, bool) == isinstance(other, bool)
    assert (config_digest({"a": one}) == config_digest({"a": other})) == same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True),
        ([1, [2.0]], [1.0, [2]], True),
        (1, True, False),
        (1.0, True, False),
        (0, False, False),
        (0.0, False, False),
        (2**53 + 1, float(2**53), False),
        (2**53, float(2**53), True),
        (10**300, 1e300, False),
        (int(1e300), 1e300, True),
        (1, "1", False),
    ],
)
def test_one_and_one_point_zero_are_the_same_setting(one, other, same):
    assert (config_digest({"a": {"b": one}}) == config_digest({"a": {"b": other}})) == same


ONE = Identity(config="c", data="d", code="k", environment="e", asked="train evaluate model")


def test_a_checkpoint_is_found_by_everything_but_what_was_asked_besides():
    assert ONE.as_tags() == {"config.digest": "c", "data.digest": "d", "code.digest": "k",
                             "environment.digest": "e", "asked": "train evaluate model"}  # fmt: skip
    assert dataclasses.replace(ONE, asked="train").key() == ONE.key()
    for field in ("config", "data", "code", "environment"):
        other = dataclasses.replace(ONE, **{field: "x"})
        assert other.key() != ONE.key()
        assert ONE.tell_difference(other.as_tags())
    assert ONE.tell_difference(dataclasses.replace(ONE, asked="train").as_tags()) == ""
    old = {k: v for k, v in ONE.as_tags().items() if k != "environment.digest"}
    assert ONE.tell_difference(old) == "made by other code"
    assert ONE.tell_difference(dataclasses.replace(ONE, code="x", data="y").as_tags()) == (
        "made by other code"
    )


@pytest.mark.parametrize(
    ("stages", "model", "asked"),
    [
        (["generate", "train", "evaluate"], True, "train evaluate model"),
        (["evaluate", "train"], False, "train evaluate"),
        (["generate", "train"], True, "train model"),
        (["generate"], False, ""),
    ],
)
def test_what_is_asked_of_a_job_is_part_of_it(tools, stages, model, asked):
    values = changed(changed(tools.composed(), "stages", stages), "tracking.model", model)
    assert identify(values, data_digest="d", environment={}).asked == asked


def environment_digest(tools, backend="tensorflow", device="cpu"):
    values = changed(tools.composed(), "backend.name", backend)
    values = changed(values, "backend.device", device)
    return resolve(values).identity.environment


@pytest.mark.parametrize("backend", backends.names())
def test_another_version_makes_another_job(tools, monkeypatch, backend):
    original, before = metadata.version, environment_digest(tools, backend)
    for package in {*backends.traits(backend)["PACKAGES"], "numpy"}:
        with monkeypatch.context() as patch:
            newer = {package: "99.0"}
            patch.setattr(metadata, "version", lambda p, n=newer: n.get(p) or original(p))
            assert environment_digest(tools, backend) != before, package
    for package in {"torch", "tensorflow", "keras"} - {*backends.traits(backend)["PACKAGES"]}:
        with monkeypatch.context() as patch:
            newer = {package: "99.0"}
            patch.setattr(metadata, "version", lambda p, n=newer: n.get(p) or original(p))
            assert environment_digest(tools, backend) == before, package


@pytest.mark.parametrize(
    ("backend", "flag"),
    [(b, flag) for b in backends.names() for flag in backends.traits(b)["FLAGS"]],
)
def test_another_flag_makes_another_job(tools, monkeypatch, backend, flag):
    monkeypatch.delenv(flag, raising=False)
    before = environment_digest(tools, backend)
    monkeypatch.setenv(flag, "0")
    assert environment_digest(tools, backend) != before
    assert {"TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS"} <= set(backends.traits("tensorflow")["FLAGS"])


def test_another_cpu_makes_another_job(tools, monkeypatch, tmp_path):
    """Seen in a process of its own for NumPy's features, which are fixed when it is imported."""
    before = environment_digest(tools)
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nvendor_id\t: SomeoneElse\n")
    monkeypatch.setattr(backends, "_CPU", tmp_path / "cpuinfo")
    assert environment_digest(tools) != before
    optional = np.show_config(mode="dicts")["SIMD Extensions"].get("found", ())
    if not optional:
        pytest.skip("this CPU has no feature that NumPy could do without")
    program = "from pipeline import backends; print(backends.environment('torch', device='cpu'))"
    told = {
        disabled: subprocess.run(
            [sys.executable, "-c", program], text=True, capture_output=True, check=True,
            cwd=identity.PACKAGE.parent, env=os.environ | {"NPY_DISABLE_CPU_FEATURES": disabled},
        ).stdout
        for disabled in ("", optional[-1])
    }  # fmt: skip
    assert len(set(told.values())) == 2


def test_another_device_makes_another_job(tools, monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(backends, "_GPUS", tmp_path)
    assert backends.environment("tensorflow", device="auto")["device"] == "cpu"
    for place, model in (("0000:01:00.0", "NVIDIA A"), ("0000:02:00.0", "NVIDIA B")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "information").write_text(f"Model: \t\t {model}\nIRQ: 3\n")
    there = {device: backends.environment("tensorflow", device=device)["device"]
             for device in ("auto", "cpu", "cuda")}  # fmt: skip
    assert there == {"auto": "cuda:NVIDIA A", "cpu": "cpu", "cuda": "cuda:NVIDIA A"}
    assert environment_digest(tools, device="auto") != environment_digest(tools, device="cpu")
    assert backends.environment("numpy", device="auto")["device"] == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert backends.environment("tensorflow", device="auto")["device"] == "cuda:NVIDIA B"
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert backends.environment("tensorflow", device="auto")["device"] == "cpu"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for version, device in (("2.9.0+cpu", "cpu"), ("2.9.0+cu130", "cuda:NVIDIA A")):
        monkeypatch.setattr(metadata, "version", lambda package, v=version: v)
        assert backends.environment("torch", device="auto")["device"] == device


@pytest.mark.parametrize("backend", backends.names())
def test_what_a_backend_does_to_its_process_makes_no_other_job(tools, backend):
    """A sweep's second job is asked for after the first one has run here."""
    before = environment_digest(tools, backend)
    backends.load(backend).configure(
        threads=1, deterministic=True, device="cpu", dtype="float32", seed=0
    )
    assert environment_digest(tools, backend) == before


FILE = {"name": "file", "path": "t.csv", "features": ["a"], "target": ["y"]}


@pytest.mark.parametrize("key", sorted(LATER_FILE))
def test_a_setting_that_came_later_is_no_difference_until_it_is_used(key):
    """A record of the version before lacks it; what it did then is the setting's first value."""
    old, new = {"data": FILE}, {"data": {**FILE, **LATER_FILE}}
    assert config_digest(old) == config_digest(new)
    assert differing_keys(old, new) == []
    other = changed(new, f"data.{key}", "another")
    assert config_digest(other) != config_digest(old)
    assert differing_keys(old, other) == [f"data.{key}"]


def test_the_file_has_the_values_of_the_version_before():
    values = compose_values(["data=file", "data.path=t.csv", "data.features=a", "data.target=y"])
    assert {key: values["data"][key] for key in LATER_FILE} == LATER_FILE


def test_a_recorded_file_of_the_version_before_is_resolved_to_the_same_samples(tmp_path):
    rows = "".join(f"{i},{i * i}\n" for i in range(20))
    (tmp_path / "t.csv").write_text(f"a,y\n{rows}")
    words = ("data=file", f"data.path={tmp_path}/t.csv", "data.features=a", "data.target=y",
             "backend=numpy", "model=dense")  # fmt: skip
    now = compose_values(words)
    old = {key: value for key, value in now["data"].items() if key not in LATER_FILE}
    job = resolve_recorded({**now, "data": old}, {})
    assert job.identity == resolve(now).identity
