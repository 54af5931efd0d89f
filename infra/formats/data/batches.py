"""Record batches of a wanted number of rows, whatever the pieces that they are read in."""

from collections.abc import Iterable, Iterator

import pyarrow as pa

TOGETHER_BYTES = 64 << 20


def regrouped(pieces: Iterable[pa.RecordBatch], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of `batch_rows`, of fewer at the end and where they are more than TOGETHER_BYTES."""
    kept, rows, size = list[pa.RecordBatch](), 0, 0
    for piece in pieces:
        first = 0
        while first < piece.num_rows:
            taken = piece.slice(first, batch_rows - rows)
            kept.append(taken)
            first, rows, size = first + taken.num_rows, rows + taken.num_rows, size + taken.nbytes
            if rows == batch_rows or size > TOGETHER_BYTES:
                yield _joined(kept)
                kept, rows, size = [], 0, 0
    if kept:
        yield _joined(kept)


def _joined(kept: list[pa.RecordBatch]) -> pa.RecordBatch:
    return kept[0] if len(kept) == 1 else pa.concat_batches(kept)
