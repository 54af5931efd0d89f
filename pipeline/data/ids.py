"""Ids of samples as text of bounded length, whatever bytes a file holds."""

import codecs
from collections.abc import Iterator, Sequence

import pyarrow as pa

from infra.errors import StorageError
from infra.formats.range_reader import read_texts
from infra.storage.files import digest, find, read_input
from pipeline.data.columns import texts
from pipeline.errors import ConfigError

LONGEST_ID = 512


ID_COLUMNS = ("sample_id", "id")


TABLES = (".parquet", ".csv", ".tsv", ".arrow", ".feather", ".jsonl", ".ndjson")


KEPT_BYTES = 200


def ids_of(column: pa.Array) -> list[str | None]:
    """Ids as text, None where null.

    An id that is longer than LONGEST_ID bytes, or not UTF-8, becomes its beginning and its digest.

    Raises:
        UnfitValue: one is a number that is not whole.
    """
    return [None if data is None else _text(data) for data in texts(column)]


def read_id_list(path: str) -> frozenset[str]:
    """The ids that a file lists: one a line, or, where its name ends as a table's, in its column `sample_id` or `id`.

    Raises:
        ConfigError: it cannot be read, lists no id, or has no such column.
    """
    try:
        ids = frozenset(_listed(path))
    except (StorageError, pa.ArrowException, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(
            f"{path}: not a readable list of ids ({first}); "
            "give a text file with one id a line, a CSV file or a Parquet file"
        ) from error
    if not ids:
        raise ConfigError(f"{path}: lists no ids, so there is nothing to drop")
    return ids


def _listed(path: str) -> Iterator[str]:
    if path.lower().endswith(TABLES):
        (file,) = find(path, path).files
        table, names = read_texts(file, ID_COLUMNS)
        columns = iter(table.column(_id_column(path, names)).chunks)
    else:
        lines = read_input(path).removeprefix(codecs.BOM_UTF8).splitlines()
        columns = iter([pa.array([line for line in lines if line.strip()], pa.large_binary())])
    return (own for column in columns for own in ids_of(column) if own is not None)


def _id_column(path: str, names: Sequence[str]) -> str:
    for name in ID_COLUMNS:
        if name in names:
            return name
    raise ConfigError(
        f"{path}: has no column {' or '.join(ID_COLUMNS)} (columns there: {', '.join(names)}); rename the column of ids"
    )


def _text(data: bytes) -> str:
    if len(data) <= LONGEST_ID:
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    return f"{data[:KEPT_BYTES].decode(errors='replace')}...sha256:{digest(data)[:32]}"
