"""CSV: values between commas, tabs or semicolons, the names of columns in the first row. Quoted line breaks are values.

The types of columns are those of all rows: integers, numbers, booleans, or else text. Numbers that would be written
otherwise (`007`, `+1`) are text, so that no two ids become one. An empty value is null unless it is quoted.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from infra.errors import StorageError
from infra.formats.data.contract import Beginning, DataFormat, Layout, OpenTable, Table, refuse_absent
from infra.formats.data.lines.blocks import Block, Ends, Split, blocks, filled, line_ends
from infra.formats.data.lines.tables import LineTable, columns_of, survey
from infra.formats.data.schemas import encode_schema
from infra.storage.identity import InputFile

BOM, UTF_16 = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
BLANK = b"\r\n"  # white space is a value
DELIMITERS = (",", "\t", ";")
MOST_COLUMNS = 10_000
FIRST_LINE = 1 << 16
UNKNOWN = pa.array(["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None"])
_INTEGER = r"^-?(0|[1-9][0-9]{0,17})$"
_NUMBER = r"^-?((0|[1-9][0-9]{0,17})(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$|^-?inf(inity)?$"
_BOOLEAN = r"^(?i:true|false)$"
_KINDS = (("integer", _INTEGER, pa.int64()), ("number", _NUMBER, pa.float64()), ("boolean", _BOOLEAN, pa.bool_()))


class Csv(DataFormat):
    """Files of values between delimiters."""

    name, described, endings = "csv", "CSV", (".csv", ".tsv", ".txt")

    def takes(self, beginning: Beginning) -> bool:
        """Whether it is named so and text."""
        return beginning.ending in self.endings and b"\0" not in beginning.data and beginning.data[:2] not in UTF_16

    def inspect(self, handle: IO[bytes], file: InputFile, read: Sequence[str], texts: Collection[str]) -> Table:
        """Reads the whole file."""
        header = _header(handle, file)
        kept = tuple(sorted(name for name in header.names if name in set(texts)))
        types = _Types(header, dict.fromkeys(kept, "text"))
        rows, marks = survey(handle, header.end, row_ends(header.delimiter), types, file.name)
        schema = types.schema
        return Table(schema, rows, Layout(self.name, encode_schema(schema), marks.found, kept, header.delimiter))

    def open(
        self, handle: IO[bytes], place: str, layout: Layout | None, columns: Sequence[str], batch_rows: int
    ) -> OpenTable:
        """Opens nothing more than the file."""
        assert layout is not None
        names, wanted, split = layout.columns.names, list(columns), row_ends(layout.delimiter)
        refuse_absent(wanted, names, place)
        schema = columns_of(layout.columns, wanted)

        def parse(data: bytes) -> pa.RecordBatch:
            table = _texts(data, names, layout.delimiter, wanted)
            arrays = [_typed(table.column(field.name).combine_chunks(), field.type) for field in schema]
            return pa.RecordBatch.from_arrays(arrays, schema=schema)

        return LineTable(lambda row: blocks(handle, layout.mark(row), split, place), parse, place, batch_rows)


@dataclass(frozen=True)
class _Header:
    names: list[str]
    delimiter: str
    end: int


def _header(handle: IO[bytes], file: InputFile) -> _Header:
    """The names of the columns, what stands between values, and where the first row begins."""
    handle.seek(0)
    skipped = len(BOM) if handle.read(len(BOM)) == BOM else 0
    handle.seek(skipped)
    line = handle.read(FIRST_LINE).lstrip().split(b"\n")[0]
    delimiter = max(DELIMITERS, key=lambda one: line.count(one.encode()))
    block = next(blocks(handle, (0, skipped), row_ends(delimiter), file.name), None)
    if block is None:
        raise StorageError(f"{file.name}: is empty; a CSV file begins with the names of its columns")
    return _parsed_header(block, delimiter, file.name)


def _parsed_header(block: Block, delimiter: str, name: str) -> _Header:
    line = block.row_bytes(0)
    if line.count(delimiter.encode()) >= MOST_COLUMNS:
        raise StorageError(f"{name}: has more than {MOST_COLUMNS:,} columns; write it as Parquet")
    try:
        row = csv.read_csv(
            pa.BufferReader(line),
            read_options=csv.ReadOptions(autogenerate_column_names=True, use_threads=False),
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                column_types={f"f{place}": pa.string() for place in range(line.count(delimiter.encode()) + 1)}
            ),
        )
        names = [str(column[0].as_py()) for column in row.columns]
    except (pa.ArrowException, ValueError) as error:
        raise StorageError(f"{name}: its first line cannot be read ({str(error).splitlines()[0]})") from error
    return _Header(names, delimiter, block.place + int(block.ends[0]))


def row_ends(delimiter: str) -> Split:
    """Where rows end: at line breaks outside of quotes. As Arrow reads it, a quote opens only where a value begins."""
    other = re.escape(delimiter.encode())
    value = rb'(?:"(?:[^"]|"")*+"[^%b\r\n]*+|(?!")[^%b\r\n]*+)' % (other, other)
    row = re.compile(rb"[\r\n]*+%b(?:%b%b)*+(?:\r\n|\n|\r(?=.))" % (value, other, value), re.DOTALL)

    def split(data: bytes) -> Ends:
        if b'"' not in data and data.count(b"\r") == data.count(b"\r\n"):
            return line_ends(data, BLANK)
        ends, place = list[int](), 0
        while found := row.match(data, place):
            place = found.end()
            ends.append(place)
        return filled(data, ends, BLANK)

    return split


def _texts(data: bytes, names: Sequence[str], delimiter: str, wanted: Sequence[str]) -> pa.Table:
    """Columns as text."""
    return csv.read_csv(
        pa.BufferReader(data),
        read_options=csv.ReadOptions(column_names=list(names), use_threads=False, block_size=len(data) + 1),
        parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(wanted, pa.string()),
            include_columns=list(wanted),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _typed(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Texts as values of a type that all of them have."""
    if kind == pa.string():
        return values
    if kind == pa.null():
        return pa.nulls(len(values))
    return pc.if_else(pc.is_in(values, UNKNOWN), None, values).cast(kind)


class _Types:
    """The kinds of columns so far; "" where all was null."""

    def __init__(self, header: _Header, fixed: Mapping[str, str]):
        self._header = header
        self._kinds = {name: fixed.get(name, "") for name in header.names}

    @property
    def schema(self) -> pa.Schema:
        known = {"text": pa.string(), "": pa.null(), **{name: kind for name, _, kind in _KINDS}}
        return pa.schema([(name, known[self._kinds[name]]) for name in self._header.names])

    def see(self, data: bytes, rows: int) -> None:
        unique = list(dict.fromkeys(self._header.names))
        single = [name for name in unique if self._header.names.count(name) == 1]
        table = _texts(data, self._header.names, self._header.delimiter, single)
        if table.num_rows != rows:
            raise ValueError(f"{rows:,} rows were expected, and {table.num_rows:,} read; check its quotes")
        self._kinds |= {name: _joined(self._kinds[name], table.column(name)) for name in single}


def _joined(known: str, values: pa.ChunkedArray) -> str:
    """The kind of a column that was of a known kind, and goes on with these texts."""
    if known == "text":
        return known
    rest = values.drop_null()
    rest = rest.filter(pc.invert(pc.is_in(rest, UNKNOWN)))
    if not len(rest):
        return known
    own = next((name for name, form, _ in _KINDS if pc.all(pc.match_substring_regex(rest, form)).as_py()), "text")
    if known in ("", own):
        return own
    return "number" if {known, own} == {"integer", "number"} else "text"
