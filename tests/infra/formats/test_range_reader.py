"""Ranges of an opened Parquet file: in any order each equals slicing; what is absent or too short is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import StorageError
from infra.formats.range_reader import RangeReader
from tests.infra.formats.test_tables import URL, write_groups
from tests.strategies import LAW


@LAW
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 10), st.data())
def test_ranges_in_any_order_equal_slicing(groups: list[int], batch_rows: int, data: st.DataObject) -> None:
    table = write_groups(URL, groups)
    bounds = st.tuples(st.integers(0, len(table)), st.integers(0, len(table))).map(sorted)
    with RangeReader(URL, ["id", "maybe"], batch_rows) as reader:
        for start, stop in data.draw(st.lists(bounds, max_size=5)):
            batches = list(reader.read(start, stop))
            assert all(0 < batch.num_rows <= batch_rows for batch in batches)
            rows = [row for batch in batches for row in batch.to_pylist()]
            assert rows == table.slice(start, stop - start).select(["id", "maybe"]).to_pylist()


def test_a_range_beyond_the_end_is_refused_after_the_rows_that_are_there() -> None:
    write_groups(URL, [4, 4])
    with RangeReader(URL, ["number"]) as reader:
        batches = reader.read(6, 9)
        assert next(batches).to_pylist() == [{"number": 6}, {"number": 7}]
        with pytest.raises(
            StorageError, match=r"rows\.parquet: ends at row 8, rows up to 9 were expected; was it repl"
        ):
            next(batches)


def test_an_absent_column_is_refused_when_the_file_is_opened() -> None:
    write_groups(URL, [4])
    with pytest.raises(StorageError, match=r"has no column 'label'; .* Columns there: id, number, maybe"):
        RangeReader(URL, ["id", "label"])
