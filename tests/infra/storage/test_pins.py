"""Pinned files: read as they were found, or not at all."""

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from infra.errors import Changed, Missing, StorageError
from infra.storage.files import digest
from infra.storage.pins import PinnedInput, digest_of
from infra.storage.storage import Storage
from tests.input_files import found, put_in_place, write_over
from tests.servers import served

A, B = b"a" * 1000, b"b" * 1000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "day.parquet"
    path.write_bytes(A)
    return path


def relink(path: Path) -> None:
    """Let the path lead to another file, made beside it, of the same size and time."""
    kept = path.rename(path.with_name("kept"))
    other = path.with_name("other")
    other.write_bytes(B)
    os.utime(other, ns=(0, kept.stat().st_mtime_ns))
    path.symlink_to(other)


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "longer": (lambda path: path.write_bytes(A + A), r"it had 1,000 bytes, and has 2,000"),
    "cut off": (lambda path: os.truncate(path, 10), r"it had 1,000 bytes, and has 10"),
    "written again": (
        lambda path: path.write_bytes(B),
        r"its time of modification or ETag was [0-9.]+, and is [0-9.]+",
    ),
    "another in its place": (lambda path: put_in_place(path, B), "another file of the same size and time"),
    "written over": (lambda path: write_over(path, B), "another file of the same size and time"),
    "a link elsewhere": (relink, "another file of the same size and time"),
    "a pipe": (make_pipe, "something that is no file is in its place"),
}


@pytest.mark.parametrize(("change", "reason"), CHANGES.values(), ids=CHANGES.keys())
def test_a_file_that_changed_is_not_opened(path: Path, change: Callable[[Path], object], reason: str) -> None:
    file = found(path)
    change(path)
    with pytest.raises(
        Changed,
        match=rf"^day\.parquet: changed while the audit ran \({reason}.*\); nothing that was read .* run again$",
    ):
        PinnedInput(file)


@pytest.mark.parametrize(("change", "reason"), CHANGES.values(), ids=CHANGES.keys())
def test_a_file_that_changes_while_it_is_read_is_told_at_the_end(
    path: Path, change: Callable[[Path], object], reason: str
) -> None:
    def read() -> None:
        with PinnedInput(found(path)) as handle:
            assert handle.read(1) == b"a"
            change(path)

    with pytest.raises(Changed, match=reason):
        read()


def test_an_error_of_a_file_that_changed_is_that_it_changed(path: Path) -> None:
    def read() -> None:
        with PinnedInput(found(path)):
            os.truncate(path, 10)
            raise Missing("what a reader says of half a file")

    with pytest.raises(Changed, match="has 10"):
        read()


def test_a_file_that_is_removed_while_it_is_read_was_read_whole(path: Path) -> None:
    with PinnedInput(found(path)) as handle:
        path.unlink()
        assert handle.read() == A
    with pytest.raises(Missing, match="no such file"):
        PinnedInput(replace(found(Path(__file__)), url=path.as_uri()))


def test_rights_may_change_where_the_contents_are_known(path: Path) -> None:
    file = found(path)
    path.chmod(0o600)
    with pytest.raises(Changed, match="or its rights or links changed"):
        PinnedInput(file)
    with PinnedInput(replace(file, contents=digest(A))) as handle:
        os.link(path, path.with_name("backup"))
        assert handle.read() == A
    put_in_place(path, B)
    with pytest.raises(Changed, match="another file"):
        PinnedInput(replace(file, contents=digest(A)))


def test_another_host_has_a_copy_with_an_inode_of_its_own(path: Path) -> None:
    """There, size and time must be those of the plan, and the file the same from open to open."""
    file = found(path)
    assert file.seen is not None
    elsewhere = replace(file, seen=replace(file.seen, view="another host", inode=1, changed=1))
    with PinnedInput(elsewhere) as handle:
        assert handle.read() == A
    put_in_place(path, B)
    with pytest.raises(Changed, match="another file of the same size and time"):
        PinnedInput(elsewhere)


READ = """
import pickle, sys
from infra.errors import Changed
from infra.storage.pins import PinnedInput
try:
    with PinnedInput(pickle.load(sys.stdin.buffer)) as handle:
        print(len(handle.read()))
except Changed as error:
    print(error)
"""


def test_another_process_of_this_host_has_the_same_pin(path: Path) -> None:
    file = found(path)

    def read() -> str:
        command = [sys.executable, "-c", READ]
        return subprocess.run(command, input=pickle.dumps(file), stdout=subprocess.PIPE, check=True).stdout.decode()

    assert read() == "1000\n"
    put_in_place(path, B)
    assert "another file of the same size and time is in its place" in read()


def test_the_digest_is_of_the_file_that_was_found(path: Path) -> None:
    file = found(path)
    assert digest_of(file) == digest(A)
    write_over(path, B)
    with pytest.raises(Changed):
        digest_of(file)


class TestObjects:
    """A store's version is compared at the open, and by the store itself at each read."""

    def test_an_object_that_was_replaced_is_not_opened(self, storage: Storage) -> None:
        storage.write("day.parquet", A)
        file = found(f"{storage.url}/day.parquet")
        with PinnedInput(file) as handle:
            assert handle.read() == A
        storage.write("day.parquet", B)
        with pytest.raises(Changed, match=r"^day\.parquet: changed while the audit ran \(its time of modification or"):
            PinnedInput(file)

    def test_an_object_that_is_replaced_while_it_is_read_is_told(self, storage: Storage) -> None:
        data = os.urandom(9 << 20)
        storage.write("day.parquet", data)

        def read() -> None:
            with PinnedInput(found(f"{storage.url}/day.parquet")) as handle:
                assert handle.read(5) == data[:5]
                storage.write("day.parquet", os.urandom(9 << 20))
                handle.seek(8 << 20)
                handle.read(5)

        with pytest.raises(Changed, match="changed while the audit ran"):
            read()


@pytest.mark.parametrize("told", ["ETag", "Last-Modified"])
def test_a_web_server_tells_a_version(path: Path, told: str) -> None:
    with served(path.parent, told) as url:
        file = found(f"{url}/day.parquet")
        assert file.version and file.contents == ""
        with PinnedInput(file) as handle:
            assert handle.read() == A
        path.write_bytes(B)
        os.utime(path, (0, time.time() + 10))
        with pytest.raises(Changed, match="its time of modification or ETag was"):
            PinnedInput(file)


def test_a_local_copy_of_another_version_is_not_read(path: Path) -> None:
    """A process that lives long, as that of a notebook, keeps the copies of yesterday."""
    with served(path.parent, "ETag") as url:
        for data in (A, B):
            path.write_bytes(data)
            with PinnedInput(found(f"simplecache::{url}/day.parquet")) as handle:
                assert handle.read() == data
    with served(path.parent) as url:
        for data in (A, B):
            path.write_bytes(data)
            assert digest_of(found(f"simplecache::{url}/day.parquet")) == digest(data)


def test_a_file_without_a_version_is_pinned_by_its_contents(path: Path) -> None:
    with served(path.parent) as url:
        file = found(f"{url}/day.parquet")
        assert file.version == ""
        file = replace(file, contents=digest_of(file), by_contents=True)
        with PinnedInput(file) as handle:
            handle.seek(990)
            assert handle.read() == A[990:]
        write_over(path, B)
        with pytest.raises(Changed, match="its contents have another digest"):
            PinnedInput(file)
        write_over(path, A[:10])
        with pytest.raises(Changed, match="it had 1,000 bytes, and has 10"):
            PinnedInput(file)


def test_a_file_whose_size_nobody_tells_is_refused(path: Path) -> None:
    """fsspec's `filecache` over a web server tells none."""
    with served(path.parent, "ETag") as url, pytest.raises(StorageError, match=r"does not tell how large it is"):
        found(f"filecache::{url}/day.parquet")
