"""Failures of stores: one without exclusive create, unwritable places, unknown protocols; each names the remedy."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.errors import AlreadyExists, Missing, StorageError
from infra.storage.storage import Storage
from tests.infra.stores import fresh_url

WRITES = {
    "write": lambda storage, path: storage.write(path, b"1"),
    "create": lambda storage, path: storage.create(path, b"1"),
    "probe": lambda storage, path: storage.refuse_without_exclusive_create(),
}


def test_the_probe_refuses_a_store_that_ignores_exclusive_create() -> None:
    storage = Storage(fresh_url("forgetful"))
    with pytest.raises(
        StorageError,
        match=r"^forgetful://root-\w+: this store lets a second writer replace .* use a store that honours it",
    ):
        storage.refuse_without_exclusive_create()
    assert list(storage.walk("")) == []
    assert not storage.filesystem.store


def test_the_look_alike_really_ignores_exclusive_create() -> None:
    storage = Storage(fresh_url("forgetful"))
    storage.create("file", b"first")
    storage.create("file", b"second")
    assert storage.read("file") == b"second"
    storage.remove("file")


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_a_root_below_a_file_is_a_storage_error(tmp_path: Path, write: Callable[[Storage, str], None]) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    for root in ("file", "file/root"):
        with pytest.raises(StorageError, match="a part of this path is a file, not a folder"):
            write(Storage(str(tmp_path / root)), "name")
    assert (tmp_path / "file").read_bytes() == b"in the way"


@pytest.mark.parametrize("write", [WRITES["write"], WRITES["create"]], ids=["write", "create"])
def test_a_file_where_a_folder_is_needed_is_not_a_lost_race(
    tmp_path: Path, write: Callable[[Storage, str], None]
) -> None:
    storage = Storage(str(tmp_path))
    storage.write("folder", b"in the way")
    with pytest.raises(StorageError, match="a part of this path is a file, not a folder") as caught:
        write(storage, "folder/name")
    assert not isinstance(caught.value, AlreadyExists)
    assert storage.read("folder") == b"in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="permission denied; give this user the right"):
        Storage(str(tmp_path / "root")).create("name", b"1")


def test_reading_a_folder_is_a_storage_error(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("folder/name", b"1")
    with pytest.raises(StorageError, match="folder"):
        storage.read("folder")


UNKNOWN = {
    "nonsense://bucket/path": r"nonsense.* use a local path or a URL of an installed fsspec protocol",
    "nonsense::memory://x": "`::` chains protocols in a URL, and 'nonsense' is none; rename the folder or file",
}


@pytest.mark.parametrize(("url", "said"), UNKNOWN.items())
def test_an_unknown_protocol_says_what_may_be_used(url: str, said: str) -> None:
    with pytest.raises(StorageError, match=said):
        Storage(url)


def test_uploading_a_local_file_that_is_not_there_is_missing(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(Missing):
        storage.upload("table", tmp_path / "nothing")
    assert list(storage.walk("")) == []


def test_a_writer_killed_in_the_middle_leaves_nothing_to_be_seen(tmp_path: Path) -> None:
    """The process ends after writing its bytes and before naming them: `os.link` is the last step of a create."""
    program = """
import os, sys
from infra.storage.storage import Storage

os.link = lambda *_: os._exit(9)
Storage(sys.argv[1]).create("a/receipt", b"half")
"""
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=Path(__file__).parents[3], check=False)
    storage = Storage(str(tmp_path))
    assert ended.returncode == 9
    assert not storage.exists("a/receipt")
    assert storage.list("a") == []
    storage.create("a/receipt", b"whole")
    assert storage.read("a/receipt") == b"whole"
