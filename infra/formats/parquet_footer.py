"""Parses the footer of a Parquet file without pyarrow, which ends the process on a hostile footer.

That happens as soon as a column's metadata is read. A footer is a struct in Thrift's compact protocol. Only what
`parquet_bounds` needs is kept, and the rest is skipped; its numbers are what the file claims, unchecked.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import IO

from infra.errors import StorageError
from infra.formats.foreign_tables import described

LARGEST_FOOTER = 32 << 20
DEEPEST = 24
MAGIC, ENCRYPTED_MAGIC = b"PAR1", b"PARE"
DECRYPT = "write it again without encryption; keys of columns are no part of a config"

Value = bool | int | float | bytes | list["Value"] | dict[int, "Value"]
Wanted = Mapping[int, "Wanted | None"]  # of a struct, or of the structs in a list: fields by number; None: all of it

CRYPTO: Wanted = {2: {1: None}}
COLUMN: Wanted = dict.fromkeys((1, 2, 3, 5, 6, 7, 9, 11))
FOOTER: Wanted = {3: None, 4: {1: {1: None, 3: COLUMN, 8: CRYPTO}, 3: None}}


@dataclass(frozen=True)
class Chunk:
    """The part of a row group that belongs to one column.

    `column` is a dotted path; `physical_type` and `encodings` are Parquet's numbers; `start`, `compressed` and
    `uncompressed` are bytes. The numbers of an encrypted one may be missing, and are then 0.
    """

    column: str
    physical_type: int
    encodings: tuple[int, ...]
    values: int
    uncompressed: int
    compressed: int
    start: int
    encrypted: bool = False


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
        StorageError: it is not a Parquet file or an encrypted one, its footer is damaged or too large, or its data are
            in other files.
    """
    size = handle.seek(0, 2)
    handle.seek(max(0, size - 8))
    tail = handle.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] == ENCRYPTED_MAGIC:
        raise StorageError(f"an encrypted Parquet file; {DECRYPT}")
    if len(tail) < 8 or tail[4:] != MAGIC or length > size - 8:
        raise StorageError(f"not a readable Parquet file: {described(handle)}")
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
        fields = _Compact(data).struct(0, FOOTER)
        groups = tuple(_group(group) for group in _items(fields, 4))
        return Footer(_whole(fields, 3), groups)
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise StorageError("not a readable Parquet file (its footer is damaged)") from error


def _group(value: Value) -> Group:
    fields = _mapping(value)
    return Group(_whole(fields, 3), tuple(_chunk(_mapping(chunk)) for chunk in _items(fields, 1)))


def _chunk(fields: Mapping[int, Value]) -> Chunk:
    if fields.get(1):
        raise StorageError(
            "a summary of other Parquet files (a `_metadata` file), which hold its data; name those files instead"
        )
    if 8 in fields and 3 not in fields:
        own = _mapping(_mapping(fields[8]).get(2, {}))
        return Chunk(_path(own, 1) if own else "", 0, (), 0, 0, 0, 0, encrypted=True)
    about = _mapping(fields[3])
    path = _path(about, 3)
    encodings = tuple(int(number) for number in _items(about, 2) if isinstance(number, int))
    starts = [_whole(about, field) for field in (9, 11) if field in about]
    # Some writers name no dictionary page though there is one, where the data is said to begin; others say it is at 0.
    start = min([starts[0], *(other for other in starts[1:] if other > 0)])
    numbers = _whole(about, 5), _whole(about, 6), _whole(about, 7)
    return Chunk(path, _whole(about, 1), encodings, *numbers, start, encrypted=8 in fields)


def _path(fields: Mapping[int, Value], field: int) -> str:
    return b".".join(part for part in _items(fields, field) if isinstance(part, bytes)).decode()


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

    def struct(self, depth: int, wanted: Wanted | None) -> dict[int, Value]:
        """The wanted fields of a struct by their numbers."""
        if depth > DEEPEST:
            raise ValueError("nested too deep")
        fields, last = dict[int, Value](), 0
        while head := self._byte():
            last = last + (head >> 4) if head >> 4 else self._signed()
            kind = head & 15
            if wanted is not None and last not in wanted:
                self._skip(kind, depth)
            elif kind in (1, 2):
                fields[last] = kind == 1
            else:
                fields[last] = self._value(kind, depth, None if wanted is None else wanted[last])
        return fields

    def _value(self, kind: int, depth: int, wanted: Wanted | None) -> Value:
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
                kind, count = self._list(depth + 1)
                return [self._value(kind, depth + 1, wanted) for _ in range(count)]
            case 12:
                return self.struct(depth + 1, wanted)
        raise ValueError(f"unknown kind of value: {kind}")  # maps too: no footer has one

    def _skip(self, kind: int, depth: int) -> None:
        """Pass over the value of a field."""
        if kind in (1, 2):  # the kind is the value
            return
        if kind == 8:
            self._pass(self._unsigned())
        elif kind == 12:
            self._skip_struct(depth + 1)
        elif kind in (9, 10):
            kind, count = self._list(depth + 1)
            for _ in range(count):
                self._skip_item(kind, depth + 1)
        else:
            self._skip_item(kind, depth)

    def _skip_item(self, kind: int, depth: int) -> None:
        """Pass over a value in a list, or one whose size its kind determines."""
        if 4 <= kind <= 6:
            while self._data[self._place] >= 0x80:
                self._place += 1
            self._place += 1
        elif kind in (1, 2, 3):
            self._pass(1)
        elif kind == 7:
            self._pass(8)
        elif kind in (8, 9, 10, 12):
            self._skip(kind, depth)
        else:
            raise ValueError(f"unknown kind of value: {kind}")

    def _skip_struct(self, depth: int) -> None:
        if depth > DEEPEST:
            raise ValueError("nested too deep")
        while head := self._byte():
            if not head >> 4:
                self._signed()
            self._skip(head & 15, depth)

    def _list(self, depth: int) -> tuple[int, int]:
        """The kind and number of a list's values."""
        head = self._byte()
        count = self._unsigned() if head >> 4 == 15 else head >> 4
        if count > len(self._data) - self._place or depth > DEEPEST:
            raise ValueError("a list longer than what is left")
        return head & 15, count

    def _byte(self) -> int:
        self._place += 1
        return self._data[self._place - 1]

    def _bytes(self, count: int) -> bytes:
        self._pass(count)
        return self._data[self._place - count : self._place]

    def _pass(self, count: int) -> None:
        if count > len(self._data) - self._place:
            raise IndexError
        self._place += count

    def _unsigned(self) -> int:
        number = self._byte()
        if number < 0x80:
            return number
        number, shift = number & 0x7F, 7
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
