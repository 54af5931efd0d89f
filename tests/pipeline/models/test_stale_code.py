"""A module is what its file holds, or is refused."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.errors import SourceError
from pipeline.models.stale_code import refuse_stale

SOURCE = '''"""A network."""

import functools

WIDTH, NAMES = 8, ["a"]
DEPTH: int = 3
RATE = 0.5
calls = 0


def logged(function):
    @functools.wraps(function)
    def run(*arguments):
        global calls
        calls += 1
        return function(*arguments)

    return run


@logged
def act(x):
    return x + 1


@functools.cache
def table(n):
    return [n]


class Net:
    @property
    def size(self):
        return 3

    @staticmethod
    def build():
        return lambda x: x

    @classmethod
    def make(cls):
        return cls()

    def forward(self, x):
        return act(x)
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The source, imported."""
    (tmp_path / "somenet.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield importlib.import_module("somenet")
    del sys.modules["somenet"]


def test_what_is_as_it_was_imported_is_taken_also_once_it_has_run(module: ModuleType) -> None:
    for _ in range(100):
        module.Net().forward(1)
    module.table(2)
    refuse_stale(module, SOURCE.encode(), "architecture x")
    refuse_stale(module, b"# moved by a line\n\n" + SOURCE.encode(), "architecture x")


CHANGES = {
    "a function below a decorator": ("return x + 1", "return x + 2", "act"),
    "a decorator": ("calls += 1", "calls += 2", "logged"),
    "a function that is cached": ("return [n]", "return [n, n]", "table"),
    "a method": ("return act(x)", "return act(act(x))", "Net.forward"),
    "a property": ("return 3", "return 4", "Net.size"),
    "a static method": ("lambda x: x", "lambda x: -x", "Net.build"),
    "a class method": ("return cls()", "return cls", "Net.make"),
    "a name that is called": ("return act(x)", "return table(x)", "Net.forward"),
    "a constant": ("RATE = 0.5", "RATE = 0.25", "RATE"),
    "one with a type": ("DEPTH: int = 3", "DEPTH: int = 4", "DEPTH"),
    "its language": ("class Net:", "class Net", "what it holds now is no Python"),
}


@pytest.mark.parametrize(("was", "now", "named"), CHANGES.values(), ids=CHANGES)
def test_what_has_changed_is_refused_and_named(module: ModuleType, was: str, now: str, named: str) -> None:
    assert SOURCE.count(was) == 1
    with pytest.raises(SourceError) as caught:
        refuse_stale(module, SOURCE.replace(was, now).encode(), "architecture x")
    assert str(caught.value).startswith(f"architecture x: {module.__file__} has changed since this process imported it")
    assert f"({named}" in str(caught.value)
    assert str(caught.value).endswith("start the process again (in a notebook: restart the kernel)")


def test_a_counter_that_has_counted_is_no_change(module: ModuleType) -> None:
    module.act(1)
    assert module.calls == 1
    refuse_stale(module, SOURCE.encode(), "architecture x")
