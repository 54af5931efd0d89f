"""Bounds what a Parquet file may claim and how many rows are decoded at a time: a small file must not fill memory.

Two things turn few bytes into many: compression and run lengths, which the footer declares and `check_claims` bounds by
the file's own size; and values that are stored once and repeated, by a dictionary or as the beginning of the next
value, with which each of a million rows can be the same large value, so that only few rows are decoded at a time where
such a value can be large.
"""

from collections.abc import Iterator, Sequence
from typing import IO

from infra.errors import StorageError
from infra.formats.parquet_footer import DECRYPT, Chunk, Footer, Group

DECODED_BYTES = 256 << 20
LARGEST_DICTIONARY = 512 << 20
GROWTH = 100
VALUES_PER_BYTE = 16
VALUES_IN_LISTS_PER_BYTE = 64  # texts that are padded to 2,048 tokens have 20 and more
_VARIABLE, _FIXED = 6, 7  # Parquet's BYTE_ARRAY and FIXED_LEN_BYTE_ARRAY
_PREFIXED, _DICTIONARY_PAGE = 7, 2  # the encoding DELTA_BYTE_ARRAY, and the kind of page
_INT_FIELD = 0x15  # in Thrift's compact protocol: an i32 whose field id is one more than that of the field before


def check_claims(footer: Footer, size: int, columns: Sequence[str], place: str) -> None:
    """Refuse a file whose footer claims what no honest file of its size holds.

    Args:
        footer: of the file.
        size: bytes of the file.
        columns: names of the columns that will be read.
        place: the file as errors name it.

    Raises:
        StorageError: the message has the numbers.
    """
    counted = sum(group.rows for group in footer.groups)
    if footer.rows != counted or min((group.rows for group in footer.groups), default=0) < 0:
        raise StorageError(
            f"{place}: its footer claims {footer.rows:,} rows, its row groups {counted:,};"
            " the file is damaged, rewrite it"
        )
    if footer.rows > VALUES_PER_BYTE * size:
        raise StorageError(
            f"{place}: claims {footer.rows:,} rows in {size:,} bytes, more than {VALUES_PER_BYTE} a byte;"
            " the file is damaged or malicious"
        )
    for number, group in enumerate(footer.groups):
        for chunk in _chunks(group, columns):
            _check_chunk(chunk, size, f"{place}: row group {number}, column {chunk.column!r},")


def rows_at_once(footer: Footer, handle: IO[bytes], groups: Sequence[int], columns: Sequence[str], wanted: int) -> int:
    """How many rows of these row groups and columns to decode at a time.

    That is `wanted`, or fewer: as many as need DECODED_BYTES if each holds the largest value that there can be. It has
    the size of a dictionary, or, where values begin with those before them, of the whole chunk.

    Raises:
        StorageError: a dictionary is larger than LARGEST_DICTIONARY.
    """
    largest = 1
    for group in groups:
        for chunk in _chunks(footer.groups[group], columns):
            if chunk.values and chunk.physical_type in (_VARIABLE, _FIXED):
                found = _dictionary_bytes(handle, chunk)
                if found > LARGEST_DICTIONARY:
                    raise StorageError(
                        f"row group {group}, column {chunk.column!r}: a dictionary of {found / 2**20:,.0f} MiB,"
                        f" at most {LARGEST_DICTIONARY / 2**20:,.0f} are read at once;"
                        " write the file with smaller row groups, or without dictionaries"
                    )
                prefixed = chunk.physical_type == _VARIABLE and _PREFIXED in chunk.encodings
                largest = max(largest, found, chunk.uncompressed if prefixed else 0)
    return max(1, min(wanted, DECODED_BYTES // largest))


def rows_of_width(bytes_of_row: int, wanted: int) -> int:
    """How many rows of so many bytes each to decode at a time, at most `wanted`.

    Raises:
        StorageError: one is larger than LARGEST_DICTIONARY.
    """
    if bytes_of_row > LARGEST_DICTIONARY:
        raise StorageError(
            f"each row takes {bytes_of_row / 2**20:,.0f} MiB by its columns' types, at most"
            f" {LARGEST_DICTIONARY / 2**20:,.0f} are read at once; store values and lists of their own lengths"
        )
    return max(1, min(wanted, DECODED_BYTES // max(1, bytes_of_row)))


def _chunks(group: Group, columns: Sequence[str]) -> Iterator[Chunk]:
    """The chunks of these columns, nested ones included."""
    inside = tuple(f"{name}." for name in columns)
    return (chunk for chunk in group.chunks if chunk.column in columns or chunk.column.startswith(inside))


def _check_chunk(chunk: Chunk, size: int, place: str) -> None:
    compressed, uncompressed = chunk.compressed, chunk.uncompressed
    if chunk.encrypted:
        raise StorageError(f"{place} is encrypted; {DECRYPT}")
    if not 0 <= chunk.values <= VALUES_IN_LISTS_PER_BYTE * size:
        raise StorageError(
            f"{place} claims {chunk.values:,} values in a file of {size:,} bytes, more than {VALUES_IN_LISTS_PER_BYTE}"
            " a byte; the file is damaged or malicious, or its lists are mostly padding: leave that out"
        )
    if not (0 <= compressed <= size and 0 <= chunk.start <= size - compressed):
        raise StorageError(
            f"{place} claims {compressed:,} bytes from byte {chunk.start:,} on in a file of {size:,};"
            " the file is damaged, rewrite it"
        )
    if uncompressed < 0 or uncompressed > max(DECODED_BYTES, GROWTH * compressed):
        raise StorageError(
            f"{place} claims to grow from {compressed:,} to {uncompressed:,} bytes when it is read, more than"
            f" {GROWTH}-fold, which no images, ids or tokens do;"
            " if that is correct, rewrite the file with smaller row groups"
        )


def _dictionary_bytes(handle: IO[bytes], chunk: Chunk) -> int:
    """Uncompressed bytes of the chunk's dictionary by the header of its first page; 0 where that page is none."""
    handle.seek(chunk.start)
    header = handle.read(16)
    kind, position = _field(header, 0)
    uncompressed, _ = _field(header, position)
    return uncompressed if kind == _DICTIONARY_PAGE else 0


def _field(header: bytes, position: int) -> tuple[int, int]:
    """The next number in a page's header, and where it ends. The first two are the page's kind and uncompressed bytes.

    Raises:
        StorageError: this is not the header of a page.
    """
    number = shift = 0
    for index in range(position + 1, len(header)):
        number |= (header[index] & 0x7F) << shift
        shift += 7
        if header[index] < 0x80 and header[position] == _INT_FIELD:
            return (number >> 1) ^ -(number & 1), index + 1
    raise StorageError("a damaged page header; rewrite the file")
