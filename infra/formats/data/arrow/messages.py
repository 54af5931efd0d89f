"""The messages of an Arrow stream, found without reading what they hold: how many rows, and where each buffer is.

An Arrow file is a stream between two marks. A message is its length, metadata in FlatBuffers, and a body of buffers
(https://arrow.apache.org/docs/format/Columnar.html). Only the few numbers that are needed are parsed; they are what the
file claims, unchecked.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from infra.errors import StorageError

FILE_MARK, STREAM_MARK = b"ARROW1", b"\xff\xff\xff\xff"
BODY_AT = 8  # of a stream in a file
LARGEST_METADATA = 64 << 20
SCHEMA, DICTIONARY, BATCH = 1, 2, 3


@dataclass(frozen=True)
class Message:
    """A message: its kind, where it stands, the bytes of its head and body, and of a batch what it claims to hold.

    `buffers`: the offset in the body and the length of each. `compressed`: whether each begins with its whole length.
    """

    kind: int
    place: int
    head: int
    body: int
    rows: int = 0
    buffers: tuple[tuple[int, int], ...] = ()
    compressed: bool = False


def messages(handle: IO[bytes], place: int, size: int, name: str) -> Iterator[Message]:
    """The messages of a stream from a place on, in a file of `size` bytes.

    Raises:
        StorageError: it is damaged, or ends in the middle of one.
    """
    while place < size:
        handle.seek(place)
        start = handle.read(8)
        if len(start) < 8 or start[:4] != STREAM_MARK:
            raise _damaged(name, place)
        (length,) = struct.unpack("<i", start[4:])
        if length == 0:
            return
        if not 0 < length <= min(LARGEST_METADATA, size - place - 8):
            raise _damaged(name, place)
        message = _parsed(handle.read(length), place, name)
        place += message.head + message.body
        if not message.body >= 0 or place > size:
            raise StorageError(f"{name}: ends in the middle of a batch of rows; was it copied whole?")
        yield message


def _damaged(name: str, place: int) -> StorageError:
    return StorageError(f"{name}: not a readable Arrow file (no message at byte {place:,}); write it again")


def _parsed(metadata: bytes, place: int, name: str) -> Message:
    try:
        table = _Table(metadata, struct.unpack_from("<I", metadata)[0])
        kind, body = table.number(1, "<B"), table.number(3, "<q")
        head = 8 + len(metadata)
        if kind not in (DICTIONARY, BATCH):
            return Message(kind, place, head, body)
        batch = table.table(2) if kind == BATCH else table.table(2).table(1)
        return Message(kind, place, head, body, batch.number(0, "<q"), batch.pairs(2), batch.has(3))
    except (struct.error, ValueError) as error:
        raise _damaged(name, place) from error


class _Table:
    """A table of FlatBuffers; struct.error where it leads outside of the data."""

    def __init__(self, data: bytes, place: int):
        self._data, self._place = data, place
        self._fields = place - struct.unpack_from("<i", data, place)[0]
        if self._fields < 0:
            raise ValueError("a table before its beginning")

    def _at(self, field: int) -> int:
        """Where a field stands, 0 where it is left out."""
        (size,) = struct.unpack_from("<H", self._data, self._fields)
        offset = 4 + 2 * field
        found = struct.unpack_from("<H", self._data, self._fields + offset)[0] if offset < size else 0
        return self._place + int(found) if found else 0

    def has(self, field: int) -> bool:
        return bool(self._at(field))

    def number(self, field: int, form: str) -> int:
        at = self._at(field)
        return int(struct.unpack_from(form, self._data, at)[0]) if at else 0

    def table(self, field: int) -> "_Table":
        at = self._at(field)
        if not at:
            raise ValueError("a table is missing")
        return _Table(self._data, at + struct.unpack_from("<I", self._data, at)[0])

    def pairs(self, field: int) -> tuple[tuple[int, int], ...]:
        """A vector of structs of two 64-bit integers."""
        at = self._at(field)
        if not at:
            return ()
        at += struct.unpack_from("<I", self._data, at)[0]
        (count,) = struct.unpack_from("<I", self._data, at)
        flat = struct.unpack_from(f"<{2 * count}q", self._data, at + 4) if 16 * count <= len(self._data) else None
        if flat is None:
            raise ValueError("a vector beyond the data")
        return tuple(zip(flat[::2], flat[1::2], strict=True))
