"""What a Parquet file may claim, and how many of its rows may be decoded at once, so that a small file cannot take all memory.

Two things make a few bytes many: compression and run lengths, which the footer tells of and `check_claims` bounds by the file's own size; and
dictionaries, by which each of a million rows is the same large value, so that rows are decoded few at a time where a dictionary is large.
"""

from collections.abc import Iterator, Sequence
from typing import IO

from infra.errors import StorageError
from infra.formats.parquet_footer import Chunk, Footer, Group

DECODED_BYTES = 256 << 20


LARGEST_DICTIONARY = 512 << 20


GROWTH = 100


VALUES_PER_BYTE = 16


_VARIABLE, _PREFIXED, _DICTIONARY_PAGE = 6, 7, 2  # Parquet's BYTE_ARRAY, DELTA_BYTE_ARRAY and DICTIONARY_PAGE


_INT_FIELD = 0x15  # of Thrift's compact protocol: an i32 with the field id after the last one's


def check_claims(footer: Footer, size: int, columns: Sequence[str], place: str) -> None:
    """Refuses a file whose footer claims what no honest file of its size holds.

    Args:
        footer: of the file.
        size: bytes of the file.
        columns: names of the columns that will be read.
        place: the file as errors name it.

    Raises:
        StorageError: with the numbers.
    """
    counted = sum(group.rows for group in footer.groups)
    if footer.rows != counted or min((group.rows for group in footer.groups), default=0) < 0:
        raise StorageError(
            f"{place}: its footer claims {footer.rows:,} rows, its row groups {counted:,}; the file is damaged, write it anew"
        )
    if footer.rows > VALUES_PER_BYTE * size:
        raise StorageError(
            f"{place}: claims {footer.rows:,} rows in {size:,} bytes, more than {VALUES_PER_BYTE} a byte; the file is damaged, or made to harm"
        )
    for number, group in enumerate(footer.groups):
        for chunk in _chunks(group, columns):
            _check_chunk(chunk, size, f"{place}: row group {number}, column {chunk.column!r},")


def rows_at_once(footer: Footer, handle: IO[bytes], groups: Sequence[int], columns: Sequence[str], wanted: int) -> int:
    """How many rows of these row groups and columns to decode at once: `wanted`, or as many as take DECODED_BYTES if each is the largest value.

    Raises:
        StorageError: a dictionary has more than LARGEST_DICTIONARY.
    """
    largest = 1
    for group in groups:
        for chunk in _chunks(footer.groups[group], columns):
            if chunk.physical_type == _VARIABLE:
                found = _dictionary_bytes(handle, chunk)
                if found > LARGEST_DICTIONARY:
                    raise StorageError(
                        f"row group {group}, column {chunk.column!r}: a dictionary of {found / 2**20:,.0f} MiB, at most "
                        f"{LARGEST_DICTIONARY / 2**20:,.0f} are read at once; write the file with smaller row groups, or without dictionaries"
                    )
                largest = max(largest, found)
    return max(1, min(wanted, DECODED_BYTES // largest))


def _chunks(group: Group, columns: Sequence[str]) -> Iterator[Chunk]:
    return (
        chunk
        for chunk in group.chunks
        if any(chunk.column == name or chunk.column.startswith(f"{name}.") for name in columns)
    )


def _check_chunk(chunk: Chunk, size: int, place: str) -> None:
    compressed, uncompressed = chunk.compressed, chunk.uncompressed
    if not 0 <= chunk.values <= VALUES_PER_BYTE * size:
        raise StorageError(
            f"{place} claims {chunk.values:,} values in a file of {size:,} bytes; the file is damaged, or made to harm"
        )
    if not (0 <= compressed <= size and 0 <= chunk.start <= size - compressed):
        raise StorageError(
            f"{place} claims {compressed:,} bytes from byte {chunk.start:,} on in a file of {size:,}; the file is damaged, write it anew"
        )
    if uncompressed < 0 or uncompressed > max(DECODED_BYTES, GROWTH * compressed):
        raise StorageError(
            f"{place} claims to grow from {compressed:,} to {uncompressed:,} bytes when it is read, more than {GROWTH}-fold, as no images, ids or tokens do; "
            "if it is right, write the file anew with smaller row groups"
        )
    if chunk.physical_type == _VARIABLE and _PREFIXED in chunk.encodings:
        raise StorageError(
            f"{place} is encoded as DELTA_BYTE_ARRAY, by which a few bytes can become any number; write the file anew in another encoding"
        )


def _dictionary_bytes(handle: IO[bytes], chunk: Chunk) -> int:
    """Uncompressed bytes of the chunk's dictionary by the header of its first page; 0 where that is no dictionary page."""
    handle.seek(chunk.start)
    header = handle.read(16)
    kind, position = _field(header, 0)
    uncompressed, _ = _field(header, position)
    return uncompressed if kind == _DICTIONARY_PAGE else 0


def _field(header: bytes, position: int) -> tuple[int, int]:
    """The next number of a page's header, and where it ends. The first are the page's kind and its uncompressed bytes.

    Raises:
        StorageError: it is no header of a page.
    """
    number = shift = 0
    for index in range(position + 1, len(header)):
        number |= (header[index] & 0x7F) << shift
        shift += 7
        if header[index] < 0x80 and header[position] == _INT_FIELD:
            return (number >> 1) ^ -(number & 1), index + 1
    raise StorageError("a damaged page header; write the file anew")
