"""No circle of files: the graph of imports, those in functions and under `if TYPE_CHECKING` included, has no cycle."""

import ast
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

PACKAGES = ("madcore", "infra", "pipeline", "jobs")


def module_name(path: Path, root: Path) -> str:
    """The dotted name of a file below the root; a package's `__init__.py` has the package's name."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, name: str, modules: Mapping[str, Path]) -> set[str]:
    """The modules, of these, that a file imports anywhere.

    `from package import name` is an import of the module `package.name` if there is one, and otherwise of the package.
    """
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = source(node, name, is_package=path.name == "__init__.py")
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base for alias in node.names}
    return (found & modules.keys()) - {name}


def source(node: ast.ImportFrom, name: str, is_package: bool) -> str:
    """What a `from ... import` in this module names, relative ones resolved."""
    if not node.level:
        return node.module or ""
    above = name.split(".")[: None if is_package and node.level == 1 else is_package - node.level]
    return ".".join([*above, *([node.module] if node.module else [])])


def import_graph(root: Path, packages: tuple[str, ...]) -> dict[str, set[str]]:
    """For each module of these packages, the others of them that it imports."""
    modules = {module_name(path, root): path for package in packages for path in (root / package).rglob("*.py")}
    return {name: imported_modules(path, name, modules) for name, path in modules.items()}


def cycle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """The modules of a cycle, each imported by the next, the first one repeated at the end; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = import_graph(REPOSITORY, PACKAGES)
    assert len(graph) > 150
    assert cycle_in(graph) == []


CYCLES = {
    "in a function": {"a": "def f():\n    import mad.b\n", "b": "from mad.a import f\n"},
    "for types": {"a": "if TYPE_CHECKING:\n    from mad import b\n", "b": "import mad.a as a\n"},
    "relative": {"a": "from . import b\n", "b": "from .a import f\n"},
    "of three": {"a": "import mad.b", "b": "import mad.c", "c": "def f():\n    from mad import a\n"},
    "through a package": {"__init__": "from mad.a import f\n", "a": "def f():\n    from mad import VERSION\n"},
}


@pytest.mark.parametrize("files", CYCLES.values(), ids=CYCLES.keys())
def test_a_circle_is_found_however_the_files_import_each_other(files: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "mad").mkdir()
    for name, text in {"__init__": "", **files}.items():
        (tmp_path / "mad" / f"{name}.py").write_text(text)
    assert cycle_in(import_graph(tmp_path, ("mad",)))


def test_a_chain_of_imports_is_no_circle(tmp_path: Path) -> None:
    (tmp_path / "mad" / "inner").mkdir(parents=True)
    files = {
        "__init__": "",
        "a": "import os\nfrom mad import b\n",
        "b": "from mad.inner.c import f\n",
        "inner/__init__": "",
        "inner/c": "from .d import f\n",
        "inner/d": "",
    }
    for name, text in files.items():
        (tmp_path / "mad" / f"{name}.py").write_text(text)
    graph = import_graph(tmp_path, ("mad",))
    assert graph == {
        "mad": set(),
        "mad.a": {"mad.b"},
        "mad.b": {"mad.inner.c"},
        "mad.inner": set(),
        "mad.inner.c": {"mad.inner.d"},
        "mad.inner.d": set(),
    }
    assert cycle_in(graph) == []
