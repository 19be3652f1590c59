"""A user's own file through the command line."""

from __future__ import annotations

import sqlite3

import commands
import numpy as np

SMALL = ("tracking.uri=sqlite:///x.db", "backend=numpy", "backend.dtype=float64", "tracking.model=false", "data=file", "model=dense")  # fmt: skip


def call(*overrides, cwd):
    return commands.call(*SMALL, *overrides, cwd=cwd)


def query(cwd, sql):
    with sqlite3.connect(cwd / "x.db") as store:
        return store.execute(sql).fetchall()


def plane(rows=300):
    x = np.random.default_rng(0).normal(size=(rows, 2))
    return x, 2 * x[:, 0] - 3 * x[:, 1] + 1


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
