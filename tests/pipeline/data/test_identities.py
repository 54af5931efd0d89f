"""What identifies a data file, by what an earlier run recorded of it."""

from dataclasses import replace

import pytest

from infra.storage.identity import InputFile, Sighting
from pipeline.data.identities import identify_again

HERE, ELSEWHERE, CHANGED = Sighting("host", 7, 100), Sighting("other host", 7, 100), Sighting("host", 8, 100)

FILE = InputFile("day.parquet", "/data/day.parquet", 10, "1.5", HERE)
KNOWN = replace(FILE, contents="aaa")
OBJECT = replace(FILE, url="s3://data/day.parquet", seen=None)


CASES: dict[str, tuple[InputFile, InputFile | None, bool, tuple[str, bool, bool]]] = {
    # now, recorded, contents asked for: contents, keyed by them, read
    "new": (FILE, None, False, ("", False, False)),
    "the same": (FILE, KNOWN, False, ("aaa", False, False)),
    "the same, seen from another host": (replace(FILE, seen=ELSEWHERE), KNOWN, False, ("aaa", False, False)),
    "of another time": (replace(FILE, version="2.5"), KNOWN, False, ("", False, False)),
    "of another size": (replace(FILE, size=11), KNOWN, False, ("", False, False)),
    "recorded by an early version": (FILE, replace(KNOWN, seen=None, contents=""), False, ("", False, False)),
    "restored": (replace(FILE, seen=CHANGED), KNOWN, False, ("bbb", True, True)),
    "recorded without contents": (replace(FILE, seen=CHANGED), FILE, False, ("bbb", True, True)),
    "replaced before, now the same": (FILE, replace(KNOWN, by_contents=True), False, ("aaa", True, False)),
    "an object": (OBJECT, OBJECT, False, ("", False, False)),
    "asked for": (FILE, None, True, ("bbb", True, True)),
    "asked for and known": (FILE, KNOWN, True, ("aaa", True, False)),
    "asked for and changed": (replace(FILE, version="2.5"), KNOWN, True, ("bbb", True, True)),
    "an object, asked for and known": (OBJECT, replace(OBJECT, contents="aaa"), True, ("aaa", True, False)),
    "without a version": (
        replace(OBJECT, version=""),
        replace(OBJECT, version="", contents="aaa"),
        True,
        ("bbb", True, True),
    ),
}


@pytest.mark.parametrize(("now", "known", "asked", "expected"), CASES.values(), ids=CASES.keys())
def test_a_file_is_read_where_nothing_else_tells(
    now: InputFile, known: InputFile | None, asked: bool, expected: tuple[str, bool, bool]
) -> None:
    files = list[InputFile]()

    def digest(file: InputFile) -> str:
        files.append(file)
        return "bbb"

    found = identify_again(now, known, asked, digest)
    assert (found.contents, found.by_contents, files == [now]) == expected
    assert replace(found, contents="", by_contents=False) == replace(now, contents="", by_contents=False)


def test_a_file_whose_contents_are_the_recorded_ones_keeps_its_key() -> None:
    restored = replace(FILE, seen=CHANGED)
    assert identify_again(restored, KNOWN, False, lambda _: "aaa").identity == FILE.identity == "10\n1.5"
    assert identify_again(restored, KNOWN, False, lambda _: "bbb").identity == "sha256 bbb"
