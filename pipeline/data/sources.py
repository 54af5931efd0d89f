"""Sources: files of samples as planning found them, and reading their rows, whatever their format."""

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field

from infra.formats.data.contract import Layout
from infra.formats.data.formats import format_of
from infra.formats.range_reader import RangeReader, read_range
from infra.storage.files import digest
from infra.storage.identity import InputFile
from pipeline.config.samples import Columns
from pipeline.data.columns import constant
from pipeline.data.ids import ids_of
from pipeline.data.input_columns import LOOKED_FOR

Split = Literal["trusted", "audited", "sampling"]


PLACES: dict[Split, str] = {"trusted": "data.trusted", "audited": "data.audited", "sampling": "estimator.sampling"}


_UNSAID = Field(exclude_if=operator.not_)  # early versions of mad recorded no such key


@dataclass(frozen=True)
class Source:
    """One file of samples: its identity, how many rows it has, and which columns are in it.

    `truth`: the roles of truth that it has. `inputs`: the roles of a model's inputs that are read of it. `layout`: how
    its rows are found; None for Parquet. `numbered`: whether a sample's id is the file's name and its row, because it
    has no column of ids. `constants`: columns that names of folders hold instead of the file, as `label=3`. `features`:
    by role of truth, the names of the classes that the file's own integers stand for. `named`: the roles of truth whose
    values are names of classes. `apart`: whether its inputs are in other columns than those of the trusted set.
    """

    file: InputFile
    rows: int
    columns: Columns
    truth: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    layout: Annotated[Layout | None, _UNSAID] = None
    numbered: Annotated[bool, _UNSAID] = False
    constants: Annotated[tuple[tuple[str, str], ...], _UNSAID] = ()
    features: Annotated[tuple[tuple[str, tuple[str, ...]], ...], _UNSAID] = ()
    named: Annotated[tuple[str, ...], _UNSAID] = ()
    apart: Annotated[bool, _UNSAID] = False

    @property
    def key(self) -> str:
        """Digest of the file's URL and identity, and of what is read beyond the inputs that all files have.

        A changed file is another source.
        """
        more = [role for role in self.inputs if role in LOOKED_FOR and role != "completion_start"]
        more = ["id", "inputs", *self.inputs] if self.apart else more
        read = "".join(f"\n{role}: {getattr(self.columns, role)}" for role in more)
        read += f"\nnumbered: {self.file.name}" if self.numbered else ""
        return digest(f"{self.file.url}\n{self.file.identity}{read}".encode())[:24]

    @property
    def may_be_padded(self) -> bool:
        """Whether its texts may hold padding that no mask hides: there is none, and the config does not decline it."""
        return "input_ids" in self.inputs and not self._has_masks and self.columns.attention_mask is not None

    @property
    def _has_masks(self) -> bool:
        return "attention_mask" in self.inputs

    @property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """By role of truth, the names of the classes that the file's own integers stand for, where it says."""
        return dict(self.features)

    @property
    def taken_as(self) -> str:
        """What kind of file it is read as, as "CSV"."""
        return format_of(self.layout).described

    def read(self, start: int, stop: int, columns: Sequence[str], batch_rows: int = 1024) -> Iterator[pa.RecordBatch]:
        """Batches of at most `batch_rows` rows, of rows [start, stop) and these columns only.

        Raises:
            Changed: the file is not the one that was found.
            StorageError: it cannot be read, lacks a column, or ends before `stop`.
        """
        stored = [name for name in columns if not self._makes(name)]
        if not stored:
            for first in range(start, stop, batch_rows):
                yield self._made(first, min(batch_rows, stop - first), columns)
            return
        for batch in read_range(self.file, self.layout, range(start, stop), stored, batch_rows):
            yield self.completed(batch, start, columns)
            start += batch.num_rows

    def open(self, columns: Sequence[str], batch_rows: int = 1024) -> "SourceReader":
        """The file opened once for many ranges of rows; raises as `read`."""
        return SourceReader(self, columns, batch_rows)

    def completed(self, batch: pa.RecordBatch, first: int, columns: Sequence[str]) -> pa.RecordBatch:
        """A batch of stored columns, the first row of which has this number, with those that are not stored."""
        if len(columns) == batch.num_columns:
            return batch
        made = self._made(first, batch.num_rows, [name for name in columns if self._makes(name)])
        whole = [(made if self._makes(name) else batch).column(name) for name in columns]
        return pa.RecordBatch.from_arrays(whole, names=list(columns))

    def stored(self, columns: Sequence[str]) -> list[str]:
        """Those of the columns that are in the file."""
        return [name for name in columns if not self._makes(name)]

    def _makes(self, column: str) -> bool:
        return (self.numbered and column == self.columns.id) or column in dict(self.constants)

    def _made(self, first: int, rows: int, columns: Sequence[str]) -> pa.RecordBatch:
        folders = dict(self.constants)
        numbers = [f"{self.file.name}#{row}" for row in range(first, first + rows)]
        arrays = [constant(folders[name], rows) if name in folders else pa.array(numbers) for name in columns]
        return pa.RecordBatch.from_arrays(arrays, names=list(columns))


class SourceReader:
    """Ranges of rows of a source. Close it, or use it as a context."""

    def __init__(self, source: Source, columns: Sequence[str], batch_rows: int):
        """Open the file; raises as `Source.read`."""
        self._source, self._columns, self._batch_rows = source, columns, batch_rows
        stored = source.stored(columns)
        self._reader = RangeReader(source.file, stored, batch_rows, source.layout) if stored else None

    def __enter__(self) -> "SourceReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file.

        Raises:
            Changed: it is not the file that was opened any more.
        """
        if self._reader is not None:
            self._reader.close()

    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Batches of rows [start, stop); raises as `Source.read`."""
        if self._reader is None:
            yield from self._source.read(start, stop, self._columns, self._batch_rows)
            return
        for batch in self._reader.read(start, stop):
            yield self._source.completed(batch, start, self._columns)
            start += batch.num_rows


def read_ids(source: Source, start: int = 0, stop: int | None = None) -> Iterator[list[str | None]]:
    """Ids of rows [start, stop) as text, batch by batch."""
    for batch in source.read(start, source.rows if stop is None else stop, [source.columns.id], 65536):
        yield ids_of(batch.column(source.columns.id))
