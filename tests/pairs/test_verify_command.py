"""``experiment=verify`` as a user meets it: one command, its exit code, its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import call

HERE = Path(__file__).parent / "own"


@pytest.mark.long
def test_a_wrong_port_is_exit_code_1_with_a_verdict_file(tmp_path):
    given = ("experiment=verify", f"model.path={HERE / 'rules.py'}", "data.batches=2")
    named = [f"+model.settings.{side}.rule=adam" for side in ("torch", "tensorflow")]
    done = call(*given, *named, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    (path,) = tmp_path.glob("outputs/sweeps/*/*/verdict.json")
    verdict = json.loads(path.read_text())
    assert (verdict["verdict"], verdict["finding"]["rung"]) == ("FAIL", "update")
    assert done.stdout.strip().splitlines()[-1].startswith("1 pair: 1 FAIL")
    assert len(list(tmp_path.glob("outputs/pairs/*/map.yaml"))) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "def torch_model():\n    raise RuntimeError('no weights')\n", "no weights (port.py, line 2)",
            marks=pytest.mark.long,
        ),
        ("def torch_model(): ...\n", "has no tensorflow_model()"),
    ],
)  # fmt: skip
def test_a_bad_pair_is_exit_code_2_in_one_line_and_leaves_nothing(tmp_path, text, expected):
    other = "" if "has no" in expected else "def tensorflow_model(): ...\n"
    data = "def batches(rng):\n    yield {'x': rng.normal(size=(4, 3))}\n"
    (tmp_path / "port.py").write_text(text + other + data)
    done = call("experiment=verify", "model.path=port.py", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("twingrad: model.path=port.py: ")
    assert expected in line
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["port.py"]
