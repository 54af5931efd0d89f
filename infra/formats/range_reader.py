"""Ranges of rows of a file of samples that is opened once; in ascending order every row is decoded once."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from infra.formats.data.contract import Layout
from infra.formats.data.formats import format_of, inspect
from infra.formats.tables import read_rows
from infra.storage.identity import InputFile, place_of
from infra.storage.pins import PinnedInput

AT_ONCE = 65536


class RangeReader:
    """Reads ranges of rows, one after the other. Close it, or use it as a context."""

    def __init__(
        self, source: InputFile | str, columns: Sequence[str], batch_rows: int = 1024, layout: Layout | None = None
    ):
        """Open a file, to read these columns, in batches of at most `batch_rows` rows.

        Args:
            source: a file as it was found, which must still be that file, or a URL.
            columns: names of columns.
            batch_rows: rows of a batch at most.
            layout: how the file's rows are found; None for Parquet.

        Raises:
            Changed: it is not the file that was found.
            StorageError: it cannot be read, or lacks a column.
        """
        self._input = PinnedInput(source)
        try:
            self._table = format_of(layout).open(self._input.handle, place_of(source), layout, columns, batch_rows)
        except BaseException:
            self._input.close()
            raise

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
        return self._table.read(start, stop)


def read_range(
    source: InputFile, layout: Layout | None, rows: range, columns: Sequence[str], batch_rows: int = 1024
) -> Iterator[pa.RecordBatch]:
    """Batches of a range of rows, of these columns only; raises as `RangeReader`."""
    if layout is None:
        yield from read_rows(source, rows.start, rows.stop, columns, batch_rows)
        return
    with PinnedInput(source) as handle:
        table = format_of(layout).open(handle, place_of(source), layout, columns, batch_rows)
        yield from table.read(rows.start, rows.stop)


def read_texts(file: InputFile, columns: Sequence[str]) -> tuple[pa.Table, list[str]]:
    """All rows of those of the columns that a file has, text where its format leaves the types of values open.

    A column that the file has more than once is there as often, and empty. Beside them, the names of all its columns.

    Raises:
        Changed: the file is not the one that was found.
        StorageError: it cannot be read.
    """
    with PinnedInput(file) as handle:
        table = inspect(handle, file, columns, columns)
    fields = [field for field in table.schema if field.name in columns]
    names = [field.name for field in fields]
    if len(set(names)) < len(names) or not names:
        return pa.schema(fields).empty_table(), table.schema.names
    batches = read_range(file, table.layout, range(table.rows), names, AT_ONCE)
    return pa.Table.from_batches(batches, pa.schema(fields)), table.schema.names
