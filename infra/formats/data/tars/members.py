"""The members of a tar file, found by their headers; bodies are passed over, and nothing is unpacked.

Names are nothing but names. Headers are those of POSIX (ustar and pax) and GNU tar; sparse files and links are none of
the members.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from infra.errors import StorageError

BLOCK = 512
LARGEST_NAME = 64 << 10  # bytes of a header that holds a long name
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


@dataclass(frozen=True)
class Member:
    """A file in a tar file: its name, where its headers begin, and where its bytes are."""

    name: str
    place: int
    start: int
    size: int


def members(handle: IO[bytes], place: int, name: str) -> Iterator[Member]:
    """The files in a tar file from a header on.

    Raises:
        StorageError: a header is damaged, or the file ends in the middle of a member.
    """
    end = handle.seek(0, 2)
    first, long_name, long_size = place, "", -1
    while place + BLOCK <= end:
        handle.seek(place)
        header = handle.read(BLOCK)
        if not any(header):
            return
        info = _parsed(header, place, name)
        start, size = place + BLOCK, info.size
        if info.type in PLAIN and long_size >= 0:
            size = long_size
        if size < 0 or start + size > end:
            raise StorageError(f"{name}: ends in the middle of {info.name[:80]!r}; was it copied whole?")
        place = start + -(-size // BLOCK) * BLOCK
        if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
            long_name, long_size = _long(handle.read(_bounded(size, name)), info.type, (long_name, long_size), name)
            continue
        if info.type in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):
            continue
        if info.type in PLAIN:
            yield Member(long_name or info.name, first, start, size)
        first, long_name, long_size = place, "", -1


def is_header(data: bytes) -> bool:
    """Whether bytes are a header; old ones have no mark."""
    try:
        tarfile.TarInfo.frombuf(data, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _parsed(header: bytes, place: int, name: str) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise StorageError(f"{name}: a damaged tar file (no header at byte {place:,}); was it copied whole?") from error


def _bounded(size: int, name: str) -> int:
    if size > LARGEST_NAME:
        raise StorageError(f"{name}: a name of {size:,} bytes, at most {LARGEST_NAME:,} are read; the file is damaged")
    return size


def _long(data: bytes, kind: bytes, known: tuple[str, int], name: str) -> tuple[str, int]:
    """The name and size that a header says of the next member, beyond what was known."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return data.rstrip(b"\0").decode("utf-8", "surrogateescape"), known[1]
    found = dict(_records(data))
    try:
        return found.get("path", known[0]), int(found.get("size", known[1]))
    except ValueError as error:
        raise StorageError(f"{name}: a damaged tar file (a size that is no number)") from error


def _records(data: bytes) -> Iterator[tuple[str, str]]:
    """The records `length key=value` of a pax header."""
    while data[:1].isdigit():
        length = data.partition(b" ")[0]
        if not length.isdigit() or not 0 < int(length[:9]) <= len(data):
            return
        key, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        yield key.decode("utf-8", "replace"), value.decode("utf-8", "surrogateescape")
        data = data[int(length) :]
