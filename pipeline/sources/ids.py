"""Ids of samples as text: whatever bytes a file holds, every sample has an id, of bounded length."""

import csv
import io
from collections.abc import Sequence
from typing import IO

import pyarrow as pa

from infra.errors import StorageError
from infra.files import digest, open_input
from infra.tables import open_parquet, read_rows
from pipeline.errors import ConfigError

LONGEST_ID = 512
ID_COLUMNS = ("sample_id", "id")
KEPT = 200


def ids_of(column: pa.Array) -> list[str | None]:
    """Ids as text, None where null; one of more than LONGEST_ID bytes, or that is no UTF-8, begins like it and ends in its digest."""
    if pa.types.is_integer(column.type):
        return [None if value is None else str(value) for value in column.to_pylist()]
    return [None if data is None else _text(data) for data in (value.as_py() for value in column.cast(pa.large_binary()))]


def read_id_list(path: str) -> frozenset[str]:
    """The ids that a file lists: a line each, or, where its name ends in .csv or .parquet, in its column `sample_id` or `id`.

    Raises:
        ConfigError: it cannot be read, lists none, or has no such column.
    """
    try:
        with open_input(path) as handle:
            ids = _listed(path, handle)
    except (StorageError, pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a list of ids that can be read ({error}); give a text file with an id a line, a CSV or a Parquet file") from error
    if not ids:
        raise ConfigError(f"{path}: lists no id, so there is nothing to drop")
    return ids


def _listed(path: str, handle: IO[bytes]) -> frozenset[str]:
    if path.endswith(".parquet"):
        names = open_parquet(handle, path).schema_arrow.names
        name = _id_column(path, names)
        size = open_parquet(handle, path).metadata.num_rows
        return frozenset(own for batch in read_rows(path, 0, size, [name], 65536) for own in ids_of(batch.column(name)) if own is not None)
    if path.endswith(".csv"):
        rows = list(csv.reader(io.TextIOWrapper(handle, "utf-8-sig")))
        place = rows[0].index(_id_column(path, rows[0])) if rows else 0
        return frozenset(row[place] for row in rows[1:] if len(row) > place and row[place])
    return frozenset(line for line in handle.read().decode("utf-8-sig").splitlines() if line.strip())


def _id_column(path: str, names: Sequence[str]) -> str:
    for name in ID_COLUMNS:
        if name in names:
            return name
    raise ConfigError(f"{path}: has no column {' or '.join(ID_COLUMNS)} (columns there: {', '.join(names)}); name the column of ids so")


def _text(data: bytes) -> str:
    if len(data) <= LONGEST_ID:
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    return f"{data[:KEPT].decode(errors='replace')}...sha256:{digest(data)[:32]}"
