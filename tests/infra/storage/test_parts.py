"""Folders of images in parts: a file that comes or goes changes its own part; what changed since is noticed."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import Changed
from infra.storage.files import find
from infra.storage.identity import InputFile
from infra.storage.parts import open_part, parts_of
from infra.storage.pins import PinnedInput, confirm, digest_of
from tests.strategies import LAW


def listed(*paths: str) -> list[InputFile]:
    return [InputFile(f"photos/{path}", f"/data/photos/{path}", 7, "1") for path in paths]


@LAW
@given(st.sets(st.integers(0, 20_000), min_size=1, max_size=3000), st.integers(0, 20_000))
def test_a_new_file_changes_one_part_or_splits_it(numbers: set[int], new: int) -> None:
    paths = {f"{number % 7}/{number}.png" for number in numbers}
    before = parts_of("photos", "/data/photos", listed(*paths))
    after = parts_of("photos", "/data/photos", listed(*paths, *({f"{new % 7}/{new}.png"} - paths)))
    assert len(set(after) - set(before)) <= 2
    assert len(set(before) - set(after)) <= 1
    assert sum(part.size for part in before) == 7 * len(paths)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files whose names sort otherwise than their folders, a hidden one, a note, and a link that leads up."""
    for place in ("a/1.png", "a.b/2.JPG", "a/c/3.png", ".hidden/4.png", "_temporary/5.png", "notes.txt", "6.png"):
        (tmp_path / "photos" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / place).write_bytes(place.encode())
    (tmp_path / "photos" / "a" / "up").symlink_to(tmp_path / "photos")
    return tmp_path / "photos"


def part_of(folder: Path) -> InputFile:
    (part,) = parts_of("photos", str(folder), find("photos/**", f"{folder}/**").files)
    return part


PATHS = ["6.png", "a.b/2.JPG", "a/1.png", "a/c/3.png"]


def test_a_part_is_its_images_in_the_order_of_their_paths(folder: Path) -> None:
    part = part_of(folder)
    assert part.name == "photos[6.png to a/c/3.png]"
    members = open_part(part).members
    assert [member.name for member in members] == PATHS
    for member in members:
        with PinnedInput(member) as handle:
            assert handle.read() == member.name.encode()


def test_files_that_changed_since_are_noticed(folder: Path) -> None:
    part = part_of(folder)
    digest, members = digest_of(part), open_part(part).members
    (folder / "a" / "1.png").write_bytes(b"another one")
    for reads in (lambda: confirm([part]), lambda: PinnedInput(members[2])):
        with pytest.raises(Changed, match=r"a/1\.png: changed while the audit ran \(it had 7 bytes, and has 11"):
            reads()
    other = part_of(folder)
    assert other.identity != part.identity
    with pytest.raises(Changed, match=r"photos\[6\.png to a/c/3\.png\]: files in it changed while the audit ran"):
        open_part(part)
    (folder / "a" / "1.png").write_bytes(b"a/1.png")
    again = part_of(folder)
    assert digest_of(again) == digest


def test_files_beside_a_part_are_none_of_its_own(folder: Path) -> None:
    part = part_of(folder)
    (folder / "b.png").touch()
    assert [member.name for member in open_part(part).members] == PATHS
    os.remove(folder / "6.png")
    part_of(folder)
    with pytest.raises(Changed):
        open_part(part)
