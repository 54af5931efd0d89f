"""JSON lines: an object a line. Types are those of all lines: a number stays a number, and text stays text."""

import re
from collections.abc import Collection, Sequence
from typing import IO

import numpy as np
import pyarrow as pa
from pyarrow import json

from infra.errors import StorageError
from infra.formats.data.contract import Beginning, DataFormat, Layout, OpenTable, Table, refuse_absent
from infra.formats.data.lines.blocks import blocks, line_ends
from infra.formats.data.lines.tables import LineTable, columns_of, survey
from infra.formats.data.schemas import encode_schema
from infra.storage.identity import InputFile

BOM = b"\xef\xbb\xbf"
DEEPEST = 64
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"')
_BRACKETS = np.zeros(256, np.int64)
_BRACKETS[[ord("["), ord("{")]], _BRACKETS[[ord("]"), ord("}")]] = 1, -1


class JsonLines(DataFormat):
    """Files of JSON objects, one a line."""

    name, described, endings = "json", "JSON lines", (".jsonl", ".ndjson", ".json")

    def takes(self, beginning: Beginning) -> bool:
        """Whether it begins with an object, or is named so and begins with a list, which `inspect` refuses."""
        text = beginning.data.removeprefix(BOM).lstrip()
        return text.startswith(b"{") or (beginning.ending in self.endings and text.startswith(b"["))

    def inspect(self, handle: IO[bytes], file: InputFile, read: Sequence[str], texts: Collection[str]) -> Table:
        """Reads the whole file."""
        _refuse_list(handle, file.name)
        types = JsonTypes()
        rows, marks = survey(handle, _first(handle), line_ends, types, file.name)
        return Table(types.schema, rows, Layout(self.name, encode_schema(types.schema), marks.found))

    def open(
        self, handle: IO[bytes], place: str, layout: Layout | None, columns: Sequence[str], batch_rows: int
    ) -> OpenTable:
        """Opens nothing more than the file."""
        assert layout is not None
        refuse_absent(columns, layout.columns.names, place)
        wanted = columns_of(layout.columns, columns)
        return LineTable(
            lambda row: blocks(handle, layout.mark(row), line_ends, place),
            lambda data: parse_objects(data, wanted),
            place,
            batch_rows,
        )


class JsonTypes:
    """The types of the columns of all objects so far."""

    def __init__(self) -> None:
        """No columns yet."""
        self.schema = pa.schema([])

    def see(self, data: bytes, rows: int) -> None:
        """Lines of so many objects; raises as `Narrowing.see`."""
        _refuse_odd(data)
        own = _read(data, json.ParseOptions())
        if own.num_rows != rows:
            raise ValueError("a line holds more than one object")
        plain = pa.schema([pa.field(field.name, _plain(field.type)) for field in own.schema])
        self.schema = pa.unify_schemas([self.schema, plain], promote_options="permissive")


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type as JSON has it: what looks like a time is text."""
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _plain(field.type)) for field in kind])
    return pa.list_(_plain(kind.value_type)) if pa.types.is_list(kind) else kind


def parse_objects(data: bytes, wanted: pa.Schema) -> pa.RecordBatch:
    """The columns of lines of objects.

    Raises:
        ValueError, ArrowException: they cannot be read.
    """
    _refuse_odd(data)
    options = json.ParseOptions(explicit_schema=wanted, unexpected_field_behavior="ignore")
    table = _read(data, options).select(wanted.names).combine_chunks()
    return table.to_batches()[0] if table.num_rows else pa.RecordBatch.from_pylist([], wanted)


def _read(data: bytes, options: json.ParseOptions) -> pa.Table:
    return json.read_json(
        pa.BufferReader(data),
        read_options=json.ReadOptions(use_threads=False, block_size=len(data) + 1),
        parse_options=options,
    )


def _refuse_odd(data: bytes) -> None:
    """Refuse what Arrow's reader would not survive, or take without a word.

    Raises:
        ValueError: it is not UTF-8, or nested deeper than DEEPEST.
    """
    data.decode()
    if data.count(b"[") + data.count(b"{") <= DEEPEST:
        return
    for line in data.splitlines():
        if line.count(b"[") + line.count(b"{") > DEEPEST:
            codes = np.frombuffer(_STRING.sub(b"", line), np.uint8)
            if np.cumsum(_BRACKETS[codes]).max(initial=0) > DEEPEST:
                raise ValueError(f"nested deeper than {DEEPEST} levels")


def _first(handle: IO[bytes]) -> int:
    handle.seek(0)
    return len(BOM) if handle.read(len(BOM)) == BOM else 0


def _refuse_list(handle: IO[bytes], name: str) -> None:
    handle.seek(0)
    start = handle.read(4096).removeprefix(BOM).lstrip()
    if start.startswith(b"["):
        raise StorageError(
            f"{name}: is one JSON list, and rows are read from lines of an object each; write it as JSON lines, "
            "for example by jq -c '.[]'"
        )
    if start.startswith(b"{") and start[1:].lstrip(b" \t\r").startswith(b"\n"):
        raise StorageError(
            f"{name}: is a JSON object of several lines, and each line has to be an object; write it as JSON lines, "
            "for example by jq -c"
        )
