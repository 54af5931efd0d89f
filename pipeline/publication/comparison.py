"""Two published tables of a model compared: newly flagged, no longer flagged, scores that moved.

A sample of an unchanged file is identified by (source, row). Where a file is new, gone, or changed under its name,
its samples are identified by their ids among those of all such files; of several with the same id, the first is
compared, and a flag on any of them counts.

Tables are streamed. What is kept of each takes KEPT_BYTES a sample: key, score, predicted class, flagged, reviewed;
matching and testing take no more than PEAK_BYTES a sample of both tables together.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from infra.formats.tables import batches_of, open_parquet
from infra.storage.storage import Storage
from pipeline.artifacts.scores import PUBLISHED_FORMAT
from pipeline.publication.drift import ByClass, Drift, drifted_classes, drifts

KEPT_BYTES, PEAK_BYTES = 18, 96

BATCH_ROWS = 8192

ROW_BITS = 40

COLUMNS = ("sample_id", "source", "row", "prediction", "score", "flagged")

SHOWN = ("sample_id", "source", "row", "prediction", "score", "p_value")

Indices = NDArray[np.int64]

Mask = NDArray[np.bool_]


class Flag(BaseModel):
    """A flagged sample. `known`: whether the other run audited it as well."""

    model_config = ConfigDict(frozen=True)
    sample_id: str
    source: str
    row: int
    prediction: int
    score: float | None
    p_value: float | None
    known: bool


class Flags(BaseModel):
    """Flagged samples: how many without a review, how many with one, and the first, most anomalous first."""

    model_config = ConfigDict(frozen=True)
    count: int = 0
    reviewed: int = 0
    samples: tuple[Flag, ...] = ()


class Difference(BaseModel):
    """What differs between two tables.

    `common`: samples in both. `newly_flagged`: flagged in the later table and not in the earlier one. Of the samples
    flagged in the earlier one, `no_longer_flagged` are unflagged in the later one, and `no_longer_audited` are not in
    it.
    """

    model_config = ConfigDict(frozen=True)
    common: int = 0
    newly_flagged: Flags = Flags()
    no_longer_flagged: Flags = Flags()
    no_longer_audited: int = 0
    drift: tuple[Drift, ...] = ()

    @property
    def drifted_classes(self) -> list[int]:
        """Predicted classes whose scores moved by more than chance."""
        return drifted_classes(self.drift)


@dataclass(frozen=True)
class Table:
    """A published table, by its place."""

    storage: Storage
    place: str

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Its batches, of these columns only.

        Raises:
            StorageError: it is gone, damaged, or written by a newer version.
        """
        with self.storage.open(self.place) as handle:
            yield from batches_of(self._opened(handle), BATCH_ROWS, columns, self.storage.locate(self.place))

    @property
    def rows(self) -> int:
        """How many samples it has; raises as `batches`."""
        with self.storage.open(self.place) as handle:
            return int(self._opened(handle).metadata.num_rows)

    def _opened(self, handle: IO[bytes]) -> pq.ParquetFile:
        file = open_parquet(handle, self.storage.locate(self.place))
        PUBLISHED_FORMAT.check(file.schema_arrow, self.storage.locate(self.place))
        return file


@dataclass(frozen=True)
class ComparisonSettings:
    """How tables are compared: names of unchanged files, reviews by sample id, and how many flags to name."""

    unchanged: frozenset[str]
    reviews: Mapping[str, str]
    top: int


@dataclass(frozen=True)
class _Columns:
    """What is kept of a table of n samples, in its order; each has shape (n,).

    Scores are NaN where there is none, or an infinite one, of a sample without a gradient: neither can move.
    """

    keys: Indices
    scores: NDArray[np.float32]
    predicted: NDArray[np.int32]
    flagged: Mask
    reviewed: Mask

    @classmethod
    def empty(cls, n: int) -> "_Columns":
        """Columns to be filled."""
        scores, predicted = np.zeros(n, np.float32), np.zeros(n, np.int32)
        return cls(np.zeros(n, np.int64), scores, predicted, np.zeros(n, bool), np.zeros(n, bool))


def reviewed_flags(table: Table, reviews: Mapping[str, str]) -> dict[str, int]:
    """How many flagged samples of a table have been reviewed, by the review's verdict; raises as `Table.batches`."""
    verdicts = Counter[str]()
    for batch in table.batches(["sample_id", "flagged"]) if reviews else ():
        names = batch.column("sample_id").filter(batch.column("flagged")).to_pylist()
        verdicts.update(reviews[name] for name in names if name in reviews)
    return dict(sorted(verdicts.items()))


def difference(before: Table, after: Table, settings: ComparisonSettings) -> Difference:
    """Compares two tables of one model; raises as `Table.batches`."""
    old, new = _read_columns(before, settings), _read_columns(after, settings)
    partner = _partners(old.keys, new.keys)
    fresh = new.flagged & ~np.isin(new.keys, old.keys[old.flagged], kind="sort")
    settled = old.flagged & ~np.isin(old.keys, new.keys[new.flagged], kind="sort")
    still = np.isin(old.keys, new.keys[~new.flagged], kind="sort") & settled
    return Difference(
        common=int((partner >= 0).sum()),
        newly_flagged=_flags(after, new, fresh, partner >= 0, settings.top),
        no_longer_flagged=_flags(before, old, still, still, settings.top),
        no_longer_audited=int((settled & ~still).sum()),
        drift=tuple(_drift(old, new, partner)),
    )


def _read_columns(table: Table, settings: ComparisonSettings) -> _Columns:
    position, found = 0, _Columns.empty(table.rows)
    numbers = {name: number for number, name in enumerate(sorted(settings.unchanged))}
    for batch in table.batches(COLUMNS):
        own = slice(position, position + batch.num_rows)
        names = batch.column("sample_id").to_pylist()
        found.keys[own] = _keys(batch, names, numbers)
        scores = pc.fill_null(batch.column("score"), float("nan")).to_numpy()
        found.scores[own] = np.where(np.isfinite(scores), scores, np.nan)
        found.predicted[own] = batch.column("prediction").to_numpy()
        found.flagged[own] = batch.column("flagged").to_numpy(zero_copy_only=False)
        if settings.reviews:
            found.reviewed[own] = [name in settings.reviews for name in names]
        position += batch.num_rows
    return found


def _keys(batch: pa.RecordBatch, names: Sequence[str], numbers: Mapping[str, int]) -> Indices:
    """Keys (n,): of samples in unchanged files the file's number and the row, at least 0; of others a hash below 0."""
    sources = batch.column("source").dictionary_encode()
    by_source = np.array([numbers.get(name, -1) for name in sources.dictionary.to_pylist()], np.int64)
    number = by_source[sources.indices.to_numpy()]
    keys = (number << ROW_BITS) | batch.column("row").to_numpy()
    for index in np.flatnonzero(number < 0).tolist():
        named = hash(names[index])
        keys[index] = named if named < 0 else ~named
    return np.asarray(keys, np.int64)


def _partners(before: Indices, after: Indices) -> Indices:
    """For each later key (m,) the index of the first equal earlier one, -1 where there is none."""
    order = np.argsort(before, kind="stable")
    place = np.searchsorted(before[order], after)
    place[place == len(before)] = 0
    found = order[place] if len(before) else np.zeros(len(after), np.int64)
    equal = before[found] == after if len(before) else np.zeros(len(after), bool)
    return np.where(equal, found, -1)


def _flags(table: Table, columns: _Columns, flags: Mask, known: Mask, top: int) -> Flags:
    """Counts flags, and names the first of those not reviewed.

    Samples without a gradient, or with one that is not finite, come first.
    """
    counted = np.flatnonzero(flags & ~columns.reviewed)
    scores, reviewed = columns.scores[counted], int((flags & columns.reviewed).sum())
    first = counted[np.argsort(np.where(np.isnan(scores), -np.inf, -scores), kind="stable")[:top]]
    return Flags(count=len(counted), reviewed=reviewed, samples=tuple(_named(table, first, known)))


def _named(table: Table, wanted: Indices, known: Mask) -> list[Flag]:
    """The samples of these rows of the table, in this order."""
    found, position = dict[int, Flag](), 0
    for batch in table.batches(SHOWN) if len(wanted) else ():
        inside = wanted[(wanted >= position) & (wanted < position + batch.num_rows)]
        for index, row in zip(inside.tolist(), batch.take(pa.array(inside - position)).to_pylist(), strict=True):
            scored = row["score"] is not None and np.isfinite(row["score"])
            found[index] = Flag(**{**row, "score": row["score"] if scored else None}, known=bool(known[index]))
        position += batch.num_rows
    return [found[index] for index in wanted.tolist()]


def _drift(old: _Columns, new: _Columns, partner: Indices) -> list[Drift]:
    """Moves of the same samples are grouped by the class that the later run predicted."""
    matched = partner >= 0
    alone = np.ones(len(old.keys), bool)
    alone[partner[matched]] = False
    moves = _by_class(new.scores[matched] - old.scores[partner[matched]], new.predicted[matched])
    before = _by_class(old.scores[alone], old.predicted[alone])
    return drifts(moves, before, _by_class(new.scores[~matched], new.predicted[~matched]))


def _by_class(values: NDArray[np.float32], predicted: NDArray[np.int32]) -> ByClass:
    """Values that are not NaN, by class."""
    finite = ~np.isnan(values)
    values, predicted = values[finite], predicted[finite]
    order = np.argsort(predicted, kind="stable")
    classes, starts = np.unique(predicted[order], return_index=True)
    bounds = pairwise([*starts.tolist(), len(order)])
    return {number: values[order[start:stop]] for number, (start, stop) in zip(classes.tolist(), bounds, strict=True)}
