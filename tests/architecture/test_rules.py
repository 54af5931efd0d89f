"""House rules that import-linter does not check: who may import Ray, print, set up logging; no empty words in names."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("madcore", "infra", "pipeline", "jobs")
FILES = [path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))]
EMPTY_WORDS = re.compile(r"util|helper|manager|processor", re.IGNORECASE)


@cache
def trees() -> list[tuple[str, ast.Module]]:
    """The syntax tree of each file, by its path in the repository."""
    return [(path.relative_to(REPOSITORY).as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in FILES]


def imports(tree: ast.Module) -> set[str]:
    """The top-level packages that a module imports anywhere."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


ONLY_IN = {
    "ray": {"infra/execution/on_ray.py"},
    "transformers": {
        "pipeline/inputs/recipes/library.py",
        "pipeline/data/texts/tokenizers.py",
        *(
            f"pipeline/models/huggingface/{name}.py"
            for name in ("heads", "knowledge", "limits", "loaded_weights", "loading")
        ),
    },
    "peft": {"pipeline/models/adapters/loading.py"},
    "typer": {"jobs/commands.py", "jobs/console.py", "jobs/main.py", "jobs/reading/verification.py", "jobs/stage.py"},
    "s3fs": {"infra/storage/s3.py"},
}


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_package_is_imported_where_it_belongs_and_nowhere_else(package: str) -> None:
    assert {name for name, tree in trees() if package in imports(tree)} == ONLY_IN[package]


def test_only_jobs_print_or_set_up_logging() -> None:
    calls = {
        (name, ast.unparse(node.func))
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "logging.basicConfig")
    }
    assert calls
    assert {name for name, _ in calls if not name.startswith("jobs/")} == set()


def test_names_say_something() -> None:
    names = [name for name, _ in trees()]
    names += [
        node.name for _, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)
    ]
    assert [name for name in names if EMPTY_WORDS.search(name)] == []


def test_the_numerics_know_no_clock_file_or_environment() -> None:
    outside = {"os", "pathlib", "time", "datetime", "io", "random", "logging", "tempfile", "subprocess"}
    assert {
        name: imports(tree) & outside
        for name, tree in trees()
        if name.startswith("madcore/") and imports(tree) & outside
    } == {}


def test_no_module_imports_a_private_name_of_another() -> None:
    private = {
        (name, alias.name)
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PACKAGES
        for alias in node.names
        if alias.name.startswith("_")
    }
    assert private == set()
