"""A user's own file through the command line."""

from __future__ import annotations

import gzip
import json
import sqlite3

import commands
import numpy as np
import pytest
from PIL import Image

SMALL = ("tracking.uri=sqlite:///x.db", "backend=numpy", "backend.dtype=float64", "tracking.model=false", "data=file", "model=dense")  # fmt: skip


def call(*overrides, cwd):
    return commands.call(*SMALL, *overrides, cwd=cwd)


def query(cwd, sql):
    with sqlite3.connect(cwd / "x.db") as store:
        return store.execute(sql).fetchall()


def plane(rows=300):
    x = np.random.default_rng(0).normal(size=(rows, 2))
    return x, 2 * x[:, 0] - 3 * x[:, 1] + 1


@pytest.mark.long
def test_a_csv_is_trained_on_and_its_plane_is_found(tmp_path):
    """Without noise: weights of standardised features are those of the raw ones times the scale."""
    x, y = plane()
    np.savetxt(
        tmp_path / "t.csv", np.c_[x, y], delimiter=",", header="a,b,y", comments="", fmt="%.17g"
    )
    done = call(
        "data.path=t.csv", "data.features=[a,b]", "data.target=y", "data.standardise=false",
        "train.epochs=400", "optimizer.lr=0.2", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (r2,) = query(tmp_path, "select value from metrics where key='eval/r2'")[0]
    assert 1 - r2 < 1e-20
    (path,) = (tmp_path / "outputs/runs").rglob("record.json")
    w, b = (np.load(path.parent / f"last/{name}.npy") for name in "wb")
    np.testing.assert_allclose([*w[:, 0], *b], [2, -3, 1], rtol=1e-12)


@pytest.mark.long
def test_a_streamed_npy_is_trained_on_and_not_copied(tmp_path):
    x, y = plane()
    np.save(tmp_path / "t.npy", np.c_[x, y])
    done = call(
        "data.path=t.npy", "data.features=[0,1]", "data.target=[2]", "data.source=mmap",
        "data.block=32", "train=minibatch", "train.batch=10", "train.epochs=30",
        "optimizer.lr=0.1", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (r2,) = query(tmp_path, "select value from metrics where key='eval/r2'")[0]
    assert 1 - r2 < 1e-12
    assert not list((tmp_path / "outputs").rglob("*.npz"))


def test_a_bad_cell_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,y\n" + "1,2,3\n" * 9 + "1,much,3\n")
    done = call("data.path=t.csv", "data.features=[a,b]", "data.target=y", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "twingrad: data.features=b: data row 10 (counted from 1) holds the text 'much', no number\n"
    )
    assert [path.name for path in tmp_path.rglob("*")] == ["t.csv"]


def test_a_packed_csv_of_another_land_is_trained_on_with_its_gaps_and_categories(tmp_path):
    """What is documented for the shell, as the shell hands it over."""
    lines = [f"{i};{'' if i == 4 else i / 2};{'ab'[i % 2]};{2 * i}".replace(".", ",") for i in range(40)]  # fmt: skip
    text = "\n".join(["id;x;kind;y", *lines]) + "\n"
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    done = call(
        "data.path=t.csv.gz", 'data.separator=";"', 'data.decimal=","', "data.features=id:kind",
        "data.exclude=id", "data.target=y", "data.categories=onehot", "data.missing=drop",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "outputs/runs").rglob("record.json")
    facts = json.loads(path.read_text())["data"]["facts"]
    assert facts["features"] == ["x", "kind=a", "kind=b"]
    assert facts["missing"] == {"dropped": 1}


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data.separator=tab", "data.features=a:c"], "data.path=t.csv: has commas between its columns; 'data.separator=\",\"' reads it"),
        (["data.separator=xx", "data.features=a"], "data.separator=xx: must be one ASCII character, such as ; or |, or tab"),
        (["data.features=b:a"], "data.features=b:a: b comes after a in t.csv"),
        (["data.features=all", "data.exclude=[z]"], "data.exclude=z: is no column of t.csv; it has a, b, y"),
        (["data.features=all", "data.missing=zero"], "data.missing=zero: must be 'refuse', 'mean', 'median' or 'drop'"),
        (["data.features=all", "data.categories=yes"], "data.categories=yes: must be 'refuse' or 'onehot'"),
    ],
)  # fmt: skip
def test_a_wrong_choice_of_columns_is_one_line_and_leaves_nothing(tmp_path, overrides, says):
    (tmp_path / "t.csv").write_text("a,b,y\n" + "1,2,3\n" * 9)
    done = call("data.path=t.csv", "data.target=y", *overrides, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"twingrad: {says}\n")
    assert [path.name for path in tmp_path.rglob("*")] == ["t.csv"]


def stripes(root, size=6, each=12):
    """Two classes of images: stripes from left to right, or from top to bottom."""
    rng = np.random.default_rng(0)
    for name in ("across", "down"):
        (root / name).mkdir(parents=True)
        for i in range(each):
            values = np.where(np.arange(size) % 2, 255, 0) * np.ones((size, 1))
            values = values.T if name == "across" else values
            image = (np.repeat(values[..., None], 3, axis=2) * rng.uniform(0.5, 1)).astype(np.uint8)
            Image.fromarray(image).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize("backend", ["torch", pytest.param("tensorflow", marks=pytest.mark.long)])
def test_a_network_tells_folders_of_images_apart(tmp_path, backend):
    stripes(tmp_path / "mine")
    done = commands.call(
        "tracking.uri=sqlite:///x.db", "tracking.model=false", "data=images", "data.path=mine",
        "model=cnn", "model.channels=[4]", "loss=cross_entropy", "train=minibatch",
        "train.batch=4", "train.epochs=8", "optimizer=adam", "optimizer.lr=0.05",
        f"backend={backend}", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (accuracy,) = query(tmp_path, "select value from metrics where key='eval/accuracy'")[0]
    assert accuracy == 1
    (path,) = (tmp_path / "outputs/runs").rglob("record.json")
    assert json.loads(path.read_text())["data"]["facts"]["labels"] == ["across", "down"]


def test_a_damaged_image_is_one_line_and_leaves_nothing(tmp_path):
    stripes(tmp_path / "mine", each=4)
    (tmp_path / "mine/down/2.png").write_bytes(b"no image")
    before = sorted(tmp_path.rglob("*"))
    done = commands.call(
        "data=images", "data.path=mine", "model=cnn", "loss=cross_entropy", "train=minibatch",
        cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        2, "twingrad: data.path=mine/down/2.png: cannot be read: it is no BMP, JPEG, PNG image\n",
    )  # fmt: skip
    assert sorted(tmp_path.rglob("*")) == before
