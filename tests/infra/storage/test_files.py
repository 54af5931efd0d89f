"""Input files: found by path or glob under their configured names, another version when they change, read by range."""

import os
from pathlib import Path

import pytest

from infra.errors import Missing, StorageError
from infra.storage.files import digest, find, open_input, read_input, size_of
from infra.storage.storage import Storage


@pytest.fixture
def inputs(storage: Storage) -> Storage:
    """A store with input files of different sizes in two folders."""
    for index, path in enumerate(
        ["inputs/b.parquet", "inputs/a.parquet", "inputs/notes.txt", "inputs/2026/c.parquet", "trusted.parquet"]
    ):
        storage.write(path, b"x" * (index + 1))
    return storage


PATTERNS = {
    "a glob": ("inputs/*.parquet", ["inputs/a.parquet", "inputs/b.parquet"]),
    "a question mark": ("inputs/?.parquet", ["inputs/a.parquet", "inputs/b.parquet"]),
    "a set": ("inputs/[a].parquet", ["inputs/a.parquet"]),
    "every depth": ("inputs/**/*.parquet", ["inputs/2026/c.parquet", "inputs/a.parquet", "inputs/b.parquet"]),
    "in a folder's name": ("in*/b.parquet", ["inputs/b.parquet"]),
    "a plain path": ("trusted.parquet", ["trusted.parquet"]),
    "nothing matches": ("inputs/*.csv", []),
}


@pytest.mark.parametrize(("name", "expected"), PATTERNS.values(), ids=PATTERNS.keys())
def test_files_are_found_sorted_and_named_as_configured(inputs: Storage, name: str, expected: list[str]) -> None:
    found = find(name, f"{inputs.url}/{name}").files
    assert [file.name for file in found] == expected
    assert [read_input(file.url) for file in found] == [inputs.read(file.name) for file in found]
    assert [file.size for file in found] == [len(inputs.read(file.name)) for file in found]


@pytest.mark.parametrize("lead", ["./", "../here/", "/elsewhere/"])
def test_names_keep_the_configured_spelling(inputs: Storage, lead: str) -> None:
    """Names are spelled like the configured path, wherever it was resolved to."""
    found = find(f"{lead}inputs/*.parquet", f"{inputs.url}/inputs/*.parquet").files
    assert [file.name for file in found] == [f"{lead}inputs/a.parquet", f"{lead}inputs/b.parquet"]


def test_a_url_as_name_stays_one(inputs: Storage) -> None:
    pattern = f"{inputs.url}/inputs/*.parquet"
    assert [file.name for file in find(pattern, pattern).files] == [
        f"{inputs.url}/inputs/a.parquet",
        f"{inputs.url}/inputs/b.parquet",
    ]


def test_a_chain_is_found_and_read_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"a")
    for name in ("a.parquet", "*.parquet"):
        chain = f"simplecache::{tmp_path.as_uri()}/{name}"
        (file,) = find(chain, chain).files
        assert (file.url, read_input(file.url)) == (f"simplecache::{tmp_path.as_uri()}/a.parquet", b"a")


@pytest.mark.parametrize(
    "chain", ["zip://a.parquet::/data/all.zip", "filecache::tar://*.parquet::https://host/all.tar"]
)
def test_files_within_archives_are_refused(chain: str) -> None:
    with pytest.raises(
        StorageError, match=r": files within archives are neither read nor written; unpack the archive$"
    ):
        find(chain, chain)


def test_a_path_without_a_file_is_missing(inputs: Storage) -> None:
    with pytest.raises(Missing, match=r"nothing\.parquet: no such file"):
        find("nothing.parquet", f"{inputs.url}/nothing.parquet")


def test_a_folder_is_refused_with_what_to_write(inputs: Storage) -> None:
    with pytest.raises(
        StorageError, match=r"inputs/: is a folder, not a file; name the files, or a glob such as inputs/\*\.parquet"
    ):
        find("inputs/", f"{inputs.url}/inputs")


def test_an_unchanged_file_is_the_same_value(inputs: Storage) -> None:
    url = f"{inputs.url}/trusted.parquet"
    assert find("trusted.parquet", url) == find("trusted.parquet", url)


def test_a_file_of_another_size_is_another_version(inputs: Storage) -> None:
    url = f"{inputs.url}/trusted.parquet"
    (before,) = find("trusted.parquet", url).files
    inputs.write("trusted.parquet", b"longer than before")
    (after,) = find("trusted.parquet", url).files
    assert (after.name, after.url, after.size) == (before.name, before.url, 18)
    assert after.version != before.version


def test_a_file_rewritten_at_the_same_size_is_another_version(inputs: Storage) -> None:
    url = f"{inputs.url}/trusted.parquet"
    (before,) = find("trusted.parquet", url).files
    inputs.write("trusted.parquet", b"y" * before.size)
    (after,) = find("trusted.parquet", url).files
    assert after.size == before.size
    assert after.version != before.version


def test_a_touched_local_file_is_another_version(tmp_path: Path) -> None:
    path = tmp_path / "trusted.parquet"
    path.write_bytes(b"1")
    (before,) = find("trusted.parquet", str(path)).files
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1_000_000))
    (after,) = find("trusted.parquet", str(path)).files
    assert after.version != before.version


def test_open_reads_ranges_and_an_absent_file_is_missing(inputs: Storage) -> None:
    with open_input(f"{inputs.url}/inputs/2026/c.parquet") as file:
        file.seek(2)
        assert file.read() == b"xx"
    for ask in (open_input, read_input):
        with pytest.raises(Missing, match="nothing: no such file"):
            ask(f"{inputs.url}/nothing")


def test_an_unknown_protocol_is_a_storage_error() -> None:
    with pytest.raises(StorageError, match="nonsense://x"):
        find("nonsense://x", "nonsense://x")


def test_digest_is_sha256() -> None:
    assert digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_size_of_a_link_to_nothing_says_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").symlink_to("../gone.pt")
    with pytest.raises(Missing, match=r"weights\.pt: is a link to \.\./gone\.pt, which is not there"):
        size_of(str(tmp_path / "weights.pt"))
    with pytest.raises(Missing, match=r"nothing\.pt: no such file"):
        size_of(str(tmp_path / "nothing.pt"))
