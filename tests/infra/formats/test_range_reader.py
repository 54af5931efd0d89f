"""Ranges of rows of an open Parquet file, against slices of the table."""

from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import StorageError
from infra.formats.range_reader import RangeReader

ROWS = 40


def written(path: Path, group_rows: int) -> str:
    columns = {"number": list(range(ROWS)), "name": [f"n{row}" * (row % 5) for row in range(ROWS)]}
    pq.write_table(pa.table(columns), path, row_group_size=group_rows, use_dictionary=False, write_page_checksum=True)
    return path.as_uri()


def numbers(reader: RangeReader, start: int, stop: int) -> list[int]:
    return [number for batch in reader.read(start, stop) for number in batch.column("number").to_pylist()]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    ranges=st.lists(st.tuples(st.integers(0, ROWS), st.integers(0, ROWS)), max_size=6),
    group_rows=st.integers(1, ROWS),
    batch_rows=st.integers(1, ROWS),
)
def test_ranges_in_any_order_are_slices_of_the_table(
    tmp_path: Path, ranges: list[tuple[int, int]], group_rows: int, batch_rows: int
) -> None:
    url = written(tmp_path / "table.parquet", group_rows)
    with RangeReader(url, ["number", "name"], batch_rows) as reader:
        for start, stop in ranges:
            batches = list(reader.read(start, stop))
            assert [row for batch in batches for row in batch.column("number").to_pylist()] == list(range(start, stop))
            assert [name for batch in batches for name in batch.column("name").to_pylist()] == [
                f"n{row}" * (row % 5) for row in range(start, stop)
            ]
            assert all(batch.num_rows <= batch_rows for batch in batches)


def test_the_file_is_opened_once(tmp_path: Path) -> None:
    url = written(tmp_path / "table.parquet", 7)
    with RangeReader(url, ["number"]) as reader:
        (tmp_path / "table.parquet").unlink()
        cuts = (0, 3, 8, 9, 30, ROWS)
        assert [number for start, stop in pairwise(cuts) for number in numbers(reader, start, stop)] == list(
            range(ROWS)
        )


def test_a_range_that_was_not_read_to_its_end_loses_no_row(tmp_path: Path) -> None:
    with RangeReader(written(tmp_path / "table.parquet", 7), ["number"], batch_rows=2) as reader:
        assert next(reader.read(0, 7)).column("number").to_pylist() == [0, 1]
        assert numbers(reader, 0, 9) == list(range(9))


def test_damage_in_a_row_group_concerns_the_ranges_that_meet_it(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    url = written(path, 10)
    chunk = pq.read_metadata(path).row_group(2).column(0)
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size - 4] ^= 0xFF
    path.write_bytes(data)
    with RangeReader(url, ["number"]) as reader:
        assert numbers(reader, 0, 20) == list(range(20))
        for start, stop in ((15, 21), (25, 26)):
            with pytest.raises(StorageError, match="a damaged Parquet file"):
                numbers(reader, start, stop)
        assert numbers(reader, 30, 40) == list(range(30, 40))


def test_a_file_that_was_replaced_by_a_shorter_one_is_refused(tmp_path: Path) -> None:
    url = written(tmp_path / "table.parquet", 10)
    with RangeReader(url, ["number"]) as reader, pytest.raises(StorageError, match="ends at row 40, rows up to 41"):
        numbers(reader, 38, 41)
    with pytest.raises(StorageError, match=r"has no column .label.*Columns there: number, name"):
        RangeReader(url, ["number", "label"])
