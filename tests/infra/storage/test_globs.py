"""Globs: links are followed, names are literal where they exist, and what is no data is passed over or told."""

import os
import socket
from pathlib import Path

import pytest

from infra.errors import Missing, StorageError
from infra.storage.files import Found, find, open_input, read_input, size_of
from infra.storage.globs import is_pattern
from infra.storage.storage import Storage


def names(found: Found) -> list[str]:
    assert found.faults == {}
    return [file.name for file in found.files]


def below(folder: Path, pattern: str) -> Found:
    return find(pattern, f"{folder}/{pattern}")


@pytest.mark.parametrize(
    ("path", "pattern"),
    [("a/b.parquet", False), ("a/*.parquet", True), ("a?", True), ("[ab]", True), ("s3://b/c", False)],
)
def test_what_is_a_pattern(path: str, pattern: bool) -> None:
    assert is_pattern(path) == pattern


def is_refused(storage: Storage, name: str) -> bool:
    """Whether `::` in a name is refused, as in URLs that fsspec may chain; anywhere else it is part of the name."""
    refused = "::" in name and "://" in storage.url and not storage.url.startswith("s3://")
    if refused:
        with pytest.raises(StorageError, match=r"`::` chains protocols in a URL, and 'b.*' is none"):
            find(name, f"{storage.url}/{name}")
    return refused


ODD = ("a[1].x", "a*.x", "what?.x", "a#b.x", "a%20b.x", "a b.x", "a::b.x", "a:b.x", "~a.x", "-a.x", "é.x", "e\u0301.x")


def test_a_name_that_exists_is_that_file_whatever_it_holds(storage: Storage) -> None:
    for name in (*ODD, "a1.x", "ab.x", "what1.x", "a c.x"):
        storage.write(name, name.encode())
    for name in ODD:
        if not is_refused(storage, name):
            (file,) = find(name, f"{storage.url}/{name}").files
            assert (file.name, file.size) == (name, len(name.encode()))
            assert read_input(file.url) == name.encode()
            with open_input(file.url) as handle:
                assert handle.read() == name.encode()
            assert size_of(file.url) == file.size


def test_a_folder_that_exists_is_that_folder_whatever_it_holds(storage: Storage) -> None:
    folders = ("run[1]", "a::b", "50%20", "a*")
    for folder in (*folders, "run1", "ab"):
        storage.write(f"{folder}/in/a.x", folder.encode())
    for folder in folders:
        for pattern in (f"{folder}/*/a.x", f"{folder}/**/*.x"):
            if not is_refused(storage, folder):
                (file,) = find(pattern, f"{storage.url}/{pattern}").files
                assert file.name == f"{folder}/in/a.x"
                assert read_input(file.url) == folder.encode()


def test_a_root_is_the_folder_that_is_named_whatever_it_holds(storage: Storage) -> None:
    storage.write("run1/a", b"another")
    for name in ("run[1]", "a::b", "50%20", "what?", "*", "one two", "#1", "e\u0301"):
        if not is_refused(storage, name):
            root = Storage(f"{storage.url}/{name}")
            root.create("in/a", name.encode())
            root.publish("in/a", "b")
            assert (root.list(""), sorted(root.walk(""))) == (["b", "in"], ["b", "in/a"])
            assert storage.read(f"{name}/b") == root.read("in/a") == name.encode()
            root.remove("b")
    assert storage.list("run1") == ["a"]


HIDDEN_AND_MARKERS = [
    "a.x", ".b.x", "_c.x", "_SUCCESS", "_metadata", ".a.x.crc", "in/d.x", "_temporary/0/e.x", ".cache/f.x", "_log/g.x",
]  # fmt: skip


PASSED_OVER = {
    "*.x": ["_c.x", "a.x"],
    "**/*.x": ["_c.x", "a.x", "in/d.x"],
    "**": ["_c.x", "a.x", "in/d.x"],
    ".*.x": [".b.x"],
    "_*.x": ["_c.x"],
    "_S*": ["_SUCCESS"],
    "_temporary/**/*.x": ["_temporary/0/e.x"],
    "_t*/*/*.x": ["_temporary/0/e.x"],
    ".cache/*.x": [".cache/f.x"],
}


def test_hidden_names_and_markers_are_passed_over_unless_they_are_named(storage: Storage) -> None:
    for path in HIDDEN_AND_MARKERS:
        storage.write(path, b"x")
    assert {pattern: names(find(pattern, f"{storage.url}/{pattern}")) for pattern in PASSED_OVER} == PASSED_OVER


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A folder as the hub's cache and DVC make it: files are links into a store, and a folder is a link too."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    (snapshot / "data").mkdir(parents=True)
    for number, name in enumerate(("a.x", "b.x")):
        (blobs / f"{number}").write_bytes(b"x" * (number + 1))
        (snapshot / "data" / name).symlink_to(Path("../../../blobs") / f"{number}")
    (tmp_path / "latest").symlink_to(snapshot, target_is_directory=True)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("latest/data/a.x", ["latest/data/a.x"]),
        ("latest/data/*.x", ["latest/data/a.x", "latest/data/b.x"]),
        ("l*/*/a.x", ["latest/data/a.x"]),
        ("latest/**/*.x", ["latest/data/a.x", "latest/data/b.x"]),
        ("**/data/b.x", ["latest/data/b.x", "snapshots/abc/data/b.x"]),
    ],
)
def test_links_to_files_and_folders_are_followed(cache: Path, pattern: str, expected: list[str]) -> None:
    found = below(cache, pattern)
    assert names(found) == expected
    assert [file.size for file in found.files] == [1 if file.name.endswith("a.x") else 2 for file in found.files]


def test_the_version_of_a_link_is_that_of_its_target(cache: Path) -> None:
    link, blob = "latest/data/a.x", cache / "blobs" / "0"
    ((plain,), (globbed,)) = below(cache, link).files, below(cache, "latest/data/a*").files
    assert plain == globbed
    assert plain.version == str(blob.stat().st_mtime)
    os.utime(blob, (1, 1))
    assert below(cache, link).files[0].version == below(cache, "latest/data/a*").files[0].version == "1.0"


def test_a_link_to_a_folder_above_it_is_entered_once(cache: Path) -> None:
    (cache / "blobs" / "up").symlink_to(cache, target_is_directory=True)
    assert names(below(cache, "blobs/**")) == [
        "blobs/0",
        "blobs/1",
        *(f"blobs/up/{place}/data/{name}" for place in ("latest", "snapshots/abc") for name in ("a.x", "b.x")),
    ]


def test_one_odd_entry_is_its_own_fault_and_the_others_are_used(tmp_path: Path) -> None:
    (tmp_path / "a.x").write_bytes(b"x")
    (tmp_path / "dangling.x").symlink_to("nowhere")
    (tmp_path / "round.x").symlink_to("round.x")
    (tmp_path / "folder.x").mkdir()
    os.mkfifo(tmp_path / "pipe.x")
    (tmp_path / "line\nbreak.x").write_bytes(b"x")
    (Path(os.fsdecode(bytes(tmp_path) + b"/\xff.x"))).write_bytes(b"x")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s.x"))
        found = below(tmp_path, "*.x")
    assert [file.name for file in found.files] == ["a.x", "line\nbreak.x"]
    assert found.faults == {
        "dangling.x": "dangling.x: is a link to nowhere, which is not there",
        "round.x": "round.x: Too many levels of symbolic links",
        "folder.x": "folder.x: is a folder, not a file; name the files, or a glob such as folder.x/*.parquet",
        "pipe.x": "pipe.x: is a pipe, a socket or a device, not a file; name a file",
        "s.x": "s.x: is a pipe, a socket or a device, not a file; name a file",
        "?.x": "?.x: its name is not valid UTF-8; rename it",
    }


def test_a_plain_path_to_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Missing, match=r"^dangling: is a link to nowhere, which is not there$"):
        below(tmp_path, "dangling")
    for ask in (lambda: below(tmp_path, "pipe"), lambda: size_of(str(tmp_path / "pipe"))):
        with pytest.raises(StorageError, match="is a pipe, a socket or a device, not a file; name a file"):
            ask()
    with pytest.raises(StorageError, match="is a folder, not a file; name a file in it"):
        size_of(str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list any folder")
def test_a_folder_that_cannot_be_listed_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a.x").write_bytes(b"x")
    (tmp_path / "closed").mkdir(mode=0)
    found = below(tmp_path, "**/*.x")
    assert [file.name for file in found.files] == ["a.x"]
    assert found.faults["closed"].startswith("closed: this folder cannot be listed (Permission denied)")
