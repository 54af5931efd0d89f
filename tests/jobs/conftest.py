"""Fixtures: a folder of small inputs, good and broken, and configs of audits of them in roots of a test's own."""

from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import JsonValue

from pipeline.config.audit_config import merge
from tests.jobs.command import Ended, mad
from tests.jobs.texts import prepare_texts
from tests.jobs.workshop import prepare, small_config

Configure = Callable[..., Path]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """One thread for small networks: on a machine with other load, two are ten times slower than one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return (yield)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def inputs(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 trusted and 60 audited digits, their classifier, and broken files of all kinds."""
    folder = tmp_path_factory.mktemp("inputs")
    prepare(folder, digits)
    return folder


@pytest.fixture(scope="session")
def text_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two language models and their texts."""
    folder = tmp_path_factory.mktemp("texts")
    prepare_texts(folder)
    return folder


@pytest.fixture(scope="session")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A root with one completed run of one model over the small inputs, and how that run ended; no test changes it."""
    root = tmp_path_factory.mktemp("finished") / "root"
    config = inputs / "finished.yaml"
    config.write_text(yaml.safe_dump(small_config(root)))
    ended = mad("run", config, "--output", "json")
    assert ended.code == 0, ended.err
    return root, ended


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root of the test's own, not there yet."""
    return tmp_path / "root"


@pytest.fixture
def configure(inputs: Path, root: Path) -> Configure:
    """Writes a config beside the inputs; sections merge over the small audit's: `configure(run={"batch_size": 8})`."""

    def write(**sections: JsonValue) -> Path:
        path = inputs / "audit.yaml"
        path.write_text(yaml.safe_dump(merge(small_config(root), sections)))
        return path

    return write
