"""Tables: any range of rows equals slicing, whatever the row groups; newer, damaged and short files are refused."""

import io
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import Corrupt, Missing, StorageError
from infra.formats.tables import (
    GROUP_ROWS,
    TableFormat,
    decode_arrow,
    encode_arrow,
    open_parquet,
    read_rows,
    write_parquet,
)
from infra.storage.storage import Storage
from tests.strategies import LAW

SCORES = TableFormat("scores", 2, (pa.field("id", pa.string(), nullable=False), pa.field("score", pa.float32())))
URL = "memory://tables/rows.parquet"


def samples(rows: int) -> pa.Table:
    """Rows with an id, a number and a null here and there."""
    return pa.table(
        {
            "id": [f"s{i}" for i in range(rows)],
            "number": list(range(rows)),
            "maybe": [None if i % 3 else i for i in range(rows)],
        }
    )


def write_groups(url: str, groups: list[int]) -> pa.Table:
    """A Parquet file with row groups of these sizes, and the table it holds."""
    table, sink = samples(sum(groups)), io.BytesIO()
    with pq.ParquetWriter(sink, table.schema) as writer:
        start = 0
        for rows in groups:
            writer.write_table(table.slice(start, rows), row_group_size=max(1, rows))
            start += rows
    folder, name = url.rsplit("/", 1)
    Storage(folder).write(name, sink.getvalue())
    return table


def collect(url: str, start: int, stop: int, columns: list[str], batch_rows: int = 1024) -> list[dict[str, object]]:
    """All rows of a range, as dictionaries."""
    return [row for batch in read_rows(url, start, stop, columns, batch_rows) for row in batch.to_pylist()]


@LAW
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 10), st.data())
def test_any_range_equals_slicing(groups: list[int], batch_rows: int, data: st.DataObject) -> None:
    table = write_groups(URL, groups)
    start, stop = sorted(data.draw(st.tuples(st.integers(0, sum(groups)), st.integers(0, sum(groups)))))
    columns = data.draw(st.lists(st.sampled_from(table.column_names), unique=True, min_size=1))
    expected = table.slice(start, stop - start).select(columns).to_pylist()
    assert collect(URL, start, stop, columns, batch_rows) == expected
    assert all(0 < batch.num_rows <= batch_rows for batch in read_rows(URL, start, stop, columns, batch_rows))


@pytest.mark.parametrize(
    ("groups", "start", "stop", "end"),
    [([4, 4], 6, 9, 8), ([4, 4], 8, 9, 8), ([4, 4], 20, 30, 8), ([3], 0, 4, 3), ([], 0, 1, 0)],
)
def test_missing_rows_raise(groups: list[int], start: int, stop: int, end: int) -> None:
    write_groups(URL, groups)
    with pytest.raises(
        StorageError, match=f"rows.parquet: ends at row {end}, rows up to {stop} were expected; was it replaced"
    ):
        collect(URL, start, stop, ["id"])


def test_only_the_row_groups_of_the_range_are_read() -> None:
    """Damage elsewhere in the file does not disturb."""
    table = write_groups(URL, [50, 50, 50])
    store = Storage("memory://tables")
    good = store.read("rows.parquet")
    column = pq.ParquetFile(io.BytesIO(good)).metadata.row_group(1).column(0)
    damaged = bytearray(good)
    start = column.dictionary_page_offset or column.data_page_offset
    damaged[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    store.write("rows.parquet", bytes(damaged))
    assert collect(URL, 0, 50, ["id"]) == table.slice(0, 50).select(["id"]).to_pylist()
    assert collect(URL, 100, 150, ["id"]) == table.slice(100).select(["id"]).to_pylist()
    assert collect(URL, 0, 150, ["number"]) == table.select(["number"]).to_pylist()


def test_a_damaged_page_is_a_storage_error_that_names_the_file(tmp_path: Path) -> None:
    url = str(tmp_path / "rows.parquet")
    write_groups(url, [50])
    data = bytearray(Path(url).read_bytes())
    data[4:200] = bytes(196)
    Path(url).write_bytes(data)
    with pytest.raises(StorageError, match=r"rows\.parquet"):
        collect(url, 0, 50, ["id"])


def test_a_column_that_is_not_there_is_refused() -> None:
    write_groups(URL, [3])
    with pytest.raises(StorageError, match="labels"):
        collect(URL, 0, 3, ["id", "labels"])


@pytest.mark.parametrize(
    "content", [b"", b"no Parquet here", b"PAR1" + bytes(20) + b"PAR1"], ids=["empty", "text", "magic only"]
)
def test_what_is_no_parquet_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "input.parquet"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"input\.parquet: not a readable Parquet file"):
        collect(str(path), 0, 1, ["id"])


def test_no_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"nothing\.parquet"):
        collect(str(tmp_path / "nothing.parquet"), 0, 1, ["id"])


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files by /proc")
def test_a_reader_that_stops_early_closes_the_file(tmp_path: Path) -> None:
    url = str(tmp_path / "rows.parquet")
    write_groups(url, [50])
    before = len(os.listdir("/proc/self/fd"))
    reader = read_rows(url, 0, 50, ["id"], batch_rows=5)
    next(reader)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


def scores(rows: int) -> pa.Table:
    """A table of the format under test."""
    return pa.table(
        {"id": [f"s{i}" for i in range(rows)], "score": [float(i) for i in range(rows)]}, schema=SCORES.schema
    )


def labelled(rows: int, name: str, version: str) -> bytes:
    """An Arrow file of so many rows that says it is a table of this name and version."""
    return encode_arrow(scores(rows).replace_schema_metadata({"mad.table": name, "mad.version": version}))


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_arrow_round_trip(rows: int) -> None:
    back = decode_arrow(encode_arrow(scores(rows)), SCORES, "here")
    assert back.equals(scores(rows), check_metadata=True)


def test_older_versions_are_read() -> None:
    for version in ("1", "2"):
        assert decode_arrow(labelled(2, "scores", version), SCORES, "here").num_rows == 2


REFUSALS = {
    "newer": (
        labelled(2, "scores", "3"),
        r"^here: table 'scores' has version 3, this mad reads up to 2; upgrade mad to read it$",
    ),
    "another kind": (labelled(2, "rows", "2"), r"^here: expected a table 'scores', found 'rows'$"),
    "no kind": (encode_arrow(samples(2)), r"^here: expected a table 'scores', found None$"),
    "no number": (labelled(2, "scores", "two"), r"^here: expected a table 'scores'"),
    "no Arrow file": (b"nothing of the kind", r"^here: not an Arrow file"),
    "empty": (b"", r"^here: not an Arrow file"),
    "half": (encode_arrow(scores(200))[:900], r"^here: is damaged, it does not hold what was written"),
}


@pytest.mark.parametrize(("data", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_cannot_be_read_is_refused_with_a_sentence(data: bytes, message: str) -> None:
    with pytest.raises(Corrupt, match=message):
        decode_arrow(data, SCORES, "here")


def test_a_flipped_bit_anywhere_in_an_arrow_file_is_refused_or_without_meaning() -> None:
    """What is flipped in the mark of the seal itself leaves all else as it was."""
    good, refused = encode_arrow(scores(5)), 0
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1 << position % 8
        try:
            found = decode_arrow(bytes(damaged), SCORES, "here").select(["id", "score"])
            assert found.to_pylist() == scores(5).to_pylist()
        except Corrupt:
            refused += 1
    assert refused > len(good) * 0.9


def test_an_arrow_file_of_an_earlier_version_has_no_seal_and_is_read() -> None:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, SCORES.schema) as writer:
        writer.write_table(scores(3))
    assert decode_arrow(sink.getvalue(), SCORES, "here").equals(scores(3), check_metadata=True)


@pytest.mark.parametrize("value", ["mad-seal:" + "0" * 64, "mad-seal:" + "f" * 64, "mad-seal:"])
def test_a_value_that_looks_like_a_seal_comes_back_as_it_was(value: str) -> None:
    table = pa.table({"id": [value, "b"], "score": [0.0, 1.0]}, schema=SCORES.schema)
    assert decode_arrow(encode_arrow(table), SCORES, "here").column("id").to_pylist() == [value, "b"]


@pytest.mark.parametrize("rows", [0, 1, GROUP_ROWS, GROUP_ROWS + 1, 2 * GROUP_ROWS + 5])
def test_equal_tables_are_equal_files_however_their_batches_are_cut_and_carry_the_version(rows: int) -> None:
    files = []
    for batch_rows in (3000, 8192, 10 * GROUP_ROWS):
        sink = io.BytesIO()
        write_parquet(sink, scores(rows).to_batches(max_chunksize=batch_rows), SCORES)
        files.append(sink.getvalue())
    assert len(set(files)) == 1
    file = open_parquet(io.BytesIO(files[0]), "here")
    SCORES.check(file.schema_arrow, "here")
    assert file.metadata.num_row_groups == -(-rows // GROUP_ROWS)
    assert file.read().equals(scores(rows))


def test_a_parquet_table_without_rows_has_its_columns() -> None:
    sink = io.BytesIO()
    write_parquet(sink, [], SCORES)
    table = pq.read_table(io.BytesIO(sink.getvalue()))
    assert table.num_rows == 0
    assert table.schema.equals(SCORES.schema, check_metadata=True)
