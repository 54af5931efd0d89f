"""Files of lines, a row a line: where rows end, found in blocks of a file that is read once from the front.

A row may be longer than a line: of CSV, a quoted value may hold line breaks. So each format says where rows end in
bytes that begin with a row.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import IO

import numpy as np
from numpy.typing import NDArray

from infra.errors import StorageError

BLOCK_BYTES = 1 << 20
LARGEST_ROW = 16 << 20

MARKED_ROWS = 1024  # rows from one mark to the next, at first
MOST_MARKS = 1024

Ends = NDArray[np.int64]

Split = Callable[[bytes], Ends]
"""The ends of the whole rows (r,) in bytes that begin with a row; blank lines count to the row behind them."""


@dataclass(frozen=True)
class Block:
    """Whole rows of a file: the first one's number and place, the bytes, and where in them each row ends (r,)."""

    row: int
    place: int
    data: bytes
    ends: Ends

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return len(self.ends)

    def row_bytes(self, row: int) -> bytes:
        """The bytes of one of its rows, counted from its first."""
        return self.data[self.ends[row - 1] if row else 0 : self.ends[row]]

    def between(self, first: int, last: int) -> bytes:
        """The bytes of its rows [first, last)."""
        return self.data[self.ends[first - 1] if first else 0 : self.ends[last - 1] if last else 0]


def blocks(
    handle: IO[bytes], mark: tuple[int, int], split: Split, name: str, block_bytes: int = BLOCK_BYTES
) -> Iterator[Block]:
    """The rows of a file from a mark on, a row and the place where it stands, in blocks of about so many bytes.

    Raises:
        StorageError: a row is longer than LARGEST_ROW, or the file cannot be read.
    """
    row, place = mark
    handle.seek(place)
    rest = b""
    while chunk := handle.read(block_bytes):
        data = rest + chunk
        ends = split(data)
        whole = int(ends[-1]) if len(ends) else 0
        if len(ends):
            yield Block(row, place, data[:whole], ends)
        row, place, rest = row + len(ends), place + whole, data[whole:]
        if len(rest) > LARGEST_ROW:
            raise StorageError(
                f"{name}: row {row:,} has more than {LARGEST_ROW >> 20} MiB, which is the most that a line may have; "
                "if it is that long, write the table as Parquet; if not, a quote in it is opened and never closed"
            )
    if rest.strip():
        yield Block(row, place, rest, np.array([len(rest)]))


def line_ends(data: bytes, blank: bytes = b" \t\r\n") -> Ends:
    """The ends of lines (r,) that hold more than these bytes."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
    if not any(data.startswith(one) or b"\n" + one in data for one in (bytes([code]) for code in blank)):
        return ends
    return filled(data, ends.tolist(), blank)


def filled(data: bytes, ends: Sequence[int], blank: bytes) -> Ends:
    """Those of the ends (r,) that end more than these bytes."""
    return np.array([end for start, end in pairwise([0, *ends]) if data[start:end].strip(blank)], np.int64)


class Marks:
    """Marks of a file, thinned as it turns out to be long, so that there are at most MOST_MARKS."""

    def __init__(self) -> None:
        """None yet."""
        self._every, self._marks = MARKED_ROWS, list[tuple[int, int]]()

    def add(self, block: Block) -> None:
        """The marks in the next block."""
        for index in range(-block.row % self._every, block.rows, self._every):
            self.add_row(block.row + index, block.place + (int(block.ends[index - 1]) if index else 0))

    def add_row(self, row: int, place: int) -> None:
        """The next row, and where it stands."""
        if row % self._every == 0:
            self._marks.append((row, place))
        if len(self._marks) > MOST_MARKS:
            self._every *= 2
            self._marks = [mark for mark in self._marks if mark[0] % self._every == 0]

    @property
    def found(self) -> tuple[tuple[int, int], ...]:
        """All marks."""
        return tuple(self._marks)
