"""Labels that are no class of a model: found before the first task, and said once."""

from collections.abc import Sequence

import numpy as np

from infra.errors import StorageError
from pipeline.data.sources import PLACES, Source, Split
from pipeline.data.truth import UNKNOWN, read_truth
from pipeline.errors import SourceError


def labels_outside(split: Split, sources: Sequence[Source], classes: int) -> str:
    """Say how many labels of a split are no class of a model of so many classes, and the first; "" if none.

    Raises:
        SourceError: every label is none, so that the labels are not those of this model.
    """
    known = outside = 0
    first = ""
    for source in sources:
        labels = _labels(source)
        wrong = np.flatnonzero((labels != UNKNOWN) & ((labels < 0) | (labels >= classes)))
        known += int((labels != UNKNOWN).sum())
        outside += len(wrong)
        if len(wrong) and not first:
            first = f"the first is {labels[wrong[0]]}, of {source.file.name}, row {wrong[0]:,}"
    if not outside:
        return ""
    said = (
        f"{PLACES[split]}: {outside:,} of {known:,} labels are no class of the model, whose {classes:,} classes are 0 "
        f"to {classes - 1:,}; {first}"
    )
    if outside == known:
        raise SourceError(f"{said}; check data.columns.label, or set it to null to do without labels")
    return said


def _labels(source: Source) -> "np.typing.NDArray[np.int64]":
    """The labels of a file, UNKNOWN where it has none or they cannot be read, which the run will say."""
    try:
        return read_truth(source, 0, source.rows).label
    except StorageError:
        return np.full(source.rows, UNKNOWN)
