"""Listing stored files with sizes and ages, and removing them in batches, in every kind of store."""

import time
from pathlib import Path

import pytest

from infra.errors import StorageError
from infra.storage.removal import entries, prune, remove_all
from infra.storage.storage import Storage
from tests.infra.stores import fresh_url
from tests.services import Service


def test_files_are_listed_with_their_bytes_and_ages(storage: Storage) -> None:
    storage.write("a/b/first", b"123")
    storage.create("a/second", b"")
    storage.write("other", b"1")
    found = list(entries(storage, "a"))
    assert [(entry.path, entry.bytes) for entry in found] == [("a/b/first", 3), ("a/second", 0)]
    assert all(abs(entry.modified - time.time()) < 120 for entry in found)
    assert [entry.path for entry in entries(storage, "")] == ["a/b/first", "a/second", "other"]
    assert list(entries(storage, "nowhere")) == []


def test_what_is_removed_is_gone_and_the_rest_is_there(storage: Storage) -> None:
    for number in range(5):
        storage.write(f"a ü/{number}", b"1")
    remove_all(storage, ["a ü/1", "a ü/3", "a ü/not-there"])
    assert storage.list("a ü") == ["0", "2", "4"]
    remove_all(storage, [f"a ü/{number}" for number in range(5)])
    prune(storage, "a ü")
    assert storage.list("a ü") == []
    assert storage.list("") == []


def test_empty_folders_of_a_disk_go_and_no_others(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("a/b/kept", b"1")
    (tmp_path / "a/c/d/e").mkdir(parents=True)
    prune(storage, "a")
    assert sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "a").rglob("*")) == ["a/b", "a/b/kept"]
    prune(storage, "nowhere")


def test_what_s3_refuses_to_remove_is_told(on_moto: Service) -> None:
    storage = Storage(fresh_url("s3"))
    gone = Storage("s3://no-such-bucket/root")
    storage.write("kept", b"1")
    with pytest.raises(StorageError, match="no-such-bucket"):
        remove_all(gone, ["a", "b"])
    assert storage.read("kept") == b"1"


def test_a_batch_on_s3_is_one_request(on_moto: Service) -> None:
    storage = Storage(fresh_url("s3"))
    names = [f"many/{number}" for number in range(30)]
    for name in names:
        storage.write(name, b"1")
    asked: list[str] = []
    client = storage.filesystem.s3
    client.meta.events.register("before-call.s3.*", lambda model, **_: asked.append(model.name))
    remove_all(storage, names)
    assert asked == ["DeleteObjects"]
    assert storage.list("many") == []
