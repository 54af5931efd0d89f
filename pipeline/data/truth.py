"""The truth about samples: their labels, whether they are anomalous, and what an attack aims at. No score sees it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.formats.tables import read_rows
from pipeline.data.columns import READERS
from pipeline.data.schema_checks import TRUTH
from pipeline.data.sources import Source

UNKNOWN = -1


@dataclass(frozen=True)
class Truth:
    """The truth about n samples, for evaluation and for filtering the reference part; never seen by a score.

    `label` and `target` (n,) are classes, `anomalous` (n,) is 0 or 1; each is UNKNOWN where it is not known.
    """

    label: NDArray[np.int64]
    anomalous: NDArray[np.int64]
    target: NDArray[np.int64]

    def of(self, start: int, stop: int) -> "Truth":
        """The truth about samples [start, stop)."""
        return Truth(self.label[start:stop], self.anomalous[start:stop], self.target[start:stop])


def read_truth(source: Source, start: int, stop: int) -> Truth:
    """Labels, anomaly marks and targets of rows [start, stop)."""
    columns = [getattr(source.columns, role) for role in source.truth]
    batches = read_rows(source.file, start, stop, columns, 65536) if columns else ()
    return truth_of_batches(source, batches, stop - start)


def truth_of_batches(source: Source, batches: Iterable[pa.RecordBatch], samples: int) -> Truth:
    """The truth about `samples` samples, from batches with the source's columns of truth."""
    values = {role: np.full(samples, UNKNOWN, np.int64) for role in TRUTH}
    position = 0
    for batch in batches:
        for role in source.truth:
            known = READERS[role](batch.column(getattr(source.columns, role)))
            column = pc.fill_null(known, UNKNOWN)
            values[role][position : position + batch.num_rows] = column.to_numpy(zero_copy_only=False)
        position += batch.num_rows
    return Truth(**values)


def join_truth(pieces: Sequence[Truth]) -> Truth:
    """Concatenates pieces of truth."""
    return Truth(**{role: np.concatenate([getattr(piece, role) for piece in pieces]) for role in TRUTH})


def unknown_truth(samples: int) -> Truth:
    """The truth about `samples` samples of which nothing is known."""
    return Truth(**{role: np.full(samples, UNKNOWN, np.int64) for role in TRUTH})
