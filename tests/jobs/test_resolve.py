"""A job is what its config asks for, made once."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys

import numpy as np
import pairs
import pytest

from pipeline import backends, identity, schedules, storage
from pipeline.jobs import resolve as module
from pipeline.jobs.job import list_inexact, show_layers, solve_least_squares
from pipeline.jobs.resolve import resolve

SMALL = ("backend=numpy", "data.n=20", "data.n_test=10", "train.epochs=3")
MLP = ("backend=numpy", "data=wine", "model=mlp", "loss=cross_entropy", "model.widths=[6,5]",
       "model.dropout=0.3", "train=minibatch", "train.batch=16", "train.epochs=2",
       "schedule=cosine", "optimizer=adam", "optimizer.accumulate=2")  # fmt: skip


def test_a_job_has_what_its_config_asks_for():
    job = resolve(pairs.composed(MLP))
    assert (job.outputs, job.dataset.classes) == (3, 3)
    assert job.settings.train.epochs == 2
    rows = job.dataset.rows
    updates = 2 * -(-rows // 32)
    assert job.rates.shape == (updates,)
    given = job.settings.schedule.settings
    lr = job.settings.optimizer.lr
    assert job.rates[-1] == schedules.cosine(updates, lr=lr, steps=updates, **given)
    assert (job.update.name, job.update.accumulate) == ("adam", 2)
    assert {value.dtype for value in job.first.values()} == {np.dtype("float64")}
    assert (job.batches.size, job.batches.group, job.batches.x.dtype) == (16, 2, np.float32)
    assert job.batches.y.shape == (rows, 3)
    one, again = job.masks(1, [16, 4]), job.masks(1, [16, 4])
    assert [[m.shape for m in batch] for batch in one] == [[(16, 6), (16, 5)], [(4, 6), (4, 5)]]
    assert all((a == b).all() for x, y in zip(one, again, strict=True)
               for a, b in zip(x, y, strict=True))  # fmt: skip
    assert any((a != b).any() for a, b in zip(one[0], job.masks(2, [16, 4])[0], strict=True))
    assert resolve(pairs.composed(SMALL)).masks is None
    arguments = job.step_arguments()
    assert set(arguments) == {"loop", "loss", "loss_settings", "update", "execution", "xla"}
    assert arguments["update"] is job.update
    with pytest.raises(dataclasses.FrozenInstanceError):
        job.outputs = 2


def test_a_job_builds_its_model_in_its_precision_or_another():
    job = resolve(pairs.composed(MLP))
    backend = backends.load("numpy")
    for dtype, wanted in ((None, np.float32), ("float64", np.float64)):
        device = job.configure(backend, dtype=dtype)
        model = job.build(backend, values=job.first, device=device, dtype=dtype)
        values = backend.read(model, job.twin())
        assert set(values) == set(job.first)
        for name, value in values.items():
            np.testing.assert_array_equal(value, job.first[name].astype(wanted))
            assert value.dtype == wanted


def test_layers_are_those_of_the_batch_of_an_update():
    job = resolve(pairs.composed((*SMALL, "train.batch=6", "train.shuffle=true")))
    backend = backends.load("numpy")
    model = job.build(backend, values=job.first, device=job.configure(backend))
    for k, (epoch, start) in {1: (1, 0), 3: (1, 12), 4: (1, 18), 5: (2, 0)}.items():
        ((x, _),) = job.batches.blocks(epoch)
        layers = show_layers(job, backend=backend, model=model, k=k)
        expected = x[start : start + 6] * job.first["w"] + job.first["b"]
        np.testing.assert_allclose(layers["layer/output"], expected, rtol=1e-6)


def test_what_is_known_of_a_job_before_it_trains():
    job = resolve(pairs.composed(SMALL))
    x = np.hstack([job.dataset.arrays["x_train"], np.ones((20, 1))])
    w, b = np.linalg.lstsq(x, job.dataset.arrays["y_train"], rcond=None)[0].ravel()
    best = solve_least_squares(job)
    np.testing.assert_allclose([np.squeeze(best["w"]), np.squeeze(best["b"])], [w, b])
    assert solve_least_squares(resolve(pairs.composed(MLP))) is None
    assert list_inexact(job) == []
    native = ("backend=tensorflow", "train.loop=native", "optimizer=adam")
    assert len(list_inexact(resolve(pairs.composed(native)))) == 1


def test_given_samples_are_not_made_again(monkeypatch):
    values = pairs.composed(SMALL)
    dataset = resolve(values).dataset
    monkeypatch.setattr(module, "make_dataset", None)
    job = resolve(values, dataset=dataset)
    assert job.dataset is dataset


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
def test_a_job_is_resolved_without_its_framework(backend):
    program = (
        "import sys\n"
        "from hydra import compose, initialize_config_dir\n"
        "from omegaconf import OmegaConf\n"
        "from pipeline.jobs.resolve import resolve\n"
        f"with initialize_config_dir(config_dir={str(pairs.CONF)!r}, version_base='1.3'):\n"
        f"    config = compose('config', ['backend={backend}'])\n"
        "resolve(OmegaConf.to_container(config, resolve=True))\n"
        "print(sorted({'torch', 'tensorflow', 'keras', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          cwd=pairs.CONF.parent)  # fmt: skip
    assert done.stdout.strip() == "[]", done.stderr


def test_the_digests_of_code_and_data_are_taken_once_a_job(tmp_path, monkeypatch):
    """The data as read back from disk are checked besides, which is another array."""
    from pipeline.stages.run import run

    calls = []
    tree, array = storage.tree_digest, storage.array_digest
    monkeypatch.setattr(storage, "tree_digest", lambda *a: calls.append("code") or tree(*a))
    monkeypatch.setattr(
        storage, "array_digest", lambda a: calls.append("data" if "x_test" in a else "") or array(a)
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    identity.code_digest.cache_clear()

    @contextlib.contextmanager
    def progress(total):
        yield lambda *told: None

    values = pairs.composed((*SMALL, "tracking.model=false", "train.checkpoint=0"))
    for i in range(2):  # the file is not there yet, and is
        calls.clear()
        record = run(resolve(values), folder=tmp_path / str(i), name="n", parent=None, resume=True,
                     progress=progress)  # fmt: skip
        assert calls.count("data") == 2  # as made, and as read back
        assert calls.count("code") == (i == 0)
        assert record.about["status"] == "FINISHED"
        assert record.about["code"] == tree(identity.PACKAGE)
