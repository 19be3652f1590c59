"""Write ``docs/api.md`` from the docstrings: ``make docs``. A test fails while the page is not what it writes.

The source is read, not imported, so that a signature stands there as it is written.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """# Reference

Made from the docstrings by `make docs`; a test keeps it true. Names are grouped by the module that they are imported from.
How to use `run` and `compare` is shown in [tour.ipynb](tour.ipynb).
"""
# Title, the module to import from, files with names of each; without names all public functions, then classes.
SECTIONS: list[tuple[str, str, list[tuple[str, list[str]]]]] = [
    ("The library", "pipeline", [
        ("api.py", ["run", "compare", "RunResult", "ComparisonResult"]),
        ("config/types.py", ["ConfigError"]),
    ]),
    ("What a verdict is made of", "pipeline.parity.verdict", [("parity/verdict.py", ["Rung", "Finding"])]),
    ("What a run was and did", "pipeline.record.record", [("record/record.py", ["RunRecord"])]),
    ("A loss that is no number", "pipeline.record.trace", [("record/trace.py", ["NonFiniteLossError"])]),
    ("Pairs", "pipeline.pairs.pair", [("pairs/pair.py", ["Pair", "Side", "Place"])]),
    ("Pairs by name", "pipeline.pairs.registry", [("pairs/registry.py", [])]),
    ("Update rules", "pipeline.optimizers", [("optimizers.py", [])]),
    ("Losses", "pipeline.losses", [("losses.py", [])]),
    ("Schedules", "pipeline.schedules", [("schedules.py", [])]),
]  # fmt: skip
Definition = ast.FunctionDef | ast.ClassDef


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for title, module, files in SECTIONS:
        parts.append(f"## {title}\n\n`{module}`\n")
        for file, names in files:
            for node in find_definitions(ROOT / "pipeline" / file, names):
                parts.append(describe(node))
    return "\n".join(parts)


def find_definitions(path: Path, names: list[str]) -> list[Definition]:
    """Return the definitions of these names, or all public ones, in the order of the file."""
    nodes = {n.name: n for n in ast.parse(path.read_text()).body if isinstance(n, Definition)}
    return [nodes[name] for name in names or nodes if not name.startswith("_")]


def describe(node: Definition) -> str:
    """Return a function or a class with its public methods: signature and docstring."""
    if isinstance(node, ast.FunctionDef):
        return f"### {node.name}\n\n```python\n{signature(node)}\n```\n\n{prose(node)}\n"
    parts = [f"### {node.name}\n\n```python\n{class_signature(node)}\n```\n\n{prose(node)}\n"]
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
            is_property = any(ast.unparse(d) == "property" for d in method.decorator_list)
            shown = f"{node.name}.{signature(method, bound=True)}"
            if is_property:
                shown = shown.replace("()", "", 1)
            parts.append(f"```python\n{shown}\n```\n\n{prose(method)}\n")
    return "\n".join(parts)


def signature(node: ast.FunctionDef, *, bound: bool = False) -> str:
    """Return a function's name, parameters and return type, one parameter a line where it is long."""
    given = ast.parse(ast.unparse(node.args).join(("def f(", "): pass"))).body[0]
    assert isinstance(given, ast.FunctionDef)
    if bound:
        given.args.args.pop(0)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    parameters = [re.sub(r"(: [^=]+)=", r"\1 = ", each) for each in _split(ast.unparse(given.args))]
    return wrapped(node.name, parameters, returns)


def class_signature(node: ast.ClassDef) -> str:
    """Return what makes an instance: the parameters of ``__init__``, or the fields."""
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            return (
                signature(method, bound=True)
                .replace("__init__", node.name, 1)
                .removesuffix(" -> None")
            )
    fields = [ast.unparse(f) for f in node.body if isinstance(f, ast.AnnAssign)]
    fields = [
        re.sub(r"dataclasses\.field\(default_factory=dict\b.*\)", "{}", each) for each in fields
    ]
    decorator = " ".join(ast.unparse(d) for d in node.decorator_list)
    return wrapped(node.name, ["*", *fields] if "kw_only=True" in decorator else fields, "")


def wrapped(name: str, parameters: list[str], returns: str) -> str:
    """Return ``name(parameters)``, broken into lines where it is long."""
    line = f"{name}({', '.join(parameters)}){returns}"
    if len(line) <= 100:
        return line
    return f"{name}(\n" + "".join(f"    {each},\n" for each in parameters) + f"){returns}"


def _split(text: str) -> Iterator[str]:
    """Split parameters at commas outside of brackets."""
    depth, start = 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            yield text[start:i].strip()
            start = i + 1
    if text[start:].strip():
        yield text[start:].strip()


def prose(node: Definition) -> str:
    """Return a numpydoc docstring as Markdown: each of its sections is a list."""
    lines = inspect.cleandoc(ast.get_docstring(node) or "").splitlines()
    parts, i = [], 0
    while i < len(lines):
        if i + 1 < len(lines) and re.fullmatch("-{3,}", lines[i + 1]):
            parts.append(f"**{lines[i]}**\n")
            i += 2
        elif i + 1 < len(lines) and lines[i] and lines[i + 1].startswith("    "):
            names = ", ".join(f"`{name.strip()}`" for name in lines[i].split(","))
            i += 1
            body = []
            while i < len(lines) and (lines[i].startswith("    ") or not lines[i]):
                body.append(lines[i].strip())
                i += 1
            parts.append(f"- {names}: " + "\n  ".join(part for part in body if part))
            if body and not body[-1]:
                parts.append("")
        else:
            parts.append(lines[i])
            i += 1
    return re.sub("``(.+?)``", r"`\1`", "\n".join(parts), flags=re.S).strip()


if __name__ == "__main__":
    (ROOT / "docs" / "api.md").write_text(page())
