"""The installed version is that of this project, whichever name its distribution has in an environment."""

import importlib
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from infra.version import installed_version, source_digest


def install(folder: Path, name: str, version: str) -> None:
    """Makes a distribution that importlib.metadata finds in a folder."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment with nothing in it."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


def test_its_own_distribution_goes_first(environment: Path) -> None:
    install(environment, "mad", "0.2.2")
    install(environment, "madaudit", "1.2.3")
    assert installed_version() == "1.2.3"


def test_an_older_install_has_the_former_name(environment: Path) -> None:
    install(environment, "mad", "0.1.0")
    assert installed_version() == "0.1.0"


def test_nothing_installed_is_an_error(environment: Path) -> None:
    with pytest.raises(PackageNotFoundError, match="madaudit"):
        installed_version()


def test_a_clone_that_changed_is_told_by_its_source(environment: Path) -> None:
    digests = []
    for name, code in (("one.py", "a = 1"), ("one.py", "a = 2"), ("two.py", "a = 2"), ("notes.txt", "a = 3")):
        (environment / "cloned" / "deep").mkdir(parents=True, exist_ok=True)
        (environment / "cloned" / "deep" / name).write_text(code)
        importlib.invalidate_caches()
        digests.append(source_digest("cloned"))
    assert digests[2] == digests[3]
    assert len(set(digests)) == 3
    assert source_digest("absent") == source_digest()
