"""Labels that are no class of a model: found before the first task, and said once."""

from collections.abc import Sequence

import numpy as np

from infra.errors import StorageError
from pipeline.data.classes.names import described_roles
from pipeline.data.columns import UnfitValue
from pipeline.data.sources import PLACES, Source, Split
from pipeline.data.truth import UNKNOWN, read_truth
from pipeline.errors import SourceError


def labels_outside(split: Split, sources: Sequence[Source], classes: int, names: Sequence[str] = ()) -> str:
    """Say how many labels of a split are no class of a model of so many classes, and the first; "" if none.

    `names`: of the classes, where they have any.

    Raises:
        SourceError: every label is none, so that the labels are not those of this model; or one is a name that no
            class has.
    """
    known = outside = 0
    first = ""
    for source in sources:
        labels = _labels(source, names)
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


def strange_names(sources: Sequence[Source], names: Sequence[str]) -> dict[str, str]:
    """The audited files with labels or targets that are names of no class, and the sentence about each."""
    found = dict[str, str]()
    for source in sources:
        if any(not isinstance(one, str) for one in described_roles(source, source.truth, names).values()):
            try:
                _labels(source, names)
            except SourceError as error:
                found[source.file.name] = str(error)
    return found


def _labels(source: Source, names: Sequence[str]) -> "np.typing.NDArray[np.int64]":
    """The labels of a file, UNKNOWN where it has none or they cannot be read, which the run will say."""
    if source.named and not names:
        column = getattr(source.columns, source.named[0])
        raise SourceError(
            f"{source.file.name}: the column {column!r} (data.columns.{source.named[0]}) holds names, and neither the "
            "model nor the data say which class has which name; list the names in data.labels in the order of the "
            f"model's outputs, or set data.columns.{source.named[0]}: null"
        )
    try:
        return read_truth(source, 0, source.rows, names).label
    except UnfitValue as error:
        role = source.named[0] if source.named else "label"
        raise SourceError(f"{source.file.name}: {error}; correct it, or set data.columns.{role}: null") from error
    except StorageError:
        return np.full(source.rows, UNKNOWN)
