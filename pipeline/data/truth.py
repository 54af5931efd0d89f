"""What is known of audited samples: whether they are anomalous, and what an attack aims at. Read for evaluation only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.formats.tables import read_rows
from pipeline.data.sources import TRUTH, Source

MISSING_CLASS = -1


@dataclass(frozen=True)
class Truth:
    """What is known of rows, for evaluation and for filtering the reference part; never seen by a score.

    Classes (n,) with -1 where unknown; `anomalous` (n,) is 0, 1, or -1 where unknown.
    """

    label: NDArray[np.int64]
    anomalous: NDArray[np.int64]
    target: NDArray[np.int64]

    def of(self, start: int, stop: int) -> "Truth":
        """That of samples [start, stop)."""
        return Truth(self.label[start:stop], self.anomalous[start:stop], self.target[start:stop])


def read_truth(source: Source, start: int, stop: int) -> Truth:
    """Labels, anomaly marks and targets of rows [start, stop)."""
    columns = [getattr(source.columns, role) for role in source.truth]
    batches = read_rows(source.file.url, start, stop, columns, 65536) if columns else ()
    return truth_of_batches(source, batches, stop - start)


def truth_of_batches(source: Source, batches: Iterable[pa.RecordBatch], samples: int) -> Truth:
    """Truth of so many samples, from batches with the source's columns of truth."""
    values = {role: np.full(samples, MISSING_CLASS, np.int64) for role in TRUTH}
    position = 0
    for batch in batches:
        for role in source.truth:
            column = pc.fill_null(pc.cast(batch.column(getattr(source.columns, role)), pa.int64()), MISSING_CLASS)
            values[role][position : position + batch.num_rows] = column.to_numpy(zero_copy_only=False)
        position += batch.num_rows
    return Truth(**values)


def joined(pieces: Sequence[Truth]) -> Truth:
    """Pieces of truth, one after the other."""
    return Truth(**{role: np.concatenate([getattr(piece, role) for piece in pieces]) for role in TRUTH})


def unknown(samples: int) -> Truth:
    """That nothing is known of so many samples."""
    return Truth(**{role: np.full(samples, MISSING_CLASS, np.int64) for role in TRUTH})
