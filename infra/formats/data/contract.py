"""What a format of files of samples is: how it is recognised, what it says of a file, and how rows are read."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Annotated, ClassVar

import pyarrow as pa
from pydantic import Field

from infra.errors import StorageError
from infra.formats.data.schemas import decode_schema
from infra.storage.identity import InputFile

LOOKED_AT = 4096

_UNSAID = Field(exclude_if=operator.not_)


@dataclass(frozen=True)
class Beginning:
    """What a file is recognised by: what its name ends in (as `.csv`, in lower case), and its first bytes."""

    ending: str
    data: bytes


@dataclass(frozen=True)
class Layout:
    """What one pass over a file found, so that any of its rows can be read without another.

    `schema`: the columns, encoded (see `schemas`). `marks`: rows at which reading can begin, and the bytes where they
    stand, ascending; the first is row 0. `texts`: columns that were taken as text, whatever they look like.
    `delimiter`: what stands between the values of a row, where the format leaves that open.
    """

    format: str
    schema: str
    marks: tuple[tuple[int, int], ...]
    texts: Annotated[tuple[str, ...], _UNSAID] = ()
    delimiter: Annotated[str, _UNSAID] = ""

    @property
    def columns(self) -> pa.Schema:
        """The columns as an Arrow schema."""
        return decode_schema(self.schema)

    def mark(self, row: int) -> tuple[int, int]:
        """The last mark at or before a row."""
        return next(mark for mark in reversed(self.marks) if mark[0] <= row)


def _unknown(leaf: str) -> bool:
    return False


@dataclass(frozen=True)
class Table:
    """What a file says of itself: its columns, its rows, and how they are found; None where the file itself tells.

    `holds_nothing`: whether the file says that all values of a leaf column, such as `image.bytes`, are null.
    """

    schema: pa.Schema
    rows: int
    layout: Layout | None = None
    holds_nothing: Callable[[str], bool] = field(default=_unknown, repr=False)


class OpenTable(ABC):
    """An open file, of which ranges of rows are read."""

    @abstractmethod
    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Batches of rows [start, stop).

        Raises:
            StorageError: the file is damaged there, or ends before `stop`.
        """


class DataFormat(ABC):
    """A format. `name` is recorded; `described` is what a file is called in sentences, as "a CSV file"."""

    name: ClassVar[str]
    described: ClassVar[str]
    endings: ClassVar[tuple[str, ...]]

    @abstractmethod
    def takes(self, beginning: Beginning) -> bool:
        """Whether a file that begins like this is one."""

    @abstractmethod
    def inspect(self, handle: IO[bytes], file: InputFile, read: Sequence[str], texts: Collection[str]) -> Table:
        """What an opened file says of itself, checked against what no honest file says.

        Args:
            handle: the file.
            file: its name and size.
            read: names of the columns that will be read, if they are there.
            texts: names of those that are text, where the format leaves that open.

        Raises:
            StorageError: it cannot be read, or claims what cannot be; with the row where that is known.
        """

    def schema(self, handle: IO[bytes], place: str, layout: Layout) -> pa.Schema:
        """The columns of an opened file that was inspected before, when it had this layout."""
        return layout.columns

    @abstractmethod
    def open(
        self, handle: IO[bytes], place: str, layout: Layout | None, columns: Sequence[str], batch_rows: int
    ) -> OpenTable:
        """An opened file, to read these columns of it in batches of at most `batch_rows` rows.

        Raises:
            StorageError: it cannot be read, or lacks a column.
        """


def refuse_absent(columns: Sequence[str], names: Sequence[str], place: str) -> None:
    """Refuse a file that lacks a column that planning found.

    Raises:
        StorageError: with the columns there are.
    """
    absent = [name for name in columns if name not in names]
    if absent:
        raise StorageError(
            f"{place}: has no column {absent[0]!r}; was it replaced while the audit ran? "
            f"Columns there: {', '.join(names)}"
        )


def ended(place: str, position: int, stop: int) -> StorageError:
    """The error of a file that has fewer rows than planning found."""
    return StorageError(
        f"{place}: ends at row {position}, rows up to {stop} were expected; was it replaced while the audit ran? "
        "Run again"
    )
