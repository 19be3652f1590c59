"""The command as a user meets it: exit codes, messages, and what is left on disk."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from commands import call, environment, start
from tiers import tiered

from pipeline.cli import commands
from pipeline.record.record import RunRecord

PIPELINE = (sys.executable, "-m", "pipeline")
SMALL = ("train.epochs=40", "tracking.model=false", "data.n=20", "data.n_test=10")


def query(cwd, sql):
    with sqlite3.connect(cwd / "outputs/mlflow.db") as store:
        return store.execute(sql).fetchall()


@pytest.mark.parametrize(
    ("overrides", "names"),
    tiered(
        [
            (["optimizer.foo=1"], ["optimizer.foo", "lr"]),
            (["+optimizer.foo=1"], ["optimizer.foo", "unknown", "lr"]),
            (["optimizer=foo"], ["optimizer=foo", "gd"]),
            (["experiment=foo"], ["experiment=foo", "article_fit"]),
            (["foo=1"], ["foo", "backend"]),
            (["optimizer.lr=-1"], ["optimizer.lr=-1", "greater than 0"]),
            (["optimizer.lr=nan"], ["optimizer.lr=nan", "finite"]),
            (["optimizer.lr=.inf"], ["optimizer.lr", "valid number"]),
            (["optimizer.lr=much"], ["optimizer.lr=much", "number"]),
            (["data.n=0"], ["data.n=0", "greater than or equal to 1"]),
            (["data.noise=-1"], ["data.noise=-1", "greater than or equal to 0"]),
            (["data.low=20"], ["data.low=20", "data.high"]),
            (["train.epochs=0"], ["train.epochs=0", "greater than or equal to 1"]),
            (["train.epochs=1.5"], ["train.epochs=1.5", "integer"]),
            (["train.epochs=true"], ["train.epochs=True", "integer"]),
            (["backend.dtype=float16"], ["backend.dtype=float16", "float32"]),
            (["backend.name=foo"], ["backend.name=foo", "tensorflow, torch"]),
            (["data=file"], ["data.path=???", "must be given"]),
            (["backend.threads=99999999999"], ["backend.threads=99999999999", "1024"]),
            (["seed=-1"], ["seed=-1", "greater than or equal to 0"]),
            (["stages=[foo]"], ["foo", "evaluate"]),
            (["stages=[evaluate]"], ["evaluate", "run="]),
            (["train.loop=fit"], ["train.loop=fit", "manual or native", "backend=tensorflow"]),
            (["backend.xla=true"], ["backend.xla=true", "XLA"]),
            (["stages=[evaluate]", "run=nope"], ["no such store"]),
            (["stages=[compare]", "compare.runs=[a,b]"], ["no such store"]),
            (["stages=[compare]"], ["compare.runs"]),
            (["-m", "backend=torch,tensorflow", "optimizer.foo=1"], ["optimizer.foo"]),
            (
                ["-m", "optimizer=adam,gd", "optimizer.beta1=0.8,0.9"],
                ["optimizer.beta1", "unknown"],
            ),
            (["optimizer.foo=1", "-m", "backend=torch,tensorflow"], ["optimizer.foo"]),
            (["optimizer=null"], ["optimizer=null", "gd"]),
            (["experiment=1"], ["experiment=1", "article_fit"]),
            (["optimizer=[gd,adam]"], ["optimizer=[gd,adam]", "momentum"]),
            (["experiment=../optimizer/gd"], ["experiment=../optimizer/gd", "article"]),
            (["hydra.launcher=nope"], ["hydra/launcher=name"]),
            (["hydra/launcher=nope"], ["hydra/launcher=nope", "joblib"]),
            (["hydra.run.dir=/proc/x"], ["hydra.run.dir", "/proc/x"]),
            (["hydra.output_subdir=/proc/1"], ["hydra.output_subdir=/proc/1", "name of a folder"]),
            (["--cfg", "nope"], ["--cfg=nope", "job, hydra"]),
            (["-m", "--run", "seed=1,2"], ["--run", "--multirun"]),
            (["-m", "seed=range(0,1e400)"], ["seed=range(0,1e400)", "no end"]),
            (["-m", "stages=[compare]", "seed=1,2"], ["stages", "compare"]),
            (["--cfg=nope"], ["--cfg=nope", "job, hydra"]),
            (["-m", "seed=range(0,1e15)"], ["seed=range(0,1e15)", "100000 jobs"]),
            (["-m", "seed=range(0,1000)", "data.n=range(1,1000)"], ["--multirun=999000", "100000"]),
            (
                ["-m", "experiment=../optimizer/gd,article"],
                ["experiment=../optimizer/gd", "article"],
            ),
            (["-m", "optimizer=null,gd"], ["optimizer=null,gd", "momentum"]),
            (["hydra.output_subdir=" + "x" * 300], ["hydra.output_subdir", "name of a folder"]),
            (["tracking.artifacts=" + "x/" * 2500], ["tracking.artifacts", "longer"]),
            (["tracking.artifacts=" + "x" * 300], ["tracking.artifacts", "longer"]),
            (["data.path=~nosuchuser/x.csv"], ["data.path=~nosuchuser/x.csv", "in quotes"]),
            (["model=polynomial", "model.degree=1000000"], ["model.degree=1000000", "1023"]),
            (["-m", "sweep.metric=nope", "seed=1,2"], ["sweep.metric=nope", "eval/mse"]),
            (["-m", "tracking.artifacts=s3://b/x", "seed=1,2"], ["tracking.artifacts=s3://b/x"]),
            (
                ["-m", "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.prefer=nope"],
                ["prefer=nope"],
            ),
        ],
        short=lambda number, _: number % 4 == 0,
    ),
)
def test_bad_config_is_one_line_and_leaves_nothing(tmp_path, overrides, names):
    done = call(*overrides, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert all(name in done.stderr for name in names), done.stderr
    assert not list(tmp_path.rglob("*"))


def test_sweep_over_an_unknown_key_leaves_no_parent(tmp_path):
    """Hydra would look at swept keys only after the parent was opened; here they are composed first."""
    done = call("-m", "optimizer.foo=1,2", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "optimizer.foo" in done.stderr
    assert not list(tmp_path.rglob("*"))


def test_a_job_that_breaks_before_its_run_opens_is_not_lost(tmp_path):
    """Whatever it raises: here its data cannot be written, which is no config error."""
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs/data").write_text("a file where a folder should be")
    done = call("-m", "seed=0,1", *SMALL, cwd=tmp_path)
    assert done.returncode == 1
    assert query(tmp_path, "select status from runs") == [("FAILED",)] * 3


@pytest.mark.long
def test_a_sweep_that_cannot_write_its_folder_leaves_no_parent(tmp_path):
    done = call("-m", "seed=0,1", "hydra.sweep.dir=/proc/no", *SMALL, cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "hydra.sweep.dir" in done.stderr
    assert "/proc/no" in done.stderr
    assert query(tmp_path, "select lifecycle_stage from runs") == [("deleted",)]


@pytest.mark.slow
def test_a_run_whose_files_the_store_cannot_take_was_not_killed(tmp_path):
    place = ("tracking.artifacts=/sys/no", "tracking.wait=1")
    done = call("-m", "seed=0,1", "backend=numpy", *SMALL, *place, cwd=tmp_path)
    assert done.returncode == 1
    assert "waits on disk" in done.stdout + done.stderr
    assert query(tmp_path, "select value from tags where key='error'") == []


@pytest.mark.parametrize(
    "uri",
    ["sqlite:////proc/no/x.db", "http://me:secret@127.0.0.1:9", "http://me:a secret@127.0.0.1:9"],
)
def test_unusable_store_is_found_before_a_run_starts(tmp_path, uri):
    done = call(f"tracking.uri={uri}", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "tracking.uri" in done.stderr
    assert "secret" not in done.stdout + done.stderr
    assert not list(tmp_path.rglob("*"))


def test_missing_device_is_named(tmp_path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is there")
    done = call("backend.device=cuda", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "backend.device=cuda" in done.stderr
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["optimizer.lr=-1"]])
def test_answers_before_anything_heavy_is_imported(tmp_path, arguments):
    code = (
        "import sys, atexit\n"
        "heavy = {'torch', 'tensorflow', 'keras', 'mlflow', 'matplotlib'}\n"
        "atexit.register(lambda: print('HEAVY', sorted(heavy & set(sys.modules))))\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "from pipeline.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert "HEAVY []" in done.stdout


@pytest.mark.parametrize(
    ("backend", "other"),
    tiered([("torch", "tensorflow"), ("tensorflow", "torch")], short=lambda *_: False),
)
def test_a_run_imports_only_its_own_framework(tmp_path, backend, other):
    code = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print('OTHER', {other!r} in sys.modules))\n"
        f"sys.argv[1:] = ['backend={backend}', 'train.epochs=2', 'data.n=5']\n"
        "from pipeline.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "OTHER False" in done.stdout
    assert done.stderr == ""


@pytest.mark.long
def test_nan_fails_the_job_and_the_sweep_goes_on(tmp_path):
    done = call("-m", "optimizer.lr=1e-3,10", *SMALL, cwd=tmp_path)
    assert done.returncode == 1
    assert "at step" in done.stderr
    assert "learning rate 10" in done.stderr
    runs = query(
        tmp_path,
        "select r.status, t.value from runs r join tags t on t.run_uuid = r.run_uuid"
        " and t.key = 'kind' order by r.start_time",
    )
    assert runs == [("FAILED", "sweep"), ("FINISHED", "run"), ("FAILED", "run")]
    failed = dict(query(tmp_path, "select key, value from tags where key like 'failed%'"))
    assert float(failed["failed.lr"]) == 10
    losses = query(tmp_path, "select max(step) from metrics where key='train/loss' and is_nan=0")
    assert losses[0][0] >= int(failed["failed.step"]) - 1


@pytest.mark.long
def test_bad_member_of_a_sweep_is_a_failed_job(tmp_path):
    done = call("-m", "data.n=20,0", *SMALL[:2], "data.n_test=10", cwd=tmp_path)
    assert done.returncode == 1
    assert "data.n=0" in done.stderr
    assert sorted(query(tmp_path, "select status from runs")) == [
        ("FAILED",), ("FAILED",), ("FINISHED",),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "code", "sweep"),
    tiered(
        [(signal.SIGINT, 130, False), (signal.SIGTERM, 143, True), (signal.SIGHUP, 129, False)],
        short=lambda number, _: number == 1,
    ),
)
def test_a_signal_closes_the_run_with_its_metrics(tmp_path, number, code, sweep):
    many = ["-m", "seed=0,1"] if sweep else []
    process = start(
        *many, "train.epochs=400000", "train.log_every=100", "tracking.model=false", cwd=tmp_path
    )
    for line in process.stdout:  # one step in 1,250 is a point of the stored curve
        if line.startswith("step ") and int(line.split()[1].split("/")[0]) >= 4_000:
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    single = r"no checkpoint yet to go on from|resume=\w{32} goes on after epoch \d+"
    assert len(re.findall("the same command goes on" if sweep else single, err)) == 1
    assert {status for (status,) in query(tmp_path, "select status from runs")} == {"KILLED"}
    assert query(tmp_path, "select count(*) from metrics where key='train/loss'")[0][0] > 1
    (path,) = tmp_path.glob("outputs/[rs]*s/**/record.json")
    record = RunRecord.load(path.parent)
    assert record.steps >= 100
    assert len(record.arrays["param/w"]) == record.steps + 1


def test_a_quiet_command_prints_its_last_line_alone_and_its_errors(tmp_path):
    done = call("backend=numpy", "terminal=quiet", *SMALL, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"linear in numpy: eval/mse \S+, .*, run [0-9a-f]{32}\n", done.stdout)
    swept = ("-m", "backend=numpy", "optimizer.lr=1e-3,1e9", "terminal=quiet", *SMALL)
    done = call(*swept, cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"2 runs; 1 not finished; best optimizer.lr=0.001 .*\n", done.stdout)
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("twingrad: "))
    assert re.search(r"job 1 \(optimizer.lr=1000000000.0\) failed in .* s: the loss became", line)
    compared = call("stages=[compare]", "compare.sweep=latest", "terminal=quiet", cwd=tmp_path)
    assert (compared.returncode, compared.stdout) == (0, done.stdout)  # no pair, as in the sweep


@pytest.mark.parametrize(("steps", "told"), [
    (3, "training was done; python -m pipeline 'stages=[evaluate]' run=ab scores it"),
    (2, "no checkpoint yet to go on from"), (None, "no checkpoint yet to go on from"),
])  # fmt: skip
def test_a_stopped_command_says_what_is_left_to_do(tmp_path, monkeypatch, capsys, steps, told):
    monkeypatch.chdir(tmp_path)
    if steps is not None:
        about = {"run": "ab", "config": {}, "status": "KILLED"}
        RunRecord(about=about, arrays={"loss": np.zeros(steps)}).save(tmp_path / "record")
    job = SimpleNamespace(
        rates=np.ones(3), settings=SimpleNamespace(train=SimpleNamespace(checkpoint=60.0))
    )
    commands._tell_continuation(job, tmp_path)
    assert told in capsys.readouterr().err


@pytest.mark.long
def test_a_runs_name_note_and_tags_are_the_users(tmp_path):
    words = (
        "tracking.run_name=mine",
        "tracking.note=Why",
        "tracking.tags.team=blue",
        "tracking.tags.a.b=1",
    )
    assert call("backend=numpy", *words, *SMALL, cwd=tmp_path).returncode == 0
    assert query(tmp_path, "select name from runs") == [("mine",)]
    compared = call("stages=[evaluate]", "run=" + query(tmp_path, "select run_uuid from runs")[0][0],
                    "terminal=quiet", cwd=tmp_path)  # fmt: skip
    assert compared.returncode == 0, compared.stderr
    tags = dict(query(tmp_path, "select key, value from tags"))
    assert (tags["team"], tags["a.b"], tags["mlflow.note.content"]) == ("blue", "1", "Why")
    assert tags["mlflow.user"]
    assert tags["mlflow.source.name"]
    assert tags["mlflow.source.git.commit"] == tags["git.commit"]
    (kind,) = query(tmp_path, "select value from experiment_tags where key='mlflow.experimentKind'")
    assert kind == ("custom_model_development",)
    for word, why in (
        ("tracking.tags.kind=x", "sets itself"),
        ("tracking.tags.a=[1]", "must be text"),
        ("tracking.tags.mlflow.user=x", "sets itself"),
        ("tracking.tags=1", "dictionary"),
    ):
        done = call("backend=numpy", word, *SMALL, cwd=tmp_path)
        assert (done.returncode, len(done.stderr.splitlines()), why in done.stderr) == (2, 1, True)


@pytest.mark.long
def test_a_signal_during_the_report_stops_the_sweep(tmp_path):
    program = (
        "import os, signal; from pipeline.cli.main import main; from pipeline.sweeps import close; "
        "close._report = lambda *a, **k: os.kill(os.getpid(), signal.SIGINT); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "-m", "seed=0,1", "backend=numpy", *SMALL],
        cwd=tmp_path, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 130
    assert done.stderr == "twingrad: stopped by Ctrl-C\n"
    assert sorted(query(tmp_path, "select status from runs")) == [
        ("FINISHED",), ("FINISHED",), ("KILLED",),
    ]  # fmt: skip


@pytest.mark.long
def test_other_once_only_settings_get_their_own_process(tmp_path):
    done = call("-m", "backend=tensorflow", "backend.threads=1,2", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(query(tmp_path, "select 1 from params where key='backend.threads'")) == 2


def test_stages_apart_and_scoring_again(tmp_path):
    assert call("stages=[train]", *SMALL, cwd=tmp_path).returncode == 2
    assert call("stages=[generate]", *SMALL, cwd=tmp_path).returncode == 0
    done = call("stages=[train]", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = query(tmp_path, "select run_uuid from runs")[0]
    assert not query(tmp_path, "select 1 from metrics where key='eval/mse'")
    scored = call("stages=[evaluate]", f"run={run}", cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    (mse,) = query(tmp_path, "select value from metrics where key='eval/mse'")[0]
    folder = next(tmp_path.rglob("artifacts/**/record.json")).parent
    record = RunRecord.load(folder)
    assert record.about["scores"]["mse"] == mse
    refused = call("stages=[evaluate]", f"run={run}", "data.n=5", cwd=tmp_path)
    assert (refused.returncode, "data.n" in refused.stderr) == (2, True)


@pytest.mark.long
def test_scalars_keep_losses_and_norms_only(tmp_path):
    done = call("record.trace=scalars", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "outputs/runs").rglob("record.json")
    arrays = RunRecord.load(path.parent).arrays
    assert {"loss", "lr", "grad_norm", "first/w", "last/w"} <= set(arrays)
    assert not [name for name in arrays if name.startswith(("param/", "grad/"))]
    assert np.isfinite(arrays["grad_norm"]).all()


SHORT = ("experiment=article", "backend=numpy", "train.epochs=3", "data.n=10", "data.n_test=5",
         "tracking.model=false", "tracking.figures=[png]")  # fmt: skip


@pytest.mark.parametrize(
    ("end", "extra"),
    tiered(
        [(">&- 2>&-", []), (">/dev/full", ["-m"]), ("| true", []),
         ("| cat", ["'sweep.title=\"é…×\"'", "-m"]), (">&-", []), (">/dev/full", []),
         (">/dev/full 2>/dev/full", [])],
        short=lambda number, _: number < 2,
    ),
)  # fmt: skip
@pytest.mark.long
def test_nobody_has_to_read_what_a_run_prints(tmp_path, end, extra):
    """A closed, full or ended stdout, and a terminal without the letters, stop no training."""
    words = " ".join([sys.executable, "-m", "pipeline", *(f"'{word}'" for word in SHORT), *extra])
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{words} {end}"], cwd=tmp_path, check=False,
        stderr=subprocess.PIPE, text=True,
        env=environment(PYTHONIOENCODING="ascii", LANG="C",
                        PYTHONPATH=str(Path(__file__).parents[1])),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert {status for (status,) in query(tmp_path, "select status from runs")} == {"FINISHED"}


@pytest.mark.long
def test_a_folder_that_another_run_writes_to_is_refused(tmp_path):
    place = "hydra.run.dir=outputs/same"
    first = start(
        "backend=numpy", place, "train.epochs=400000", "tracking.model=false", cwd=tmp_path
    )
    next(line for line in first.stdout if line.startswith("step "))
    second = call(*SHORT, place, "seed=3", cwd=tmp_path)
    assert (second.returncode, len(second.stderr.splitlines())) == (2, 1)
    assert "hydra.run.dir" in second.stderr
    assert "another run is being written there" in second.stderr
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert query(tmp_path, "select status from runs") == [("KILLED",)]
    assert RunRecord.load(tmp_path / "outputs/same/record").config["seed"] == 0
