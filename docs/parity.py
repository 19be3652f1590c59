"""Write the example and the pictures of ``docs/parity.md`` by running them: ``make docs``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
TWIN = Path("pipeline/pairs/builtin/mlp/torch.py")
RIGHT = "partial(nn.LayerNorm, eps=norm_epsilon, elementwise_affine=True, bias=True)"
WRONG = "partial(nn.LayerNorm, elementwise_affine=True, bias=True)"
RUN = ("-m", "backend=torch,tensorflow", "experiment=digits_mlp", "model.norm=layer",
       "model.norm_epsilon=1e-3", "train.epochs=3", "parity.show=all")  # fmt: skip
PICTURES = {"distance": "parity-distance", "ladder": "parity-ladder"}


def sweep(folder: Path, *, line: str) -> tuple[str, int, Path]:
    """Run the pair with that line in the twin; return what was printed, exit code and plots."""
    for part in ("pipeline", "conf"):
        shutil.copytree(ROOT / part, folder / part)
    twin = folder / TWIN
    text = twin.read_text()
    assert RIGHT in text, f"{TWIN} no longer has the line of the example"
    twin.write_text(text.replace(RIGHT, line))
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *RUN], cwd=folder, capture_output=True, text=True,
        env=environment | {"COLUMNS": "100", "PYTHONPATH": str(folder)},
    )  # fmt: skip
    plots = next(folder.glob("outputs/sweeps/*/*/plots"))
    return done.stdout, done.returncode, plots


def told(printed: str) -> str:
    """Return the ladder of what was printed: no progress, other tables, places or times."""
    lines = printed[printed.index(" rung ", printed.index("probing")) :].splitlines()
    other = re.compile(r"(plots|report|MLflow|A step takes)\b")
    kept = [line.rstrip() for line in lines if not other.match(line)]
    return "\n".join(kept).rstrip()


def main() -> None:
    """Run the wrong port and the right one, and put both into the page."""
    with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
        wrong, bad, plots = sweep(Path(a), line=WRONG)
        right, good, others = sweep(Path(b), line=RIGHT)
        for name, target in PICTURES.items():
            shutil.copy(others / f"{name}.png", HERE / f"{target}.png")
            shutil.copy(plots / f"{name}.png", HERE / f"{target}-wrong.png")
    command = "python -m pipeline " + " ".join(RUN)
    example = f"""A Keras model with layer norm is ported, epsilon and all; Keras's default is 1e-3. The port says

```python
make = {WRONG}
```

and trains. Its loss is a little off, nothing crashes.

```
$ {command}
{told(wrong)}
```

The exit code is {bad}. The finding names the first activation that differs: everything up to the first layer agrees, the
norm after it does not. The line that makes this norm does not pass `eps`, and PyTorch's own default is 1e-5:

```python
make = {RIGHT}
```

```
{told(right)}
```

Exit code {good}.
"""
    pictures = """![Each tensor's distance over its bound at each step, of the right pair](parity-distance.png)
![The same of the wrong port](parity-distance-wrong.png)
![Each tensor's largest distance over its bound, rung by rung, of the right pair](parity-ladder.png)
![The same of the wrong port](parity-ladder-wrong.png)
"""
    page = HERE / "parity.md"
    text = page.read_text()
    for name, body, after in (
        ("pictures", pictures, "## A wrong"),
        ("example", example, "## parity.json"),
    ):
        head = text.index(f"<!-- {name} -->")
        tail = text.index(after, head)
        text = f"{text[:head]}<!-- {name} -->\n\n{body}\n{text[tail:]}"
    page.write_text(text)


if __name__ == "__main__":
    main()
