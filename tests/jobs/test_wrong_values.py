"""Every key of a config with values it is not meant for: accepted as documented, or refused."""

from __future__ import annotations

import copy
import math
import os
import stat

import pairs
import pytest

from pipeline import storage
from pipeline.config.types import ConfigError
from pipeline.jobs.check import check_config
from pipeline.jobs.resolve import resolve
from pipeline.redact import redact

WRONG = (None, -1, math.nan, math.inf, "x", [], {}, 10**15, "../../etc", "")
BASES = {
    "article": ("experiment=article", "backend=numpy", "data.n=20", "train.epochs=2"),
    "cnn": ("experiment=digits_cnn", "backend=torch", "train.epochs=1"),
    "file": ("data=file", "data.path=none.csv", "model=mlp", "backend=numpy"),
    "images": ("data=images", "data.path=none", "model=cnn", "loss=cross_entropy", "backend=torch"),
}


def keys(values, before=()):
    for key, value in values.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from keys(value, (*before, key))


def changed(values, path, value):
    values = inner = copy.deepcopy(values)
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return values


@pytest.mark.parametrize("base", BASES)
def test_every_key_takes_a_value_or_refuses_it_in_one_line(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values, refused = pairs.composed(BASES[base]), []
    for path in keys(values):
        for wrong in WRONG:
            try:
                resolve(changed(values, path, wrong))
            except ConfigError as error:
                refused.append(str(error))
    assert len(refused) > 500
    assert not [text for text in refused if "\n" in text or len(text) > 1000]
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("base", "key", "value", "said"),
    [
        ("article", "data.n", 10**15, "do not fit into memory"),
        ("article", "data.n", 2 * 10**10, "do not fit into memory"),
        ("article", "train.epochs", 10**15, "updates do not fit into memory"),
        ("cnn", "model.kernel", 10**6, "weights do not fit into memory"),
        ("cnn", "model.kernel", 10**9, "less than or equal to 1000000"),
        ("article", "sweep.metric", "nope", "must be one of eval/mse"),
        ("article", "sweep.title", "x" * 5000, "at most 250"),
        ("article", "tracking.experiment", "x" * 5000, "at most 250"),
        ("article", "tracking.wait", 1e300, "less than or equal to 1000000000"),
        ("article", "tracking.artifacts", "/dev/null", "/dev/null is no folder"),
        ("article", "tracking.artifacts", "/dev/null/x", "/dev/null is no folder"),
        ("article", "tracking.artifacts", "s3://bucket/x?sig=hidden", "remote places"),
        ("file", "data.path", "~nosuchuser/x.csv", "no such user"),
    ],
)
def test_what_cannot_be_is_named(base, key, value, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=key.partition(".")[0]) as caught:
        resolve(changed(pairs.composed(BASES[base]), key.split("."), value))
    assert said in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert not os.listdir(tmp_path)


def test_samples_that_just_fit_are_not_refused(monkeypatch):
    """The rule from both sides: 2 · rows · (features + 1) · 8 bytes."""
    values = pairs.composed(BASES["article"])
    data = values["data"]
    needed = 2 * (data["n"] + data["n_test"]) * 2 * 8
    monkeypatch.setattr(storage, "count_memory", lambda: max(needed, 2 * 64))
    resolve(values)
    monkeypatch.setattr(storage, "count_memory", lambda: needed - 1)
    with pytest.raises(ConfigError, match=r"data\.n"):
        resolve(values)


def test_artifacts_may_be_a_folder_that_is_not_there_yet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_config(changed(pairs.composed(BASES["article"]), ("tracking", "artifacts"), "a/b"))
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(ConfigError, match="dangling is no folder"):
        check_config(
            changed(pairs.composed(BASES["article"]), ("tracking", "artifacts"), "dangling/b")
        )


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_files_have_the_mode_that_the_umask_leaves(mask, mode, tmp_path):
    before = os.umask(mask)
    try:
        storage.write_atomic(tmp_path / "x", lambda file: file.write(b"x"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    "name",
    ["client_secret", "access_key", "sig", "key", "token", "X-Amz-Signature", "X-Amz-Credential",
     "api_key", "AWSAccessKeyId", "password", "X-Goog-Signature", "secret_access_key"],
)  # fmt: skip
def test_secrets_of_signed_addresses_are_taken_out(name):
    text = redact(f"https://host/x?a=b&{name}=hidden%2F&c=d")
    assert "hidden" not in text
    assert f"{name}=***&c=d" in text


@pytest.mark.parametrize("text", ["data.keys=3", "optimizer.lr=1", "a?page=2&size=10", "key=x"])
def test_what_is_no_secret_stays(text):
    assert redact(text) == text
