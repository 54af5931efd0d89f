"""Ranges of rows of a Parquet file that is opened once.

Row groups are decoded one at a time and forwards: for ranges in ascending order every row is decoded once, and damage
in a row group affects only the ranges that overlap it.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import StorageError
from infra.formats.tables import batches_of, open_parquet, rows_decoded_at_once
from infra.storage.identity import InputFile, place_of
from infra.storage.pins import PinnedInput

NO_GROUP = -1


class RangeReader:
    """Reads ranges of rows, one after the other. Close it, or use it as a context."""

    def __init__(self, source: InputFile | str, columns: Sequence[str], batch_rows: int = 1024):
        """Open a file, to read these columns, in batches of at most `batch_rows` rows.

        Args:
            source: a file as it was found, which must still be that file, or a URL.
            columns: names of columns.
            batch_rows: rows of a batch at most.

        Raises:
            Changed: it is not the file that was found.
            StorageError: it cannot be read, or lacks a column.
        """
        self._url, self._columns, self._batch_rows = place_of(source), columns, batch_rows
        self._input = PinnedInput(source)
        self._handle = self._input.handle
        try:
            self._file = open_parquet(self._handle, self._url)
            self._refuse_absent(self._file.schema_arrow.names)
        except BaseException:
            self._input.close()
            raise
        self._bounds = _bounds(self._file)
        self._group, self._position = NO_GROUP, 0  # the row group that is being decoded, and the next row in it
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest: pa.RecordBatch | None = None  # rows that are decoded and not yet read

    def __enter__(self) -> "RangeReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file.

        Raises:
            Changed: it is not the file that was opened any more.
        """
        self._input.close()

    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Batches of rows [start, stop).

        Raises:
            StorageError: the file is damaged there, or ends before `stop`.
        """
        for group, (first, last) in enumerate(self._bounds):
            if first < stop and start < last:
                yield from self._read_group(group, max(start - first, 0), min(stop, last) - first)
        if self._bounds[-1][1] < stop:
            raise self._ended(self._bounds[-1][1], stop)

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
            raise StorageError(f"{self._url}: {error}") from error
        self._batches = batches_of(self._file, rows, self._columns, self._url, [group])
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
            raise self._ended(first + self._position, first + stop)
        return batch

    def _refuse_absent(self, names: Sequence[str]) -> None:
        absent = [name for name in self._columns if name not in names]
        if absent:
            raise StorageError(
                f"{self._url}: has no column {absent[0]!r}; was it replaced while the audit ran? "
                f"Columns there: {', '.join(names)}"
            )

    def _ended(self, position: int, stop: int) -> StorageError:
        return StorageError(
            f"{self._url}: ends at row {position}, rows up to {stop} were expected; "
            "was it replaced while the audit ran? Run again"
        )


def _bounds(file: pq.ParquetFile) -> list[tuple[int, int]]:
    """The rows [first, last) of each row group."""
    metadata = file.metadata
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return list(pairwise(accumulate(rows, initial=0))) or [(0, 0)]
