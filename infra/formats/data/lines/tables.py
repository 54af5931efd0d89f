"""Tables of files of lines: one pass finds the columns' types and the marks; ranges of rows are read from a mark on."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Protocol

import pyarrow as pa

from infra.errors import StorageError
from infra.formats.data.batches import regrouped
from infra.formats.data.contract import OpenTable, ended
from infra.formats.data.lines.blocks import Block, Marks, Split, blocks

PIECE_ROWS = re.compile(r"Row #\d+: | in row \d+$")

ERRORS = (pa.ArrowException, ValueError)

Parse = Callable[[bytes], pa.RecordBatch]


class Narrowing(Protocol):
    """The types of columns, as narrow as all rows allow that were seen."""

    def see(self, data: bytes, rows: int) -> None:
        """Rows of the file.

        Raises:
            ValueError, ArrowException: they cannot be read, or do not fit those seen before; nothing was seen then.
        """


def survey(handle: IO[bytes], first: int, split: Split, types: Narrowing, name: str) -> tuple[int, Marks]:
    """Read all rows of a file, of which the first stands at this place: how many there are, and marks.

    Raises:
        StorageError: a row cannot be read, or does not fit those before it; with its number and the reason.
    """
    rows, marks = 0, Marks()
    for block in blocks(handle, (0, first), split, name):
        try:
            types.see(block.data, block.rows)
        except ERRORS as error:
            _refuse(block, lambda data: types.see(data, 1), name, error)
        marks.add(block)
        rows += block.rows
    return rows, marks


def _refuse(block: Block, see: Callable[[bytes], object], name: str, error: Exception) -> None:
    """Refuse the first row of a block that cannot be read.

    Raises:
        StorageError: always.
    """
    row = 0
    for row in range(block.rows):
        try:
            see(block.row_bytes(row))
        except ERRORS as own:
            error = own
            break
    reason = _reason(error)
    raise StorageError(f"{name}: row {block.row + row:,} cannot be read ({reason}); mend or remove that row") from error


def _reason(error: Exception) -> str:
    """Why rows cannot be read, without the numbers of rows that count from the piece that was read."""
    return PIECE_ROWS.sub("", str(error).splitlines()[0])


def parsed(block: Block, first: int, last: int, parse: Parse, name: str) -> pa.RecordBatch:
    """Rows [first, last) of a block.

    Raises:
        StorageError: they cannot be read.
    """
    try:
        batch = parse(block.between(first, last))
        if batch.num_rows != last - first:
            raise ValueError(f"{last - first:,} rows stand there, and {batch.num_rows:,} were read")
    except ERRORS as error:
        reason = _reason(error)
        raise StorageError(
            f"{name}: rows {block.row + first:,} to {block.row + last - 1:,} cannot be read ({reason}); was it "
            "replaced while the audit ran? Run again"
        ) from error
    return batch


class LineTable(OpenTable):
    """An open file of lines. Ranges in ascending order go through it once."""

    def __init__(
        self,
        blocks_from: Callable[[int], Iterator[Block]],
        parse: Parse,
        place: str,
        batch_rows: int,
    ):
        """Reads nothing yet.

        Args:
            blocks_from: the blocks from the last mark on that is at or before a row.
            parse: makes a batch of whole rows.
            place: the file as errors name it.
            batch_rows: rows of a batch at most.
        """
        self._blocks_from, self._parse, self._place, self._batch_rows = blocks_from, parse, place, batch_rows
        self._blocks: Iterator[Block] = iter(())
        self._block: Block | None = None

    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Batches of rows [start, stop)."""
        return regrouped(self._pieces(start, stop), self._batch_rows)

    def _pieces(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        while start < stop:
            block = self._at(start, stop)
            first = start - block.row
            last = min(stop - block.row, block.rows, first + self._batch_rows)
            yield parsed(block, first, last, self._parse, self._place)
            start += last - first

    def _at(self, row: int, stop: int) -> Block:
        """The block that holds a row."""
        if self._block is None or row < self._block.row:
            self._block, self._blocks = None, self._blocks_from(row)
        while self._block is None or self._block.row + self._block.rows <= row:
            known, self._block = self._block, next(self._blocks, None)
            if self._block is None:
                raise ended(self._place, known.row + known.rows if known is not None else row, stop)
        return self._block


def columns_of(schema: pa.Schema, columns: Sequence[str]) -> pa.Schema:
    """The schema of these columns, in this order."""
    return pa.schema([schema.field(name) for name in columns])
