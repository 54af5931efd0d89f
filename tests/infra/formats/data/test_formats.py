"""A file is what its first bytes say; where they are text, what its name ends in."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from infra.errors import StorageError
from tests.infra.formats.data.samples import inspected

SAMPLES = pa.table({"id": ["a", "b"]})


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(SAMPLES, sink)
    return sink.getvalue()


def arrow() -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, SAMPLES.schema) as writer:
        writer.write_table(SAMPLES)
    return sink.getvalue()


def stream() -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, SAMPLES.schema) as writer:
        writer.write_table(SAMPLES)
    return sink.getvalue()


LINES, VALUES = b'{"id": "a"}\n{"id": "b"}\n', b"id\na\nb\n"

TAKEN = {
    "Parquet, whatever its name": ("x.csv", parquet(), "parquet"),
    "Arrow, whatever its name": ("x.parquet", arrow(), "arrow"),
    "a stream without an ending": ("x", stream(), "arrow"),
    "objects, whatever their name": ("x.csv", LINES, "json"),
    "objects without an ending": ("x", LINES, "json"),
    "objects behind a mark": ("x.json", b"\xef\xbb\xbf" + LINES, "json"),
    "text, by its ending": ("x.CSV", VALUES, "csv"),
}


@pytest.mark.parametrize(("name", "data", "taken"), TAKEN.values(), ids=TAKEN)
def test_a_file_is_taken_by_what_it_holds(tmp_path: Path, name: str, data: bytes, taken: str) -> None:
    _, table = inspected(tmp_path, name, data)
    assert (table.rows, table.schema.names) == (2, ["id"])
    assert ("parquet" if table.layout is None else table.layout.format) == taken


def first_feather() -> bytes:
    sink = io.BytesIO()
    feather.write_feather(SAMPLES, sink, version=1)
    return sink.getvalue()


REFUSED = {
    "text without an ending": ("x", VALUES, "not a readable file of samples: it is text, perhaps CSV; call it .csv"),
    "text that is called Parquet": ("x.parquet", VALUES, "not a readable Parquet file: it is text, perhaps CSV"),
    "a database": ("x.db", b"SQLite format 3\0", "it is an SQLite database; write the table as Parquet"),
    "gzip": ("x.csv.gz", b"\x1f\x8b\x08\0", "it is compressed by gzip; unpack it"),
    "CSV of a spreadsheet's own": ("x.csv", "id\na\n".encode("utf-16"), "it is text in UTF-16; save it in UTF-8"),
    "a spreadsheet": ("x.xlsx", b"PK\3\4" + bytes(50), "or a spreadsheet; unpack it, or save the sheet as CSV"),
    "nothing": ("x.csv", b"", "is empty; a CSV file begins with the names of its columns"),
    "an old Feather": ("x.feather", b"FEA1" + bytes(64), "is of Feather's first version, which is not read"),
    "a list": ("x.json", json.dumps([{"id": "a"}]).encode(), r"is one JSON list, .* by jq -c '\.\[\]'"),
    "an object of lines": ("x.json", json.dumps({"id": "a"}, indent=1).encode(), "a JSON object of several lines"),
}


@pytest.mark.parametrize(("name", "data", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_file_of_samples_is_called_what_it_is(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    with pytest.raises(StorageError, match=says):
        inspected(tmp_path, name, data)
