"""WebDataset: tar files in which the files of a sample follow each other and differ in their endings alone.

An image becomes the column `image`, `.cls` the column `label`, `.txt` the column `text`, the fields of `.json` columns
of their own, and what the names have in common `__key__`. Only asked members are read.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import IO

import pyarrow as pa

from infra.errors import StorageError
from infra.formats.data.batches import TOGETHER_BYTES
from infra.formats.data.contract import Beginning, DataFormat, Layout, OpenTable, Table, ended, refuse_absent
from infra.formats.data.image_files import IMAGE, LARGEST_IMAGE
from infra.formats.data.lines.blocks import LARGEST_ROW, Marks
from infra.formats.data.lines.json_lines import JsonTypes, parse_objects
from infra.formats.data.lines.tables import ERRORS, columns_of
from infra.formats.data.schemas import encode_schema
from infra.formats.data.tars.members import BLOCK, Member, is_header, members
from infra.storage.identity import InputFile
from infra.storage.parts import is_image

KEY, IMAGES, LABEL, TEXT, FIELDS = "__key__", "image", "label", "text", "json"
KINDS = {"cls": LABEL, "txt": TEXT, "json": FIELDS}
WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
USTAR_AT, USTAR = 257, b"ustar"


@dataclass(frozen=True)
class _Sample:
    """The members of a sample by the column that each becomes, what their names have in common, and where it begins."""

    key: str
    place: int
    members: dict[str, Member] = field(default_factory=dict)


class TarFiles(DataFormat):
    """Tar files of samples."""

    name, described, endings = "tar", "WebDataset", (".tar",)

    def takes(self, beginning: Beginning) -> bool:
        """Whether it begins with a header of tar."""
        marked = beginning.data[USTAR_AT : USTAR_AT + len(USTAR)] == USTAR
        return marked or (beginning.ending in self.endings and is_header(beginning.data[:BLOCK]))

    def inspect(self, handle: IO[bytes], file: InputFile, read: Sequence[str], texts: Collection[str]) -> Table:
        """Reads all headers, labels and fields."""
        marks, rows, known, whole, types = Marks(), 0, set[str](), True, JsonTypes()
        for sample in _samples(handle, 0, file.name):
            where = f"{file.name}: row {rows:,} ({sample.key[:80]!r})"
            known |= set(sample.members)
            if LABEL in sample.members:
                whole &= WHOLE.fullmatch(_text(handle, sample.members[LABEL], where) or "0") is not None
            if FIELDS in sample.members:
                _see(types, _line(handle, sample.members[FIELDS], where), where)
            marks.add_row(rows, sample.place)
            rows += 1
        own = {KEY: pa.string(), IMAGES: IMAGE, LABEL: pa.int64() if whole else pa.string(), TEXT: pa.string()}
        schema = pa.schema([(name, kind) for name, kind in own.items() if name == KEY or name in known])
        for one in types.schema:
            schema = schema if one.name in schema.names else schema.append(one)
        return Table(schema, rows, Layout(self.name, encode_schema(schema), marks.found))

    def open(
        self, handle: IO[bytes], place: str, layout: Layout | None, columns: Sequence[str], batch_rows: int
    ) -> OpenTable:
        """Opens nothing more than the file."""
        assert layout is not None
        refuse_absent(columns, layout.columns.names, place)
        return _Tar(handle, place, layout, columns, batch_rows)


def _see(types: JsonTypes, line: bytes, where: str) -> None:
    try:
        types.see(line, 1)
    except ERRORS as error:
        raise StorageError(f"{where}: its .json cannot be read ({str(error).splitlines()[0]}); mend it") from error


def _samples(handle: IO[bytes], place: int, name: str) -> Iterator[_Sample]:
    """The samples of a tar file from a header on.

    Raises:
        StorageError: the file is damaged, or a sample has two images.
    """
    named = ((_key(member.name), member) for member in members(handle, place, name))
    for key, group in groupby((pair for pair in named if pair[0]), key=lambda pair: pair[0]):
        own = [member for _, member in group]
        sample = _Sample(key, own[0].place)
        for member in own:
            ending = member.name[len(key) + 1 :].lower()
            column = IMAGES if is_image(f".{ending}") and "." not in ending else KINDS.get(ending)
            if column in sample.members:
                raise StorageError(
                    f"{name}: the sample {key[:80]!r} has two files for the column {column!r}; leave one"
                )
            if column is not None:
                sample.members[column] = member
        yield sample


def _key(name: str) -> str:
    """A path up to the first dot in its last name; "" of hidden files and those without an ending."""
    folder, slash, base = name.rpartition("/")
    own, dot, _ = base.partition(".")
    return folder + slash + own if own and dot else ""


def _bytes(handle: IO[bytes], member: Member, where: str) -> bytes:
    if member.size > LARGEST_ROW:
        raise StorageError(
            f"{where}: {member.name[:80]!r} has {member.size:,} bytes, at most {LARGEST_ROW:,} are read of a text"
        )
    handle.seek(member.start)
    return handle.read(member.size)


def _text(handle: IO[bytes], member: Member, where: str) -> str:
    return _bytes(handle, member, where).decode(errors="replace").strip()


def _line(handle: IO[bytes], member: Member, where: str) -> bytes:
    """An object in a line; line breaks of JSON stand between its values alone."""
    return _bytes(handle, member, where).replace(b"\r", b" ").replace(b"\n", b" ") + b"\n"


class _Tar(OpenTable):
    def __init__(self, handle: IO[bytes], place: str, layout: Layout, columns: Sequence[str], batch_rows: int):
        self._handle, self._place, self._layout, self._batch_rows = handle, place, layout, batch_rows
        self._schema = columns_of(layout.columns, columns)
        own = (KEY, IMAGES, LABEL, TEXT)
        self._fields = columns_of(layout.columns, [name for name in columns if name not in own])
        self._samples: Iterator[_Sample] = iter(())
        self._next = -1  # the row of the next sample

    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Batches of rows [start, stop)."""
        kept, size = list[_Sample](), 0
        for row in range(start, stop):
            sample = self._sample(row, stop)
            kept.append(sample)
            size += sum(sample.members[name].size for name in self._schema.names if name in sample.members)
            if len(kept) == self._batch_rows or size > TOGETHER_BYTES or row == stop - 1:
                yield self._batch(kept)
                kept, size = [], 0

    def _sample(self, row: int, stop: int) -> _Sample:
        if self._next < 0 or row < self._next:
            self._next, place = self._layout.mark(row)
            self._samples = _samples(self._handle, place, self._place)
        while True:
            sample = next(self._samples, None)
            if sample is None:
                raise ended(self._place, self._next, stop)
            self._next += 1
            if self._next > row:
                return sample

    def _batch(self, samples: Sequence[_Sample]) -> pa.RecordBatch:
        fields = self._objects(samples) if len(self._fields) else None
        arrays = [
            fields.column(own.name)
            if fields is not None and own.name in self._fields.names
            else self._own(own, samples)
            for own in self._schema
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _own(self, column: pa.Field, samples: Sequence[_Sample]) -> pa.Array:
        if column.name == KEY:
            return pa.array([sample.key.encode(errors="replace").decode() for sample in samples])
        found = [sample.members.get(column.name) for sample in samples]
        if column.name == IMAGES:
            return pa.array([None if member is None else self._image(member) for member in found], IMAGE)
        texts = [None if member is None else _text(self._handle, member, self._place) for member in found]
        if pa.types.is_integer(column.type):
            return pa.array([int(text) if text else None for text in texts], column.type)
        return pa.array(texts, column.type)

    def _image(self, member: Member) -> dict[str, object]:
        if member.size > LARGEST_IMAGE:
            size = f"{member.size / 2**20:,.0f} MiB, at most {LARGEST_IMAGE >> 20} are read"
            return {"bytes": None, "error": f"the file has {size}"}
        self._handle.seek(member.start)
        return {"bytes": self._handle.read(member.size), "error": None}

    def _objects(self, samples: Sequence[_Sample]) -> pa.RecordBatch:
        found = [sample.members.get(FIELDS) for sample in samples]
        lines = [b"{}\n" if one is None else _line(self._handle, one, self._place) for one in found]
        try:
            return parse_objects(b"".join(lines), self._fields)
        except ERRORS as error:
            raise StorageError(f"{self._place}: a .json cannot be read ({str(error).splitlines()[0]})") from error
