"""Arrow and Parquet: columns of samples in, batches out.

Every table that this project writes carries its schema's name and version in the schema's metadata; readers refuse a
newer one. Damage is an error when a table is read: an Arrow file carries a seal in its metadata, the digest of its
bytes with the seal blank; the pages of a Parquet file carry checksums.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import REPAIR, Corrupt, StorageError
from infra.formats.parquet_bounds import rows_at_once, rows_of_width
from infra.formats.parquet_footer import read_footer
from infra.storage.files import digest
from infra.storage.identity import InputFile, place_of
from infra.storage.pins import PinnedInput

BUFFER_BYTES = 1 << 20
GROUP_ROWS = 8192
SEAL_MARK = b"mad-seal:"
BLANK = SEAL_MARK + b"0" * 64


@dataclass(frozen=True)
class TableFormat:
    """Name, version and columns of a kind of table."""

    name: str
    version: int
    columns: tuple[pa.Field, ...]

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema, name and version in its metadata."""
        return pa.schema(self.columns, metadata={"mad.table": self.name, "mad.version": str(self.version)})

    def check(self, schema: pa.Schema, place: str) -> None:
        """Refuse a table of another kind or of a newer version.

        Raises:
            Corrupt: with the expected and the found name or version.
        """
        metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
        found, version = metadata.get("mad.table"), metadata.get("mad.version", "0")
        if found != self.name or not version.isdigit():
            raise Corrupt(f"{place}: expected a table {self.name!r}, found {found!r}")
        if int(version) > self.version:
            raise Corrupt(
                f"{place}: table {self.name!r} has version {version}, this mad reads up to {self.version};"
                " upgrade mad to read it"
            )


def encode_arrow(table: pa.Table) -> bytes:
    """A table as an Arrow IPC file, sealed."""
    sink = io.BytesIO()
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), "mad.seal": BLANK})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue()
    return _with_seal(data, SEAL_MARK + digest(data).encode())


def _with_seal(data: bytes, seal: bytes) -> bytes:
    """The file with another seal. The schema, which holds the seal in its metadata, is before and after the data."""
    changed = bytearray(data)
    for place in (data.find(SEAL_MARK), data.rfind(SEAL_MARK)):
        changed[place : place + len(seal)] = seal
    return bytes(changed)


def decode_arrow(data: bytes, expected: TableFormat, place: str) -> pa.Table:
    """The table of an Arrow IPC file.

    Raises:
        Corrupt: it is not one, was changed since it was written, or is not of the expected kind and version.
    """
    sealed = SEAL_MARK in data  # a file without a seal is of an earlier version
    if sealed and data != _with_seal(data, SEAL_MARK + digest(_with_seal(data, BLANK)).encode()):
        raise Corrupt(f"{place}: is damaged, it does not hold what was written (its seal differs); {REPAIR}")
    try:
        table = pa.ipc.open_file(data).read_all()
        table.validate(full=True)  # offsets beyond a buffer would be read as they are
    except (pa.ArrowException, OSError) as error:
        raise Corrupt(f"{place}: not an Arrow file ({error}); {REPAIR}") from error
    expected.check(table.schema, place)
    return table.replace_schema_metadata(
        {key: value for key, value in table.schema.metadata.items() if key != b"mad.seal"}
    )


def write_parquet(sink: IO[bytes], batches: Iterable[pa.RecordBatch], expected: TableFormat) -> None:
    """Stream record batches into one Parquet file.

    Row groups have GROUP_ROWS rows, however the batches are cut, so that equal tables are equal files. Columns of
    float32, which are measurements and hardly repeat, get no dictionary: a table of scores is then a third smaller, and
    takes a third less time.
    """
    repeating = _repeating(expected.schema)
    with pq.ParquetWriter(
        sink, expected.schema, compression="zstd", use_dictionary=repeating, write_page_checksum=True
    ) as writer:
        kept = expected.schema.empty_table()
        for batch in batches:
            kept = pa.concat_tables([kept, pa.Table.from_batches([batch])])
            while len(kept) >= GROUP_ROWS:
                writer.write_table(kept.slice(0, GROUP_ROWS).combine_chunks())
                kept = kept.slice(GROUP_ROWS)
        if len(kept):
            writer.write_table(kept.combine_chunks())


def _repeating(schema: pa.Schema) -> list[str]:
    """Paths of the leaf columns whose values can be expected to repeat."""
    sink = io.BytesIO()
    pq.write_table(schema.empty_table(), sink)
    leaves = pq.ParquetFile(sink).schema
    columns = [leaves.column(place) for place in range(len(leaves.names))]
    return [column.path for column in columns if column.physical_type != "FLOAT"]


def open_parquet(file: IO[bytes], place: str) -> pq.ParquetFile:
    """A Parquet file for streaming reads, one buffer at a time: a row group may be larger than memory.

    Raises:
        StorageError: it is not a Parquet file.
    """
    try:
        opened = pq.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER_BYTES, page_checksum_verification=True)
        _ = opened.schema_arrow.names  # raises where they are not valid text
    except StorageError:
        raise
    except (pa.ArrowException, ValueError, OSError) as error:
        raise StorageError(
            f"{place}: not a readable Parquet file ({str(error).splitlines()[0]}); if it is whole, write it again with "
            "types and encodings that pyarrow reads"
        ) from error
    return opened


def read_rows(
    source: InputFile | str, start: int, stop: int, columns: Sequence[str], batch_rows: int = 1024
) -> Iterator[pa.RecordBatch]:
    """Batches of rows [start, stop) of a Parquet file, of these columns only; reads only the row groups that hold them.

    Batches have at most `batch_rows` rows, and fewer where a dictionary is so large that they might not fit in memory.

    Args:
        source: a file as it was found, which must still be that file, or a URL.
        start: the first row.
        stop: one past the last.
        columns: names of columns.
        batch_rows: rows of a batch at most.

    Raises:
        Changed: it is not the file that was found.
        StorageError: the file cannot be read, lacks a column, or ends before `stop`.
    """
    url = place_of(source)
    with PinnedInput(source) as handle:
        file = open_parquet(handle, url)
        absent = [name for name in columns if name not in file.schema_arrow.names]
        if absent:
            raise StorageError(
                f"{url}: has no column {absent[0]!r}; was it replaced while the audit ran?"
                f" Columns there: {', '.join(file.schema_arrow.names)}"
            )
        groups, position = _row_groups(file, start, stop)
        try:
            batch_rows = rows_decoded_at_once(file, handle, groups, columns, batch_rows)
        except StorageError as error:
            raise StorageError(f"{url}: {error}") from error
        for batch in batches_of(file, batch_rows, columns, url, groups):
            first, last = max(start - position, 0), min(stop - position, batch.num_rows)
            position += batch.num_rows
            if first < last:
                yield batch.slice(first, last - first)
            if position >= stop:
                break
        if position < stop:
            raise StorageError(
                f"{url}: ends at row {position}, rows up to {stop} were expected; was it replaced while the audit ran?"
                " Run again"
            )


def rows_decoded_at_once(
    file: pq.ParquetFile, handle: IO[bytes], groups: Sequence[int], columns: Sequence[str], wanted: int
) -> int:
    """How many rows of these row groups and columns fit in memory, at most `wanted`.

    Raises:
        StorageError: a single one may not.
    """
    bytes_of_row = sum(_width(file.schema_arrow.field(name).type) for name in columns)
    return rows_at_once(read_footer(handle), handle, groups, columns, rows_of_width(bytes_of_row, wanted))


def _width(kind: pa.DataType) -> int:
    """Bytes that a row of a type takes even where it is null, about 8 where they depend on its value."""
    if isinstance(kind, pa.BaseExtensionType):
        return _width(kind.storage_type)
    if pa.types.is_fixed_size_binary(kind):
        return int(kind.byte_width)
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * _width(kind.value_type)
    if pa.types.is_struct(kind):
        return sum(_width(field.type) for field in kind)
    return 8


def batches_of(
    file: pq.ParquetFile, batch_rows: int, columns: Sequence[str], place: str, groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Batches of an open Parquet file, of these columns and row groups only (None: all).

    Raises:
        StorageError: it is damaged.
    """
    try:
        yield from file.iter_batches(batch_rows, row_groups=groups, columns=list(columns))
    except StorageError:
        raise
    except (pa.ArrowException, ValueError, OSError) as error:
        raise StorageError(f"{place}: a damaged Parquet file ({str(error).splitlines()[0]})") from error


def _row_groups(file: pq.ParquetFile, start: int, stop: int) -> tuple[list[int], int]:
    """The row groups that hold rows [start, stop), and the index of the first row in them."""
    groups, first, skipped = [], 0, 0
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if first + rows <= start:
            skipped = first + rows
        elif first < stop:
            groups.append(group)
        first += rows
    return groups, skipped
