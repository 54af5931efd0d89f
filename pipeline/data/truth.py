"""The truth about samples: their labels, whether they are anomalous, and what an attack aims at. No score sees it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.data.classes.names import indices_of
from pipeline.data.columns import READERS, UnfitValue
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


def read_truth(source: Source, start: int, stop: int, names: Sequence[str] = ()) -> Truth:
    """Labels, anomaly marks and targets of rows [start, stop); `names`: of the model's classes, where they have any."""
    columns = [getattr(source.columns, role) for role in source.truth]
    batches = source.read(start, stop, columns, 65536) if columns else ()
    return truth_of_batches(source, batches, stop - start, names)


def truth_of_batches(
    source: Source, batches: Iterable[pa.RecordBatch], samples: int, names: Sequence[str] = ()
) -> Truth:
    """The truth about `samples` samples, from batches with the source's columns of truth.

    Raises:
        UnfitValue: a label or target is a name that no class has.
    """
    values = {role: np.full(samples, UNKNOWN, np.int64) for role in TRUTH}
    position = 0
    for batch in batches:
        for role in source.truth:
            column = batch.column(getattr(source.columns, role))
            try:
                known = READERS[role](column) if role == "anomalous" else indices_of(source, role, column, names)
            except UnfitValue as error:
                raise UnfitValue(position + error.row, error.reason) from error
            filled = pc.fill_null(known, UNKNOWN)
            values[role][position : position + batch.num_rows] = filled.to_numpy(zero_copy_only=False)
        position += batch.num_rows
    return Truth(**values)


def join_truth(pieces: Sequence[Truth]) -> Truth:
    """Concatenates pieces of truth."""
    return Truth(**{role: np.concatenate([getattr(piece, role) for piece in pieces]) for role in TRUTH})


def unknown_truth(samples: int) -> Truth:
    """The truth about `samples` samples of which nothing is known."""
    return Truth(**{role: np.full(samples, UNKNOWN, np.int64) for role in TRUTH})
