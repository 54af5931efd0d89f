"""Ids of samples as text: whatever bytes a file holds, every sample has an id, of bounded length."""

import pyarrow as pa

from infra.files import digest

LONGEST_ID = 512
KEPT = 200


def ids_of(column: pa.Array) -> list[str | None]:
    """Ids as text, None where null; one of more than LONGEST_ID bytes, or that is no UTF-8, begins like it and ends in its digest."""
    if pa.types.is_integer(column.type):
        return [None if value is None else str(value) for value in column.to_pylist()]
    return [None if data is None else _text(data) for data in (value.as_py() for value in column.cast(pa.large_binary()))]


def _text(data: bytes) -> str:
    if len(data) <= LONGEST_ID:
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    return f"{data[:KEPT].decode(errors='replace')}...sha256:{digest(data)[:32]}"
