"""Rows of a split are read in pieces of bounded size."""

import pytest

from madcore.rows import RowLayout
from pipeline.artifacts.parts import RowsPart
from pipeline.results.rows import PIECE_BYTES, SplitRows

ROWS = 11_000


PART = RowsPart("source", "key", 0, ROWS, "task", "content")


@pytest.mark.parametrize(("k", "chunk"), [(100, 20_971), (26_000, 80), (1 << 20, 2), (1 << 25, 1)])
def test_pieces_are_bounded_and_begin_where_chunks_do(k: int, chunk: int) -> None:
    parts = (PART, RowsPart("source", "other", 0, 100, "task", "content"))
    pieces = SplitRows(parts, RowLayout(("one",), (k,)), chunk).pieces
    assert [row for part, start, stop in pieces if part is PART for row in range(start, stop)] == list(range(ROWS))
    assert [row for part, start, stop in pieces if part is not PART for row in range(start, stop)] == list(range(100))
    assert all(
        start % chunk == 0 and (4 * k * (stop - start) <= PIECE_BYTES or stop - start <= chunk)
        for _, start, stop in pieces
    )
