"""Arrow: IPC files (Feather) and streams, as Hugging Face datasets are saved. Only what asked columns need is read."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

import pyarrow as pa

from infra.errors import StorageError
from infra.formats.data.arrow.bodies import bytes_of, wanted_buffers
from infra.formats.data.arrow.messages import (
    BATCH,
    BODY_AT,
    DICTIONARY,
    FILE_MARK,
    SCHEMA,
    STREAM_MARK,
    Message,
    messages,
)
from infra.formats.data.batches import regrouped
from infra.formats.data.contract import Beginning, DataFormat, Layout, OpenTable, Table, ended, refuse_absent
from infra.formats.data.schemas import encode_schema
from infra.formats.parquet_bounds import VALUES_PER_BYTE
from infra.storage.identity import InputFile

MOST_MARKS = 1024


class Arrow(DataFormat):
    """Arrow files and streams."""

    name, described, endings = "arrow", "Arrow", (".arrow", ".feather", ".ipc")

    def takes(self, beginning: Beginning) -> bool:
        """Whether it begins as a file, a stream, or Feather's first version, which `inspect` refuses."""
        return beginning.data.startswith((FILE_MARK, STREAM_MARK, b"FEA1"))

    def inspect(self, handle: IO[bytes], file: InputFile, read: Sequence[str], texts: Collection[str]) -> Table:
        """Reads the metadata of all batches."""
        stream = _Stream(handle, file.name)
        rows, marks, dictionaries = 0, list[tuple[int, int]](), False
        for message in stream.messages(stream.first):
            dictionaries |= message.kind == DICTIONARY
            if message.kind == BATCH:
                marks.append((rows, message.place))
                rows += message.rows
                if message.rows < 0 or rows > VALUES_PER_BYTE * file.size:
                    raise StorageError(
                        f"{file.name}: claims {rows:,} rows in {file.size:,} bytes, more than {VALUES_PER_BYTE} a "
                        "byte; the file is damaged or malicious"
                    )
        # What batches say of dictionaries is known only to who has read all before them.
        kept = marks[:: 1 + len(marks) // MOST_MARKS] if marks and not dictionaries else [(0, stream.first)]
        return Table(stream.schema, rows, Layout(self.name, encode_schema(stream.schema), tuple(kept)))

    def schema(self, handle: IO[bytes], place: str, layout: Layout) -> pa.Schema:
        """With its metadata, which a layout has not."""
        return _Stream(handle, place).schema

    def open(
        self, handle: IO[bytes], place: str, layout: Layout | None, columns: Sequence[str], batch_rows: int
    ) -> OpenTable:
        """Reads the schema."""
        assert layout is not None
        stream = _Stream(handle, place)
        refuse_absent(columns, stream.schema.names, place)
        return _Batches(stream, layout, columns, batch_rows)


class _Stream:
    """An opened stream, in a file of its own or in an Arrow file: its schema, and where what follows begins."""

    def __init__(self, handle: IO[bytes], name: str):
        self.handle, self.name = handle, name
        self._size = handle.seek(0, 2)
        handle.seek(0)
        start = handle.read(len(FILE_MARK))
        if start[:4] == b"FEA1":
            raise StorageError(f"{name}: is of Feather's first version, which is not read; write it again with pyarrow")
        in_file = start == FILE_MARK
        if in_file:
            handle.seek(-len(FILE_MARK), 2)
            if handle.read() != FILE_MARK:
                raise StorageError(f"{name}: begins as an Arrow file and does not end as one; was it copied whole?")
        first = next(self.messages(BODY_AT if in_file else 0), None)
        if first is None or first.kind != SCHEMA or first.body:
            raise StorageError(f"{name}: not a readable Arrow file: no schema stands at its beginning")
        self.first = first.place + first.head
        self.head = self.bytes_at(first.place, first.head)
        try:
            self.schema = pa.ipc.read_schema(pa.BufferReader(self.head))
        except (pa.ArrowException, ValueError, OSError) as error:
            raise StorageError(f"{name}: not a readable Arrow file ({str(error).splitlines()[0]})") from error

    def messages(self, place: int) -> Iterator[Message]:
        return messages(self.handle, place, self._size, self.name)

    def bytes_at(self, place: int, length: int) -> bytes:
        self.handle.seek(place)
        return self.handle.read(length)


@dataclass
class _Walk:
    """How far a stream was read: what follows, the dictionaries before it, the last batch, and its first row."""

    messages: Iterator[Message]
    row: int
    dictionaries: list[bytes] = field(default_factory=list)
    batch: pa.RecordBatch | None = None

    @property
    def stop(self) -> int:
        """One past the last row of the batch."""
        return self.row + (self.batch.num_rows if self.batch is not None else 0)


class _Batches(OpenTable):
    def __init__(self, stream: _Stream, layout: Layout, columns: Sequence[str], batch_rows: int):
        self._stream, self._layout, self._batch_rows = stream, layout, batch_rows
        self._columns, schema = list(columns), stream.schema
        self._fields = sorted({schema.get_field_index(name) for name in columns})
        self._wanted = wanted_buffers(schema, self._fields)
        self._walk: _Walk | None = None

    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Batches of rows [start, stop)."""
        return regrouped(self._pieces(start, stop), self._batch_rows)

    def _pieces(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        while start < stop:
            walk = self._at(start, stop)
            assert walk.batch is not None
            piece = walk.batch.slice(start - walk.row, stop - start)
            start += piece.num_rows
            yield piece

    def _at(self, row: int, stop: int) -> _Walk:
        """The walk, at the batch that holds a row."""
        if self._walk is None or row < self._walk.row:
            first, place = self._layout.mark(row)
            self._walk = _Walk(self._stream.messages(place), first)
        walk = self._walk
        while walk.stop <= row:
            walk.row, walk.batch = walk.stop, None
            message = next(walk.messages, None)
            if message is None:
                raise ended(self._stream.name, walk.row, stop)
            if message.kind == DICTIONARY:
                walk.dictionaries.append(self._stream.bytes_at(message.place, message.head + message.body))
            elif message.kind == BATCH and walk.row + message.rows <= row:
                walk.row += message.rows
            elif message.kind == BATCH:
                walk.batch = self._decoded(message, walk)
        return walk

    def _decoded(self, message: Message, walk: _Walk) -> pa.RecordBatch:
        """The asked columns of a batch.

        Raises:
            StorageError: it is damaged, or too large to be read at once.
        """
        name = self._stream.name
        before = self._stream.head + b"".join(walk.dictionaries)
        whole = bytes_of(self._stream.handle, message, self._wanted, before, f"{name}: rows from {walk.row:,} on")
        options = pa.ipc.IpcReadOptions(included_fields=self._fields, use_threads=False)
        try:
            batch = pa.ipc.open_stream(pa.BufferReader(whole), options=options).read_next_batch()
            batch.validate(full=True)  # offsets beyond a buffer would be read as they are
        except (pa.ArrowException, ValueError, OSError, StopIteration) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise StorageError(f"{name}: a damaged Arrow file ({reason}), from row {walk.row:,} on") from error
        if batch.num_rows != message.rows:
            raise StorageError(f"{name}: a damaged Arrow file, from row {walk.row:,} on")
        return batch.select(self._columns)
