"""What lies in MLflow after a sweep, read back with MLflow's own client."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from commands import environment

from pipeline.record.record import RunRecord
from pipeline.tracking.store import restored_uri

pytestmark = pytest.mark.long  # a whole sweep in both frameworks


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The article's experiment in both frameworks, as ``make demo`` runs it."""
    folder = tmp_path_factory.mktemp("sweep")
    command = [sys.executable, "-m", "pipeline", "-m", "backend=torch,tensorflow"]
    done = subprocess.run(
        # What is told while training goes on is nothing here: how much that is, the machine decides.
        [*command, "experiment=article", "tracking.flush=600"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    import mlflow

    # MLflow keeps this in the environment too, which the tests that come after must not inherit.
    with restored_uri():
        mlflow.set_tracking_uri(f"sqlite:///{folder}/outputs/mlflow.db")
        yield _read_sweep(folder, done)


def _read_sweep(folder, done):
    import mlflow

    runs = mlflow.MlflowClient().search_runs(["1"], order_by=["attributes.start_time"])
    parent = next(run for run in runs if run.data.tags["kind"] == "sweep")
    children = {run.data.tags["backend"]: run for run in runs if run.data.tags["kind"] == "run"}
    return folder, done, parent, children


def artifact(run, name):
    return Path(run.info.artifact_uri.removeprefix("file://")) / name


def test_parent_and_children(sweep):
    _, _, parent, children = sweep
    assert set(children) == {"torch", "tensorflow"}
    for run in [parent, *children.values()]:
        assert run.info.status == "FINISHED"
    for child in children.values():
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.tags["sweep"] == parent.info.run_id


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
def test_a_run_holds_what_users_rely_on(sweep, backend):
    *_, children = sweep
    run = children[backend]
    assert run.data.params["optimizer.lr"] == "0.001"
    assert run.data.params["backend.name"] == backend
    for kind in ("config", "data", "code", "environment"):
        assert len(run.data.tags[f"{kind}.digest"]) == 64
    assert run.data.tags["asked"] == "train evaluate model"
    for tag in ("git.commit", "versions"):
        assert run.data.tags[tag]
    assert set(run.data.metrics) == {
        "train/loss", "train/lr", "train/grad_norm", "param/w", "param/b", "eval/mse", "eval/mae",
        "eval/r2", "time/train_s", "time/first_step_s", "time/step_us",
    }  # fmt: skip
    (data,) = run.inputs.dataset_inputs
    assert run.data.tags["data.digest"].startswith(data.dataset.digest)
    assert artifact(run, "config.yaml").is_file()
    assert {p.name for p in artifact(run, "plots").iterdir()} == {"overview.png"}


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
def test_metrics_are_the_record(sweep, backend):
    import mlflow

    *_, children = sweep
    record = RunRecord.load(artifact(children[backend], "record"))
    history = mlflow.MlflowClient().get_metric_history(children[backend].info.run_id, "train/loss")
    steps = np.array([point.step for point in history])
    assert (steps[0], steps[-1], len(steps)) == (1, 500, 320)  # as many as MLflow charts
    assert set(np.diff(steps)) == {1, 2}
    assert (
        np.array([p.value for p in history]).tolist() == record.arrays["loss"][steps - 1].tolist()
    )
    assert record.arrays["loss"].dtype == np.float32
    start = mlflow.MlflowClient().get_metric_history(children[backend].info.run_id, "param/w")[0]
    assert (start.step, start.value) == (0, float(record.arrays["param/w"][0]))


def test_both_start_from_the_same_bits(sweep):
    *_, children = sweep
    a, b = (RunRecord.load(artifact(children[k], "record")) for k in ("torch", "tensorflow"))
    assert a.about["data"]["digest"] == b.about["data"]["digest"]
    for name in ("w", "b"):
        assert a.arrays[f"first/{name}"].tobytes() == b.arrays[f"first/{name}"].tobytes()


def test_parent_has_the_comparison(sweep):
    _, done, parent, _ = sweep
    pictures = {path.stem for path in artifact(parent, "plots").iterdir()}
    assert {"fit", "loss", "path", "residuals", "ulps"} <= pictures
    table = json.loads(artifact(parent, "pairs.json").read_text())
    assert [row[table["columns"].index("parameter")] for row in table["data"]] == ["w", "b"]
    settings = json.loads(artifact(parent, "differences.json").read_text())["columns"]
    assert "backend/name" in settings  # of a column with a dot in its name MLflow shows nothing
    assert not any("." in name for name in settings)
    html = artifact(parent, "report.html").read_text()
    HTMLParser().feed(html)
    assert not re.search(r"src=\"(?!data:)", html)
    page = f"http://127.0.0.1:5000/#/experiments/{parent.info.experiment_id}/runs"
    runs = [child.info.run_id for child in sweep[3].values()]
    view, *links = re.findall(r"href=\"([^\"]*)\"", html)
    assert view.startswith(f"{page}?workflowType=machine_learning&")
    assert links == [f"{page}/{run}?workflowType=machine_learning" for run in runs]
    assert "<pre>python -m pipeline -m" in html
    assert {"parity/max_ulp", "parity/max_absolute"} <= set(parent.data.metrics)
    for word in ("torch", "tensorflow", "PASS", "report", "make ui"):
        assert word in done.stdout


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
def test_the_logged_model_predicts_the_same_in_a_fresh_process(sweep, backend):
    folder, _, _, children = sweep
    run = children[backend]
    (output,) = run.outputs.model_outputs
    code = (
        "import sys, json, numpy as np, mlflow\n"
        f"mlflow.set_tracking_uri('sqlite:///{folder}/outputs/mlflow.db')\n"
        f"model = mlflow.pyfunc.load_model('models:/{output.model_id}')\n"
        "x = np.linspace(-10, 10, 7, dtype='float32')[:, None]\n"
        "assert model.metadata.signature is not None\n"
        "print('RESULT', json.dumps(np.asarray(model.predict(x), dtype=float).ravel().tolist()))\n"
    )
    # From a folder without the package on the path: the model brings its own code.
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True,
        env=environment(PYTHONPATH=""),
    )  # fmt: skip
    assert "RESULT" in done.stdout, done.stderr
    predicted = json.loads(done.stdout.split("RESULT")[1])
    record = RunRecord.load(artifact(run, "record"))
    x = np.linspace(-10, 10, 7, dtype=np.float32)
    expected = x * record.arrays["last/w"] + record.arrays["last/b"]
    # One multiplication and one addition in float32, perhaps fused: one rounding of difference.
    np.testing.assert_allclose(predicted, expected, rtol=2**-23, atol=2**-24)


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
def test_the_logged_model_has_the_numbers_of_the_trained_weights(sweep, backend):
    import mlflow

    run = sweep[3][backend]
    (output,) = run.outputs.model_outputs
    model = mlflow.MlflowClient().get_logged_model(output.model_id)
    record = RunRecord.load(artifact(run, "record"))
    assert output.step == record.steps
    numbers = {metric.key: metric.value for metric in model.metrics}
    assert {metric.step for metric in model.metrics} == {record.steps}
    assert numbers["eval/mse"] == run.data.metrics["eval/mse"] == record.about["scores"]["mse"]
    assert numbers["param/w"] == float(record.arrays["last/w"])
    assert model.tags["pair"] == "linear"
    assert model.tags["data.digest"] == record.about["data"]["digest"]
    assert model.params["data.name"] == "linear"


def test_the_distance_over_the_steps_is_a_metric_of_the_parent(sweep):
    import mlflow

    _, _, parent, children = sweep
    history = mlflow.MlflowClient().get_metric_history(parent.info.run_id, "parity/distance")
    assert len({metric.step for metric in history}) == len(history) > 10
    one, other = (RunRecord.load(artifact(children[k], "record")) for k in ("torch", "tensorflow"))
    last = max(history, key=lambda metric: metric.step)
    gap = [one.arrays[f"last/{n}"].astype(float) - other.arrays[f"last/{n}"] for n in ("w", "b")]
    size = [one.arrays[f"last/{n}"].astype(float) for n in ("w", "b")]
    assert last.step == one.steps
    assert last.value == pytest.approx(np.linalg.norm(gap) / np.linalg.norm(size), rel=1e-5)


def test_comparing_what_is_recorded(sweep):
    import mlflow

    folder, _, parent, children = sweep
    ids = ",".join(run.info.run_id for run in children.values())
    compare = [sys.executable, "-m", "pipeline", "stages=[compare]"]
    rebuilt = ("report.html", "parity.json", "differences.json", "verdicts.json", "plots/ulps.png")
    for name in rebuilt:
        artifact(parent, name).unlink()
    client, note = mlflow.MlflowClient(), "mlflow.note.content"
    assert "**Parity of 1 pair:** 1 PASS." in parent.data.tags[note]
    client.delete_tag(parent.info.run_id, note)
    for choice, code in (
        ([f"compare.runs=[{ids}]"], 0),  # the sweep has probed this pair
        (["compare.sweep=latest"], 0),
        ([f"compare.sweep={parent.info.run_id}", "parity.atol=0", "parity.rtol=0"], 1),
    ):
        done = subprocess.run([*compare, *choice], cwd=folder, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
    assert all(artifact(parent, name).is_file() for name in rebuilt)
    again = client.get_run(parent.info.run_id).data.tags
    assert again[note] == parent.data.tags[note]
    assert again["parity.verdict"] == "PASS"  # another tolerance says nothing about the sweep
    for run in children.values():
        tags = client.get_run(run.info.run_id).data.tags
        twin = next(other.info.run_id for other in children.values() if other is not run)
        assert (tags["parity.verdict"], tags["parity.twin"]) == ("PASS", twin)
    damaged = children["torch"]
    path = artifact(damaged, "record") / "loss.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"!")
    done = subprocess.run(
        [*compare, "compare.sweep=latest"], cwd=folder, capture_output=True, text=True
    )
    assert (done.returncode, "loss.npy is missing or was altered" in done.stdout) == (1, True)
    tags = mlflow.MlflowClient().get_run(damaged.info.run_id).data.tags
    assert tags["parity.verdict"] == "ERROR"
    path.write_bytes(whole)
    done = subprocess.run([*compare, "compare.sweep=latest"], cwd=folder, capture_output=True)
    assert done.returncode == 0
    tags = mlflow.MlflowClient().get_run(damaged.info.run_id).data.tags
    assert tags["parity.verdict"] == "PASS"
    (folder / "outputs/evidence").rename(folder / "elsewhere")
    done = subprocess.run(
        [*compare, f"compare.runs=[{ids}]"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 3
    assert f"'stages=[probe,compare]' 'compare.runs=[{ids}]'" in done.stdout
