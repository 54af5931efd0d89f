"""CSV and JSON lines: rows and types as they are meant, whatever the blocks; odd rows are named."""

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import StorageError
from infra.formats.data.lines.blocks import MOST_MARKS, blocks, line_ends
from infra.formats.data.lines.csv_files import row_ends
from infra.formats.range_reader import RangeReader
from tests.infra.formats.data.samples import inspected, rows_of
from tests.strategies import LAW

CELLS = st.lists(st.sampled_from(["a", '"', ",", ";", "\n", "\r\n", " ", "\t", "\u00e9"]), max_size=6).map("".join)


@LAW
@given(
    st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1), st.integers(1, 40), st.sampled_from(["\n", "\r\n"])
)
def test_rows_of_csv_end_where_they_were_written_to_whatever_the_blocks(
    rows: list[list[str]], block_bytes: int, newline: str
) -> None:
    lines = []
    for row in rows:
        sink = io.StringIO()
        csv.writer(sink, lineterminator=newline).writerow(row)
        lines.append(sink.getvalue().encode())
    found = list(blocks(io.BytesIO(b"".join(lines)), (0, 0), row_ends(","), "x", block_bytes))
    assert [block.row_bytes(row) for block in found for row in range(block.rows)] == lines
    assert [block.row for block in found] == [sum(one.rows for one in found[:place]) for place in range(len(found))]


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "x.jsonl", b'\n{"a": 1}\n \n\r\n{"a": 2}\n\n') == [{"a": 1}, {"a": 2}]
    assert rows_of(tmp_path, "x.csv", b"\na,b\n\n1,2\n\r\n3,4") == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert rows_of(tmp_path, "y.csv", b'a\n" "\n""\n \n') == [{"a": " "}, {"a": ""}, {"a": " "}]


TYPES = {
    "integers": (["1", "-2", ""], [1, -2, None]),
    "fractions behind integers": (["1", "2.5", "1e3"], [1.0, 2.5, 1000.0]),
    "codes with zeros": (["007", "7"], ["007", "7"]),
    "numbers that are too long": (["12345678901234567890"], ["12345678901234567890"]),
    "truth": (["true", "False"], [True, False]),
    "truth and numbers": (["true", "1"], ["true", "1"]),
    "unknown numbers": (["NA", "3", "nan"], [None, 3, None]),
    "unknown text": (["NA", "x"], ["NA", "x"]),
    "days": (["2024-01-01", "2024-01-02"], ["2024-01-01", "2024-01-02"]),
    "nothing": (["", ""], [None, None]),
    "quoted nothing": (['""', "x"], ["", "x"]),
    "quotes inside": (['5" disk', '"a ""b"""'], ['5" disk', 'a "b"']),
}


@pytest.mark.parametrize(("cells", "values"), TYPES.values(), ids=TYPES)
def test_a_column_of_csv_has_the_type_of_all_its_values(tmp_path: Path, cells: list[str], values: list[object]) -> None:
    data = "".join(f"{row},{cell}\n" for row, cell in enumerate(cells))
    assert [row["b"] for row in rows_of(tmp_path, "x.csv", f"a,b\n{data}".encode())] == values


def test_ids_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "x.csv", b"id,n\n1.50,1.50\n", ["id"]) == [{"id": "1.50", "n": 1.5}]


def test_types_hold_for_rows_that_come_much_later(tmp_path: Path) -> None:
    """Types that are taken from the beginning alone would turn later values into nulls."""
    many = 300_000
    later = [*range(many), 0.5]
    data = "".join(json.dumps({"id": row, "v": value}) + "\n" for row, value in enumerate(later)).encode()
    file, table = inspected(tmp_path, "x.jsonl", data)
    assert table.schema == pa.schema([("id", pa.int64()), ("v", pa.float64())])
    assert table.layout is not None
    assert len(table.layout.marks) <= MOST_MARKS
    with RangeReader(file, ["v", "id"], 100, table.layout) as reader:
        assert [batch.to_pylist() for batch in reader.read(many, many + 1)] == [[{"v": 0.5, "id": many}]]
        assert next(reader.read(7, 9)).to_pylist() == [{"v": 7.0, "id": 7}, {"v": 8.0, "id": 8}]


JSON = {
    "fields that come and go": (b'{"a": 1}\n{"b": [1.5]}\n', [{"a": 1, "b": None}, {"a": None, "b": [1.5]}]),
    "what looks like a time": (b'{"a": "2024-01-01"}\n', [{"a": "2024-01-01"}]),
    "a mark at the beginning": (b'\xef\xbb\xbf{"a": 1}', [{"a": 1}]),
    "structs": (b'{"a": {"b": 1}}\n{"a": {"c": "x"}}\n', [{"a": {"b": 1, "c": None}}, {"a": {"b": None, "c": "x"}}]),
}


@pytest.mark.parametrize(("data", "rows"), JSON.values(), ids=JSON)
def test_json_is_what_it_says(tmp_path: Path, data: bytes, rows: list[dict[str, object]]) -> None:
    assert rows_of(tmp_path, "x.jsonl", data) == rows


GOOD = b'{"a": 1}\n' * 1500

ODD = {
    "a number that becomes text": (
        "x.jsonl",
        GOOD + b'{"a": "x"}\n',
        r"row 1,500 cannot be read \(.*; mend or remov",
    ),
    "the other way round, much later": (
        "x.jsonl",
        b'{"a": "x"}\n' * 200_000 + b'{"a": 1}\n',
        r"row 200,000 cannot be read \(.*a has incompatible types: string vs int64.*\)",
    ),
    "no JSON": ("x.jsonl", GOOD + b"{'a': 1}\n", r"row 1,500 cannot be read \(JSON parse error"),
    "a line that is cut off": ("x.jsonl", GOOD + b'{"a": ', "row 1,500 cannot be read"),
    "two objects in a line": (
        "x.jsonl",
        GOOD + b'{"a": 1} {"a": 2}\n',
        "row 1,500 .*a line holds more than one object",
    ),
    "a name twice": ("x.jsonl", b'{"a": 1, "a": 2}\n', "row 0 .*specified twice"),
    "no UTF-8": ("x.jsonl", GOOD + b'{"a": "\xff"}\n', "row 1,500 .*'utf-8' codec can't decode byte 0xff"),
    "lists in lists": ("x.jsonl", b'{"a": ' + b"[" * 10**6, "row 0 .*nested deeper than 64 levels"),
    "brackets that hide in text": (
        "x.jsonl",
        b'{"a": ' + b'["]", ' * 10**5 + b"]" * 10**5 + b"}",
        "row 0 .*nested deeper than 64 levels",
    ),
    "a row that is too long": ("x.jsonl", b'{"a": "' + b"x" * (17 << 20), "row 0 has more than 16 MiB"),
    "a value too few": (
        "x.csv",
        b"a,b\n1,2\n3\n",
        r"row 1 cannot be read \(CSV parse error: Expected 2 colu",
    ),
    "a quote that is never closed": ("x.csv", b'a,b\n1,2\n"3,4\n5,6\n', "row 1 cannot be read"),
    "no UTF-8 in CSV": ("x.csv", b"a,b\n1,2\n\xff,4\n", "row 1 cannot be read .*invalid UTF8"),
    "too many columns": ("x.csv", b"," * 20_000, "has more than 10,000 columns; write it as Parquet"),
}


@pytest.mark.parametrize(("name", "data", "says"), ODD.values(), ids=ODD)
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    with pytest.raises(StorageError, match=says):
        inspected(tmp_path, name, data)


def test_lines_without_an_end_are_found() -> None:
    assert line_ends(b"a\nb").tolist() == [2]
