"""Where the code of a pair that is not ours lies, its digest, and its functions once imported.

Only `load_functions` runs code of the pair; all else reads files.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.machinery
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from pipeline.config.types import ConfigError

SIDES = ("torch", "tensorflow")

_allowed: set[tuple[str, ...]] = set()  # files of pairs that this process was told to run


class Located(NamedTuple):
    """Where one side's factory is: the key and the value that name it, its file and its name."""

    key: str
    text: str
    file: Path
    factory: str


class Functions(NamedTuple):
    """What a pair file has for one side; None for what it lacks.

    Attributes
    ----------
    make
        Makes the model.
    batch
        From a dictionary of NumPy arrays to what the model takes.
    loss
        ``(model, batch)`` to a scalar.
    optimizer
        ``(model)`` to the framework's optimizer.
    output
        From what the model returns to the tensor that counts.
    """

    make: Callable[[], Any]
    batch: Callable[[Any], Any] | None
    loss: Callable[[Any, Any], Any] | None
    optimizer: Callable[[Any], Any] | None
    output: Callable[[Any], Any] | None


def find_files(settings: Mapping[str, Any]) -> dict[str, Located]:
    """Return where each side's factory is; imports nothing.

    Raises
    ------
    ConfigError
        If a file or module is not there, or an import path is none.
    """
    path = settings["path"]
    if path is not None:
        file = Path(path).expanduser().absolute()
        if not file.is_file():
            raise ConfigError("model.path", path, "is no file")
        return {side: Located("model.path", path, file, f"{side}_model") for side in SIDES}
    located = {}
    for side in SIDES:
        key, text = f"model.{side}", str(settings[side])
        module, colon, factory = text.partition(":")
        if not colon or not factory.isidentifier() or not module.replace(".", "_").isidentifier():
            raise ConfigError(key, text, "must be package.module:factory")
        located[side] = Located(key, text, _find_module(module, key=key, text=text), factory)
    return located


def _find_module(name: str, *, key: str, text: str) -> Path:
    """Return the file of a module below the working directory or the import path."""
    places: list[str] = [str(Path.cwd()), *sys.path]
    origin = None
    for i in range(name.count(".") + 1):
        part = ".".join(name.split(".")[: i + 1])
        spec = importlib.machinery.PathFinder.find_spec(part, places)
        if spec is None:
            raise ConfigError(key, text, f"there is no module {part}")
        places, origin = list(spec.submodule_search_locations or ()), spec.origin
    if origin is None or not origin.endswith(".py"):
        raise ConfigError(key, text, f"{name} is no Python module")
    return Path(origin)


def list_names(file: Path) -> set[str] | None:
    """Return the names that a file binds at its top level; None where it imports all of a module.

    Raises
    ------
    SyntaxError
        If it is no Python.
    """
    names: set[str] = set()
    waiting: list[ast.AST] = list(ast.parse(file.read_bytes(), str(file)).body)
    while waiting:
        node = waiting.pop()
        if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)  # what stands inside of these is no top level
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    return None if "*" in names else names


def has_function(settings: Mapping[str, Any], name: str) -> bool:
    """Whether the pair's files bind a name: ``batches``, ``torch_loss``, ...; imports nothing."""
    side = next((side for side in SIDES if name.startswith(f"{side}_")), None)
    located = find_files(settings)
    files = {located[each].file for each in ([side] if side else SIDES)}
    return any(name in (list_names(file) or ()) for file in files)


def brings(settings: Mapping[str, Any], group: str, option: str) -> bool:
    """Whether a pair's own loss or optimizer is used: asked for by ``<group>=own``, and there.

    Where inference alone is judged, none is.

    Raises
    ------
    ConfigError
        If one side alone has it.
    """
    if option != "own" or not settings["train"]:
        return False
    there = {side: has_function(settings, f"{side}_{group}") for side in SIDES}
    if len(set(there.values())) > 1:
        lacking = next(side for side, has in there.items() if not has)
        reason = f"one side has a {group} of its own, and {lacking} has no {lacking}_{group}"
        raise ConfigError(f"{group}.name", "own", reason)
    return there["torch"]


def digest_code(settings: Mapping[str, Any]) -> str:
    """Return a SHA-256 over the pair's files and the modules beside them that they import."""
    digest = hashlib.sha256()
    for file in sorted({located.file for located in find_files(settings).values()}):
        for module in sorted(list_modules(file)):
            digest.update(f"{module.relative_to(file.parent)}\0".encode())
            digest.update(hashlib.sha256(module.read_bytes()).digest())
    return digest.hexdigest()


def list_modules(file: Path) -> set[Path]:
    """Return a file, and what it imports of the modules and packages beside it, itself and so on.

    Of a package every file counts.
    """
    folder, files, waiting = file.parent, set[Path](), [file]
    if (folder / "__init__.py").is_file():
        waiting += sorted(folder.rglob("*.py"))
    while waiting:
        path = waiting.pop()
        if path in files:
            continue
        files.add(path)
        for name in _list_imported(path):
            if (folder / f"{name}.py").is_file():
                waiting.append(folder / f"{name}.py")
            elif (folder / name / "__init__.py").is_file():
                waiting += sorted((folder / name).rglob("*.py"))
    return files


def _list_imported(file: Path) -> set[str]:
    """Return the first words of the modules that a file imports; none of one that is no Python."""
    names: set[str] = set()
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except (SyntaxError, ValueError):
        return names
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
            names |= {alias.name for alias in node.names} if node.level else set()
    return names


def allow(settings: Mapping[str, Any]) -> None:
    """Let this process run the code of a pair, because its command names it."""
    _allowed.add(_list_sources(settings))


def check_allowed(settings: Mapping[str, Any], digest: str) -> None:
    """Refuse to run code that a record names, unless the command names it, too, and it is the same.

    Parameters
    ----------
    settings
        The settings of the recorded model.
    digest
        Of the code that was recorded, as `digest_code` returned it.
    """
    path = settings["path"]
    key = "model.path" if path is not None else "model.torch"
    value = path if path is not None else settings["torch"]
    if _list_sources(settings) not in _allowed:
        named = f"{key}={value}" if path is not None else "model.torch=... model.tensorflow=..."
        reason = f"a record names this code; it is run only by a command with model=own {named}"
        raise ConfigError(key, value, reason)
    if digest_code(settings) != digest:
        raise ConfigError(key, value, "is not the code that was run; train the pair again")


def _list_sources(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the files and factories of a pair."""
    return tuple(f"{each.file}:{each.factory}" for each in find_files(settings).values())


def load_functions(settings: Mapping[str, Any], side: str) -> Functions:
    """Import one side's code, which runs it, and return its functions.

    Raises
    ------
    ConfigError
        If that raises, with the last line and place of its own traceback.
    """
    located = find_files(settings)[side]
    module = run(located, functools.partial(_load_module, settings, located))
    factory = getattr(module, located.factory, None)
    if not callable(factory):
        raise ConfigError(located.key, located.text, f"{located.factory} is no function")
    arguments = settings["settings"].get(side, {})
    named = {
        name: getattr(module, f"{side}_{name}", None)
        for name in ("batch", "loss", "optimizer", "output")
    }
    return Functions(make=functools.partial(run, located, factory, **arguments), **named)


def load_batches(settings: Mapping[str, Any]) -> Callable[..., Any] | None:
    """Import the pair's code and return its function ``batches``; None if it has none."""
    located = find_files(settings)["torch"]
    module = run(located, functools.partial(_load_module, settings, located))
    function: Callable[..., Any] | None = getattr(module, "batches", None)
    return function


def load_hints(settings: Mapping[str, Any]) -> Any:
    """Import the pair's code and return its ``same``: names that belong together."""
    located = find_files(settings)["torch"]
    module = run(located, functools.partial(_load_module, settings, located))
    return getattr(module, "same", {})


def _load_module(settings: Mapping[str, Any], located: Located) -> ModuleType:
    """Import the module of a factory."""
    if settings["path"] is None:
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(located.text.partition(":")[0])
    digest = hashlib.sha256(f"{located.file}\0{digest_code(settings)}".encode()).hexdigest()
    name = f"twingrad_pair_{digest[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    folder = str(located.file.parent)
    if folder not in sys.path:  # the modules beside it
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, located.file)
    assert spec is not None  # of a .py file that is there
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def run(located: Located, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call a function of the pair; what it raises becomes one line with its place."""
    try:
        return call(*arguments, **named)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(located.key, located.text, tell_error(error)) from error


def tell_error(error: BaseException) -> str:
    """Return an exception in one line: its type, what it says, and where it was raised."""
    last = next(reversed(traceback.extract_tb(error.__traceback__)), None)
    place = f" ({Path(last.filename).name}, line {last.lineno})" if last is not None else ""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    shown = text if len(text) <= 300 else f"{text[:300].rpartition(' ')[0]} ..."
    return f"{type(error).__name__}: {shown}{place}"
