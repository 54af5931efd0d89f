"""Parquet: row groups are decoded one at a time and forwards.

For ranges in ascending order every row is decoded once, and damage in a row group affects only the ranges that overlap
it.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import StorageError
from infra.formats.data.contract import Beginning, DataFormat, Layout, OpenTable, Table, ended, refuse_absent
from infra.formats.parquet_bounds import check_claims
from infra.formats.parquet_footer import read_footer
from infra.formats.tables import batches_of, open_parquet, rows_decoded_at_once
from infra.storage.identity import InputFile

NO_GROUP = -1


class Parquet(DataFormat):
    """Parquet files; they tell their columns and rows themselves, so that they have no layout."""

    name, described, endings = "parquet", "Parquet", (".parquet", ".pq")

    def takes(self, beginning: Beginning) -> bool:
        """Whether it begins as one, encrypted or not."""
        return beginning.data.startswith((b"PAR1", b"PARE"))

    def inspect(self, handle: IO[bytes], file: InputFile, read: Sequence[str], texts: Collection[str]) -> Table:
        """Reads the footer."""
        try:
            footer = read_footer(handle)
        except StorageError as error:
            raise StorageError(f"{file.name}: {error}") from error
        check_claims(footer, file.size, read, file.name)
        opened = open_parquet(handle, file.name)
        return Table(opened.schema_arrow, opened.metadata.num_rows, None, _nulls_of(opened.metadata))

    def open(
        self, handle: IO[bytes], place: str, layout: Layout | None, columns: Sequence[str], batch_rows: int
    ) -> OpenTable:
        """Reads the footer."""
        return _Groups(handle, place, columns, batch_rows)


def _nulls_of(metadata: pq.FileMetaData) -> Callable[[str], bool]:
    """Whether the footer says that a leaf column has no value; a file may have no statistics."""

    def is_null(leaf: str) -> bool:
        places = [number for number in range(metadata.num_columns) if metadata.schema.column(number).path == leaf]
        groups = range(metadata.num_row_groups)
        return all(_holds_nulls_only(metadata.row_group(group).column(place)) for group in groups for place in places)

    return is_null


def _holds_nulls_only(chunk: pq.ColumnChunkMetaData) -> bool:
    known = chunk.statistics
    return known is not None and known.has_null_count and known.null_count == chunk.num_values


class _Groups(OpenTable):
    def __init__(self, handle: IO[bytes], place: str, columns: Sequence[str], batch_rows: int):
        self._handle, self._place, self._columns, self._batch_rows = handle, place, columns, batch_rows
        self._file = open_parquet(handle, place)
        refuse_absent(columns, self._file.schema_arrow.names, place)
        self._bounds = _bounds(self._file)
        self._group, self._position = NO_GROUP, 0  # the row group that is being decoded, and the next row in it
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest: pa.RecordBatch | None = None  # rows that are decoded and not yet read

    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Batches of rows [start, stop)."""
        for group, (first, last) in enumerate(self._bounds):
            if first < stop and start < last:
                yield from self._read_group(group, max(start - first, 0), min(stop, last) - first)
        if self._bounds[-1][1] < stop:
            raise ended(self._place, self._bounds[-1][1], stop)

    def _read_group(self, group: int, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Rows [start, stop) of a row group."""
        if group != self._group or start < self._position:
            self._restart(group)
        while self._position < stop:
            batch = self._next(group, stop)
            first = min(max(start - self._position, 0), batch.num_rows)
            last = min(stop - self._position, batch.num_rows)
            self._position += last
            self._rest = batch.slice(last)
            if first < last:
                yield batch.slice(first, last - first)

    def _restart(self, group: int) -> None:
        """Begin to decode a row group."""
        self._group = NO_GROUP
        try:
            rows = rows_decoded_at_once(self._file, self._handle, [group], self._columns, self._batch_rows)
        except StorageError as error:
            raise StorageError(f"{self._place}: {error}") from error
        self._batches = batches_of(self._file, rows, self._columns, self._place, [group])
        self._group, self._position, self._rest = group, 0, None

    def _next(self, group: int, stop: int) -> pa.RecordBatch:
        """The rows at the current position, as many as are decoded together."""
        if self._rest is not None and self._rest.num_rows:
            return self._rest
        try:
            batch = next(self._batches, None)
        except StorageError:
            self._group = NO_GROUP
            raise
        if batch is None:
            first = self._bounds[group][0]
            raise ended(self._place, first + self._position, first + stop)
        return batch


def _bounds(file: pq.ParquetFile) -> list[tuple[int, int]]:
    """The rows [first, last) of each row group."""
    metadata = file.metadata
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return list(pairwise(accumulate(rows, initial=0))) or [(0, 0)]
