"""Write ``docs/tour.ipynb``: ``make docs``. Its cells are run once, and what they print is kept beside them.

A notebook is JSON (nbformat 4), so it needs no package of its own to be written, or to be run in a
test: the code cells are executed in their order in one namespace.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CELLS = [
    ("markdown", """# A tour in six cells

Trains the article's experiment in PyTorch and in TensorFlow, looks at what was recorded, and asks whether the two agree.
Run it in a folder of its own: runs are written to `outputs/` there. Any program that opens notebooks will do; none comes
with the project. `tracking.model=false` leaves out the model's own file in MLflow, which takes some seconds.

Made by `docs/tour.py` (`make docs`). A test runs the cells and compares what they print."""),
    ("code", """from pipeline import ConfigError, compare, run

article = ("experiment=article", "train.epochs=20", "tracking.model=false")
a = run(*article, "backend=torch")
b = run(*article, "backend=tensorflow")
for side in (a, b):
    print(f"{side.record.backend:10}  mean squared error of the test set {side.scores['mse']:.4f}")"""),
    ("markdown", """A record has every step. Row 0 of a parameter is its start; the loss of step k is the one before update k."""),
    ("code", """loss, w = a.record.arrays["loss"], a.record.arrays["param/w"]
print(loss.dtype, loss.shape, w.shape)
for k in (1, 2, 20):
    print(f"step {k:2}  loss {loss[k - 1]:.4f}  w before {w[k - 1]:.4f}, after {w[k]:.4f}")"""),
    ("markdown", """`compare` makes every step of both sides again from equal states, in float32 and in float64, and judges rung by rung.
The same page that the command writes is in `result.folder`."""),
    ("code", """result = compare(a, b)
print(result.verdict)
for rung in result.rungs:
    print(f"  {rung.name:10}  {rung.verdict}")
print((result.folder / "report.html").is_file())"""),
    ("markdown", """Two runs with different settings are no pair. They are not judged, and the note says why."""),
    ("code", """other = run(*article, "backend=tensorflow", "optimizer.lr=2e-3")
result = compare(a, other)
print(result.verdict, result.exit_code)
print(result.notes[0])"""),
    ("markdown", """Two runs with the same settings that mean different things are a FAIL. With `train.loop=native` each framework uses its own
Adam. Keras adds epsilon at another place than PyTorch, which a large epsilon makes visible. The finding is the first place
where the two differ, with both values."""),
    ("code", """adam = ("train.loop=native", "optimizer=adam", "optimizer.lr=1e-2", "optimizer.epsilon=1e-3")
result = compare(run(*article, *adam, "backend=torch"), run(*article, *adam, "backend=tensorflow"))
found = result.finding
print(result.verdict, result.exit_code)
print(f"a difference of {found.kind} in {found.rung} of step {found.step}, in {found.tensor}:")
print(f"{found.a:.4f} in PyTorch, {found.b:.4f} in TensorFlow")
print(f"until then these agreed: {found.agreed}")"""),
    ("markdown", """A wrong value is refused before anything is created, in one line."""),
    ("code", """try:
    run("optimizer.lr=fast")
except ConfigError as error:
    print(error)"""),
]  # fmt: skip


def run_cells() -> list[str]:
    """Run the code cells in their order in one namespace, here; return what each printed.

    Lines that name a run's id and folder are left out: they are others each time.
    """
    printed: list[str] = []
    names: dict[str, Any] = {}
    for kind, source in CELLS:
        if kind == "code":
            shown = io.StringIO()
            with contextlib.redirect_stdout(shown):
                exec(compile(source, "cell", "exec"), names)
            lines = shown.getvalue().splitlines(keepends=True)
            printed.append("".join(line for line in lines if not line.startswith("run     ")))
    return printed


def notebook(printed: list[str]) -> str:
    """Return the notebook as JSON, with what its code cells printed."""
    outputs, cells = iter(printed), []
    for number, (kind, source) in enumerate(CELLS):
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
        if kind == "code":
            text = next(outputs)
            cell["execution_count"] = sum(each == "code" for each, _ in CELLS[: number + 1])
            cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": _lines(text)}]
        cells.append(dict(sorted((cell | {"source": _lines(source)}).items())))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    page = {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(page, indent=1, ensure_ascii=False) + "\n"


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            text = notebook(run_cells())
        finally:
            os.chdir(ROOT)
    (ROOT / "docs" / "tour.ipynb").write_text(text)
