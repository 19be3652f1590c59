"""Write ``docs/loop_torch.py`` and ``docs/loop_tensorflow.py``: ``make docs``.

Each is the article's experiment in one file that needs NumPy and one framework. Functions and models
are cut out of the program's source and the numbers out of ``conf/``; only the frame below is
written here, once for both. A test holds the files to this script, and what they compute to the
program, bit by bit.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from string import Template
from typing import Any

from pipeline.config.compose import compose_values

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pipeline"

FRAME = Template('''"""The article's experiment in $framework, whole: data, model, loop and update in one file.

Written by ``docs/loops.py`` (``make docs``) out of the program's source; a test holds every step
to the program's, bit by bit. Read it beside ``loop_$other.py``: both have the same order.

    python docs/loop_$name.py                   prints the loss, w and b
    python docs/loop_$name.py trajectory.npz    saves every step of them as well
"""

import hashlib
import sys
from functools import partial
from types import SimpleNamespace

$imports

# What ``experiment=article`` sets.
SEED = $seed
DATA = $data
EPOCHS = $epochs
LOG_EVERY = $log_every
RATE = $rate


# Data: pipeline/seeds.py and pipeline/data/synthetic.py
$stream


$make_data


# Model: pipeline/pairs/builtin/$pair/$name.py, and its first values from spec.py beside it
$model


$first_values


# Loss: pipeline/losses.py, with the framework's own functions
OPS = SimpleNamespace($ops)


$loss


# Update: pipeline/optimizers.py
$rule


# Loop: written for this file
def load(model, values):
    """Put NumPy's first values into the parameters, which makes them float32."""
$load


def read(model):
    """Return the parameters by name; how a framework finds them is part of the comparison."""
$read


def step(model, x, y):
    """Forward, gradients, update by hand; return the loss from before the update."""
$step


def main():
    """Train, print, and save the trajectory where a path is given."""
$threads
    arrays, facts = $data_name(partial(stream, SEED), **DATA)
    x, y = ($tensor(arrays[key].astype("float32")) for key in ("x_train", "y_train"))
    model = $class_name(inputs=(1,), outputs=1)
    load(model, first_values(stream(SEED, "init"), inputs=(1,), outputs=1))

    losses, rows = [], [read(model)]
    for epoch in range(1, EPOCHS + 1):
        losses.append(step(model, x, y))
        rows.append(read(model))
        if epoch % LOG_EVERY == 0:
            w, b = rows[-1].values()
            print(f"epoch {epoch:4d}  loss {losses[-1]:.6f}  w {w:.6f}  b {b:.6f}")
    print(f"true values: {facts['truth']}")

    if len(sys.argv) > 1:
        path = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        np.savez(sys.argv[1], loss=np.array(losses), **path)


if __name__ == "__main__":
    main()
''')

PARTS = {
    "torch": {
        "framework": "PyTorch",
        "other": "tensorflow",
        "imports": "import numpy as np\nimport torch\nfrom torch import nn",
        "tensor": "torch.from_numpy",
        "threads": "torch.set_num_threads(1)  # the order of a sum may depend on it",
        "load": """
with torch.no_grad():
    for name, value in values.items():
        getattr(model, name).copy_(torch.from_numpy(value))
""",
        "read": "return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}",
        "step": """
value = $loss_name(model(x), y, ops=OPS)
value.backward()
with torch.no_grad():
    for p in model.parameters():
        $rule_name(p, p.grad, (), lr=RATE, sqrt=torch.sqrt)  # changes p in place
        p.grad = None  # or the next backward() would add to it
return value.detach().numpy()
""",
    },
    "tensorflow": {
        "framework": "TensorFlow",
        "other": "torch",
        "imports": "import keras\nimport numpy as np\nimport tensorflow as tf",
        "tensor": "tf.constant",
        "threads": """
tf.config.threading.set_intra_op_parallelism_threads(1)  # the order of a sum may depend on it
tf.config.threading.set_inter_op_parallelism_threads(1)
""",
        "load": """
for name, value in values.items():
    getattr(model, name).assign(value)
""",
        "read": "return {v.name: v.numpy() for v in model.trainable_variables}",
        "step": """
with tf.GradientTape() as tape:
    value = $loss_name(model(x), y, ops=OPS)
gradients = tape.gradient(value, model.trainable_variables)
for v, g in zip(model.trainable_variables, gradients, strict=True):
    w, _ = $rule_name(tf.convert_to_tensor(v), g, (), lr=RATE, sqrt=tf.sqrt)  # a new tensor
    v.assign(w)
return value.numpy()
""",
    },
}


def page(name: str) -> str:
    """Return the file of one framework."""
    values = compose_values(("experiment=article",))
    data = {key: value for key, value in values["data"].items() if key != "name"}
    pair, data_name = values["model"]["name"], values["data"]["name"]
    loss, rule = values["loss"]["name"], values["optimizer"]["name"]
    twins = PACKAGE / "pairs" / "builtin" / pair
    names = {"loss_name": loss, "rule_name": rule}
    parts = {key: Template(text).substitute(names) for key, text in PARTS[name].items()}
    parts |= {key: _indented(parts[key]) for key in ("threads", "load", "read", "step")}
    return FRAME.substitute(
        parts,
        name=name,
        pair=pair,
        data_name=data_name,
        class_name=pair.capitalize(),
        seed=values["seed"],
        data=repr(data).replace("'", '"'),
        epochs=values["train"]["epochs"],
        log_every=values["train"]["log_every"],
        rate=values["optimizer"]["lr"],
        stream=cut_function(PACKAGE / "seeds.py", "stream"),
        make_data=cut_function(PACKAGE / "data" / "synthetic.py", data_name),
        model=cut_class(twins / f"{name}.py", pair.capitalize()),
        first_values=cut_function(twins / "spec.py", "first_values"),
        ops=read_ops(PACKAGE / "backends" / name / "tensors.py", ("mean", "square")),
        loss=cut_function(PACKAGE / "losses.py", loss),
        rule=cut_function(PACKAGE / "optimizers.py", rule),
    )


def cut_function(path: Path, name: str) -> str:
    """Return a function's source without annotations, decorators and refusals of wrong values.

    Of its docstring the first line stays.
    """
    text = path.read_text()
    node = _find(text, name, ast.FunctionDef)
    for argument in ast.walk(node.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    first, *body = node.body
    summary = (ast.get_docstring(node) or "").splitlines()[0]
    start = (first.end_lineno or 0) + 1
    lines = text.splitlines()
    kept = []
    for statement in body:
        end = statement.end_lineno or 0
        if not _refuses(statement):
            kept += lines[start - 1 : end]  # with the comments above it
        start = end + 1
    head = f'def {name}({ast.unparse(node.args)}):\n    """{summary}"""\n'
    return head + "\n".join(kept).strip("\n")


def cut_class(path: Path, name: str) -> str:
    """Return a class's source with its decorators and its docstring, without those of its methods."""
    text = path.read_text()
    node = _find(text, name, ast.ClassDef)
    start = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    left_out: set[int] = set()
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and ast.get_docstring(method):
            left_out |= set(range(method.body[0].lineno, (method.body[0].end_lineno or 0) + 1))
    lines = enumerate(text.splitlines()[: node.end_lineno], start=1)
    return "\n".join(line for i, line in lines if i >= start and i not in left_out)


def read_ops(path: Path, names: tuple[str, ...]) -> str:
    """Return some of a backend's functions for losses, as the arguments that name them."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "OPS":
            assert isinstance(node.value, ast.Call)
            found = {word.arg: ast.unparse(word.value) for word in node.value.keywords}
            return ", ".join(f"{name}={found[name]}" for name in names)
    raise ValueError(f"{path} has no OPS")


def _find(text: str, name: str, kind: type) -> Any:
    for node in ast.parse(text).body:
        if isinstance(node, kind) and getattr(node, "name", None) == name:
            return node
    raise ValueError(f"no {name} in the source")


def _refuses(statement: ast.stmt) -> bool:
    """Whether a statement only refuses a wrong value."""
    if isinstance(statement, ast.If):
        return not statement.orelse and all(isinstance(s, ast.Raise) for s in statement.body)
    return ast.unparse(statement).startswith("_check_")


def _indented(text: str) -> str:
    lines = inspect.cleandoc(text).splitlines()
    return "\n".join(f"    {line}" for line in lines)


if __name__ == "__main__":
    for framework in PARTS:
        (ROOT / "docs" / f"loop_{framework}.py").write_text(page(framework))
