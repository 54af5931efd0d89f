"""The code of an architecture: found by its file or package, run from the bytes that are part of the digest."""

from pathlib import Path

import pytest

from pipeline.config.audit_config import AuditConfig
from pipeline.demo.network import digit_cnn
from pipeline.errors import SourceError
from pipeline.models.architecture import find_architecture, is_file
from tests.pipeline.config.configs import MINIMAL


@pytest.fixture
def config(tmp_path: Path) -> AuditConfig:
    (tmp_path / "net.py").write_text("layers = 3\n\n\ndef build():\n    return layers\n")
    (tmp_path / "broken.py").write_text("raise RuntimeError('no GPU')\n")
    return AuditConfig.parse(MINIMAL, str(tmp_path))


def test_a_file_is_named_by_its_ending() -> None:
    assert is_file("nets/net.py:build") and not is_file("nets.net:build")


def test_a_function_of_a_file_comes_with_its_source(config: AuditConfig, tmp_path: Path) -> None:
    found = find_architecture(config, "net.py:build", None)
    build, source = found.build, found.source
    assert (build(), source) == (3, (tmp_path / "net.py").read_bytes())


def test_given_source_is_run_instead_of_the_file(config: AuditConfig) -> None:
    found = find_architecture(config, "gone.py:build", b"def build():\n    return 4\n")
    build, source = found.build, found.source
    assert (build(), source) == (4, b"def build():\n    return 4\n")


def test_a_function_of_a_package_comes_with_the_source_of_its_module(config: AuditConfig) -> None:
    found = find_architecture(config, "pipeline.demo.network:digit_cnn", None)
    build, source = found.build, found.source
    assert build is digit_cnn
    assert source == Path("pipeline/demo/network.py").read_bytes()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("net.py", "expected file.py:function or package.module:function"),
        (":build", "expected file.py:function or package.module:function"),
        ("net.py:", "expected file.py:function or package.module:function"),
        ("none.py:build", "architecture none.py: no such file"),
        ("net.py:biuld", "net.py has no function 'biuld'; did you mean 'build'"),
        ("net.py:layers", "'layers' in net.py is not a function, but of type int"),
        ("broken.py:build", "architecture broken.py: importing it .*: failed with RuntimeError.*no GPU"),
        ("no.such.module:build", "architecture no.such.module: importing it .* failed with ModuleNotFoundError"),
        ("sys:exit", "architecture sys: has no source file"),
    ],
)
def test_what_is_wrong_is_named(config: AuditConfig, spec: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        find_architecture(config, spec, None)
