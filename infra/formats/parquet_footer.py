"""Parses the footer of a Parquet file without pyarrow, which ends the process on a hostile footer.

That happens as soon as a column's metadata is read. A footer is a struct in Thrift's compact protocol. Only what
`parquet_bounds` needs is kept; its numbers are what the file claims, unchecked.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import IO

from infra.errors import StorageError

LARGEST_FOOTER = 32 << 20
DEEPEST = 24
MAGIC = b"PAR1"

Value = bool | int | float | bytes | list["Value"] | dict[int, "Value"]


@dataclass(frozen=True)
class Chunk:
    """The part of a row group that belongs to one column.

    `column` is a dotted path; `physical_type` and `encodings` are Parquet's numbers; `start`, `compressed` and
    `uncompressed` are bytes.
    """

    column: str
    physical_type: int
    encodings: tuple[int, ...]
    values: int
    uncompressed: int
    compressed: int
    start: int


@dataclass(frozen=True)
class Group:
    """A row group: its number of rows and its columns' chunks."""

    rows: int
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Footer:
    """What a file claims to hold."""

    rows: int
    groups: tuple[Group, ...]


def read_footer(handle: IO[bytes]) -> Footer:
    """The footer of an opened file.

    Raises:
        StorageError: it is not a Parquet file, or its footer is damaged or too large.
    """
    size = handle.seek(0, 2)
    handle.seek(max(0, size - 8))
    tail = handle.read(8)
    length = int.from_bytes(tail[:4], "little")
    if len(tail) < 8 or tail[4:] != MAGIC or length > size - 8:
        raise StorageError("not a readable Parquet file (it does not end as one)")
    if length > LARGEST_FOOTER:
        raise StorageError(
            f"its footer claims {length:,} bytes, at most {LARGEST_FOOTER:,} are read;"
            " rewrite the file with fewer, larger row groups"
        )
    handle.seek(size - 8 - length)
    return _parse(handle.read(length))


@lru_cache(maxsize=16)
def _parse(data: bytes) -> Footer:
    try:
        fields = _Compact(data).struct(0)
        return Footer(_whole(fields, 3), tuple(_group(group) for group in _items(fields, 4)))
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise StorageError("not a readable Parquet file (its footer is damaged)") from error


def _group(value: Value) -> Group:
    fields = _mapping(value)
    return Group(_whole(fields, 3), tuple(_chunk(_mapping(chunk)) for chunk in _items(fields, 1)))


def _chunk(fields: Mapping[int, Value]) -> Chunk:
    if fields.get(1):
        raise ValueError("a column in another file")
    about = _mapping(fields[3])
    path = b".".join(part for part in _items(about, 3) if isinstance(part, bytes)).decode()
    encodings = tuple(int(number) for number in _items(about, 2) if isinstance(number, int))
    starts = [_whole(about, field) for field in (9, 11) if field in about]
    # Some writers name no dictionary page though there is one, where the data is said to begin; others say it is at 0.
    start = min([starts[0], *(other for other in starts[1:] if other > 0)])
    return Chunk(path, _whole(about, 1), encodings, _whole(about, 5), _whole(about, 6), _whole(about, 7), start)


def _whole(fields: Mapping[int, Value], field: int) -> int:
    value = fields[field]
    if not isinstance(value, int):
        raise TypeError("not a number")
    return value


def _items(fields: Mapping[int, Value], field: int) -> list[Value]:
    value = fields[field]
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _mapping(value: Value) -> dict[int, Value]:
    if not isinstance(value, dict):
        raise TypeError("not a struct")
    return value


class _Compact:
    """Reads values of Thrift's compact protocol; IndexError where they end early, ValueError where they are invalid."""

    def __init__(self, data: bytes):
        self._data, self._place = data, 0

    def struct(self, depth: int) -> dict[int, Value]:
        """The fields of a struct by their numbers."""
        if depth > DEEPEST:
            raise ValueError("nested too deep")
        fields, last = dict[int, Value](), 0
        while head := self._byte():
            last = last + (head >> 4) if head >> 4 else self._signed()
            kind = head & 15
            fields[last] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Value:
        match kind:
            case 1 | 2 | 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._signed()
            case 7:
                return float(struct.unpack("<d", self._bytes(8))[0])
            case 8:
                return self._bytes(self._unsigned())
            case 9 | 10:
                return self._list(depth + 1)
            case 12:
                return self.struct(depth + 1)
        raise ValueError(f"unknown kind of value: {kind}")  # maps too: no footer has one

    def _list(self, depth: int) -> list[Value]:
        head = self._byte()
        count = self._unsigned() if head >> 4 == 15 else head >> 4
        if count > len(self._data) - self._place or depth > DEEPEST:
            raise ValueError("a list longer than what is left")
        return [self._value(head & 15, depth) for _ in range(count)]

    def _byte(self) -> int:
        self._place += 1
        return self._data[self._place - 1]

    def _bytes(self, count: int) -> bytes:
        if count > len(self._data) - self._place:
            raise IndexError
        self._place += count
        return self._data[self._place - count : self._place]

    def _unsigned(self) -> int:
        number = shift = 0
        while shift < 70:
            byte = self._byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7
        raise ValueError("a number of more than 64 bits")

    def _signed(self) -> int:
        number = self._unsigned()
        return (number >> 1) ^ -(number & 1)
