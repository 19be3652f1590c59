"""The library's face: the same files and verdicts as the commands, without their effects."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment

import pipeline
from pipeline import ConfigError, compare, run
from pipeline.config.compose import compose_values

SMALL = ("experiment=article", "train.epochs=5", "data.n=20", "data.n_test=10",
         "tracking.model=false", "tracking.figures=[png]")  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.long
def test_two_runs_and_their_verdict_twice_in_a_process(here):
    handlers = {number: signal.getsignal(number) for number in signal.Signals
                if number not in (signal.SIGKILL, signal.SIGSTOP)}  # fmt: skip
    level, place = logging.getLogger().level, Path.cwd()
    for again in range(2):
        sides = [run(*SMALL, f"backend={backend}") for backend in ("torch", "tensorflow")]
        for side in sides:
            assert len(side.record.arrays["loss"]) == 5
            assert side.scores["mse"] == side.record.about["scores"]["mse"]
            assert (side.folder / "record/record.json").is_file()
            assert side.run_id
        result = compare(*sides)
        assert (result.verdict, result.exit_code, result.finding) == ("PASS", 0, None)
        assert [rung.name for rung in result.rungs][:3] == ["data", "init", "forward"]
        assert (result.folder / "report.html").is_file()
        by_name = compare(sides[0].folder, sides[1].run_id, folder=here / f"again{again}")
        assert by_name.verdict == "PASS"
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert (logging.getLogger().level, Path.cwd()) == (level, place)


@pytest.mark.long
def test_a_difference_is_found_and_named(here):
    """Keras's Adam has its epsilon beside another root than PyTorch's."""
    native = ("train.loop=native", "optimizer=adam", "optimizer.epsilon=1e-3")
    result = compare(*(run(*SMALL, *native, f"backend={b}") for b in ("torch", "tensorflow")))
    assert (result.verdict, result.exit_code) == ("FAIL", 1)
    assert result.finding is not None
    assert result.finding.rung == "update"


@pytest.mark.long
def test_each_folder_has_a_store_of_its_own(here, monkeypatch):
    for name in ("a", "b"):
        (here / name).mkdir()
        monkeypatch.chdir(here / name)
        result = run(*SMALL, "backend=numpy")
        with sqlite3.connect(here / name / "outputs/mlflow.db") as store:
            assert store.execute("select run_uuid from runs").fetchall() == [(result.run_id,)]


def test_it_runs_where_an_event_loop_runs(here):
    async def cell():
        return run(*SMALL, "backend=numpy")

    assert asyncio.run(cell()).record.about["status"] == "FINISHED"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("optimizer.lr=-1",), "optimizer.lr=-1"),
        (("optimizer=foo",), "optimizer=foo: must be one of adadelta"),
        (("nothing=1",), "nothing: unknown key; allowed here: backend"),
        (("stages=[compare]",), "stages"),
        (("stages=[generate]",), "must have train"),
        (("run=abc",), "run=abc"),
        (("data=file",), "data.path"),
    ],
)
def test_a_wrong_value_is_one_line_and_leaves_nothing(here, overrides, said):
    with pytest.raises(ConfigError) as caught:
        run(*overrides)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not os.listdir(here)


def test_a_run_that_is_not_there_is_named(here):
    with pytest.raises(ConfigError, match="no such store"):
        compare("abc", "def")


def test_the_readmes_example_runs(here, capsys):
    text = (Path(pipeline.__file__).parents[1] / "README.md").read_text()
    code = text.partition("## As a library\n```python\n")[2].partition("```")[0]
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-1].startswith("PASS None ")


def test_hydra_is_left_as_it_was():
    from hydra.core.global_hydra import GlobalHydra

    compose_values(["backend=torch"])
    assert not GlobalHydra.instance().is_initialized()


SCRIPT = """
from pipeline import compare, run
a = run(*{small!r}, "backend=tensorflow")
b = run(*{small!r}, "backend=tensorflow", "backend.threads=2")
c = run(*{small!r}, "backend=torch", "backend.threads=2")
try:
    compare(b, c)
except RuntimeError as error:
    print("new process" in str(error))
print(len(a.record.arrays["loss"]), len(b.record.arrays["loss"]), b.run_id != a.run_id)
"""


@pytest.mark.long
def test_a_script_without_a_guard_may_start_tensorflow_in_two_ways(here):
    """The second run needs other threads, so a process of its own; it must not run the script."""
    (here / "script.py").write_text(SCRIPT.format(small=SMALL))
    root = str(Path(pipeline.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=here, capture_output=True, text=True, check=False,
        env=environment(PYTHONPATH=root),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["True", "5 5 True"]


def test_importing_the_package_imports_nothing_and_unknown_names_are_refused():
    code = "import sys, pipeline; print([m for m in sys.modules if m.startswith('pipeline.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=Path(pipeline.__file__).parents[1])  # fmt: skip
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="nothing"):
        pipeline.nothing  # noqa: B018
