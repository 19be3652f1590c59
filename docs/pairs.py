"""Write ``docs/pairs.md`` from the twins' own source: each pair side by side.

``make docs`` runs it; a test fails while the page is not what it writes.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """# The pairs, side by side

Made from the source by `make docs`; a test keeps it true. Left PyTorch, right TensorFlow: the
subclass, its forward pass and its name map. What both share (names, shapes and first values of the
parameters) is in each pair's `spec.py`.
"""


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for folder in sorted((ROOT / "pipeline" / "pairs" / "builtin").iterdir()):
        if not (folder / "spec.py").is_file():
            continue
        spec = ast.parse((folder / "spec.py").read_text())
        about = (ast.get_docstring(spec) or "").split("\n\n")[0].replace("\n", " ")
        parts.append(f"## {folder.name}\n\n{about.replace('``', '`')}\n\n{differs(spec)}\n")
        cells = [
            f'<td valign="top">\n\n```python\n{body(folder / f"{side}.py")}\n```\n\n</td>'
            for side in ("torch", "tensorflow")
        ]
        head = "<tr><th>PyTorch</th><th>TensorFlow</th></tr>"
        parts.append(f"<table>\n{head}\n<tr>\n" + "\n".join(cells) + "\n</tr>\n</table>\n")
    return "\n".join(parts)


def differs(spec: ast.Module) -> str:
    """Return a pair's sentence on what differs between its twins, and why."""
    for node in spec.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "DIFFERS":
            return f"**What differs, and why.** {ast.literal_eval(node.value)}"
    raise ValueError("a pair's spec.py says in DIFFERS what differs between its twins, and why")


def body(path: Path) -> str:
    """Return a twin's source without its first docstring and its imports."""
    text = path.read_text()
    start = next(
        node.lineno - 1 if not getattr(node, "decorator_list", None)
        else node.decorator_list[0].lineno - 1
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Assign)
    )  # fmt: skip
    return "\n".join(text.splitlines()[start:]).strip()


if __name__ == "__main__":
    (ROOT / "docs" / "pairs.md").write_text(page())
