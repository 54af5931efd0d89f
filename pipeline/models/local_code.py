"""The code that a model runs from outside installed packages: the source of each of its modules.

A module belongs to a model if it defines one of the model's layers or of the functions they hold, or is reached from
such a module: by an import statement, wherever it stands, or by what a global name refers to. That is the same in every
process, whatever else was imported before. What is installed is left out: versions of packages are in a run's record.
"""

import ast
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType

from torch import nn

from infra.storage.files import digest
from pipeline.models.stale_code import refuse_stale

OWN = ("infra", "jobs", "madcore", "pipeline")  # packages of this project, whose formats at rest have versions


def local_code(model: nn.Module, architecture: ModuleType, source: bytes, what: str) -> dict[str, bytes]:
    """The source of each module that a model's code comes from, by its name; without the architecture's own.

    Args:
        model: the model, built.
        architecture: the module of the function that built it.
        source: of that module.
        what: the architecture, as an error names it.

    Raises:
        SourceError: this process has imported a module that is not what its file holds now.
    """
    found: dict[str, bytes] = {}
    seen, package = {architecture.__name__}, architecture.__package__ or ""
    waiting = [package, *_imported(source, package), *_referred_to(architecture), *_layers(model)]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        path = _local_file(name)
        if path is not None:
            found[name] = path.read_bytes()
            waiting += _reached(name, path, found[name], what)
    return found


def _reached(name: str, path: Path, source: bytes, what: str) -> Iterator[str]:
    """Names of the modules that one reaches; its parents are imported before it."""
    parent = name.rpartition(".")[0]
    yield parent
    if path.suffix == ".py":
        yield from _imported(source, name if path.name == "__init__.py" else parent)
        if (loaded := sys.modules.get(name)) is not None:
            refuse_stale(loaded, source, what)
            yield from _referred_to(loaded)


def _layers(model: nn.Module) -> Iterator[str]:
    """Names of the modules that define a model's layers, their bases, and the functions that they hold."""
    for layer in model.modules():
        yield from (base.__module__ for base in type(layer).__mro__)
        yield from (_module_of(value) for value in vars(layer).values())


def _referred_to(module: ModuleType) -> Iterator[str]:
    """Names of the modules that a module's global names refer to.

    Left out are a package's modules, which become attributes of it whoever imports them.
    """
    for name, value in list(vars(module).items()):
        found = _module_of(value)
        if not (isinstance(value, ModuleType) and found == f"{module.__name__}.{name}"):
            yield found


def _module_of(value: object) -> str:
    """The name of the module that a value is, or that defines it; "" for other values."""
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return name if isinstance(name, str) else ""


def _imported(source: bytes, package: str) -> Iterator[str]:
    """What the import statements of a source in a package may mean by module names."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):  # of another Python, in a branch that never runs
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([part for part in (*above, node.module) if part])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _local_file(name: str) -> Path | None:
    """The file of a module from outside installed packages; None for any other, or where there is none."""
    if not name or name.partition(".")[0] in OWN:
        return None
    path = file_of(name)
    return None if path is None or any(path.is_relative_to(folder) for folder in _installed()) else path


def file_of(name: str) -> Path | None:
    """The file of a module, installed or not, found without importing any; None where there is none."""
    loaded = sys.modules.get(name)
    file = _origin(name) if loaded is None else getattr(loaded, "__file__", None)
    path = Path(file).resolve() if isinstance(file, str) else None
    return path if path is not None and path.is_file() else None


def is_unchanged(code: Mapping[str, str]) -> bool:
    """Whether the file of each of these modules still has this digest; none is imported."""
    paths = {name: file_of(name) for name in code}
    return all(path is not None and digest(path.read_bytes()) == code[name] for name, path in paths.items())


def _origin(name: str) -> str | None:
    """The file of a module that is not imported, found without importing any."""
    parts, places, origin = name.split("."), None, None
    for number in range(len(parts)):
        whole = ".".join(parts[: number + 1])
        specs = (finder.find_spec(whole, places) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next((found for found in specs if found is not None), None)
        if spec is None:
            return None
        places, origin = list(spec.submodule_search_locations or ()), spec.origin
    return origin


@cache
def _installed() -> tuple[Path, ...]:
    """The folders of the standard library and of installed packages."""
    folders = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders += [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    return tuple({Path(folder).resolve() for folder in folders})
