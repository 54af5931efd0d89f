"""Bodies of Arrow messages, of which only the buffers of asked columns are read: the rest stays empty."""

import struct
from collections.abc import Sequence
from typing import IO

import pyarrow as pa

from infra.errors import StorageError
from infra.formats.data.arrow.messages import Message
from infra.formats.parquet_bounds import DECODED_BYTES, GROWTH

LARGEST_BATCH = 1 << 30


def wanted_buffers(schema: pa.Schema, fields: Sequence[int]) -> frozenset[int] | None:
    """The places of the buffers of some top-level columns; None where they cannot be told, so that all are wanted."""
    found, place = set[int](), 0
    for number, column in enumerate(schema):
        count = _count(column.type)
        if count is None:
            return None
        if number in fields:
            found.update(range(place, place + count))
        place += count
    return frozenset(found)


def _count(kind: pa.DataType) -> int | None:
    """How many buffers a column of a type has, None where that depends on the batch (views) or is rare (unions)."""
    if isinstance(kind, pa.BaseExtensionType):
        return _count(kind.storage_type)
    if pa.types.is_null(kind):
        return 0
    if pa.types.is_union(kind) or pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return None
    if pa.types.is_nested(kind) or pa.types.is_run_end_encoded(kind):
        inner = [_count(kind.field(place).type) for place in range(kind.num_fields)]
        return _own(kind) + sum(one or 0 for one in inner) if None not in inner else None
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return 3 if any(test(kind) for test in tests) else 2


def _own(kind: pa.DataType) -> int:
    """The buffers of a nested type without those of what is in it."""
    if pa.types.is_run_end_encoded(kind):
        return 0
    if pa.types.is_struct(kind) or pa.types.is_fixed_size_list(kind):
        return 1
    return 3 if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind) else 2


def bytes_of(
    handle: IO[bytes], message: Message, wanted: frozenset[int] | None, before: bytes, place: str
) -> bytearray:
    """The bytes of a message behind others, its body empty but for the wanted buffers.

    Raises:
        StorageError: they lie outside of the body, are too large, or claim to grow to more than honest ones do.
    """
    buffers = (
        [message.buffers[one] for one in sorted(wanted) if one < len(message.buffers)] if wanted is not None else []
    )
    if wanted is None:
        buffers = list(message.buffers)
    if any(start < 0 or length < 0 or start + length > message.body for start, length in message.buffers):
        raise StorageError(f"{place}: a damaged Arrow file, a column lies outside of its batch")
    size = sum(length for _, length in buffers)
    if size > LARGEST_BATCH:
        raise StorageError(
            f"{place}: a batch has {size / 2**20:,.0f} MiB, at most {LARGEST_BATCH / 2**20:,.0f} are read at once; "
            "write the file with fewer rows in a batch"
        )
    whole = bytearray(len(before) + message.head + message.body)
    whole[: len(before)] = before
    handle.seek(message.place)
    whole[len(before) : len(before) + message.head] = handle.read(message.head)
    body = len(before) + message.head
    for start, length in buffers:
        handle.seek(message.place + message.head + start)
        whole[body + start : body + start + length] = handle.read(length)
    if message.compressed:
        _refuse_growth(
            [bytes(whole[body + start : body + start + 8]) for start, length in buffers if length], size, place
        )
    return whole


def _refuse_growth(heads: Sequence[bytes], size: int, place: str) -> None:
    grown = sum(max(0, struct.unpack("<q", head.ljust(8, b"\0"))[0]) for head in heads)
    if grown > max(DECODED_BYTES, GROWTH * size) or grown > 4 * LARGEST_BATCH:
        raise StorageError(
            f"{place}: a batch claims to grow from {size:,} to {grown:,} bytes when it is read, more than {GROWTH}-fold"
            "; write the file with fewer rows in a batch, or without compression"
        )
