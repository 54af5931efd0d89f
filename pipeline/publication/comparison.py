"""Two published tables of a model compared: newly flagged, no longer flagged, scores that moved.

A sample of an unchanged file is told by (source, row). Where a file is new, gone, or changed under its name, its samples are told by
their ids among those of all such files; of several with the same id, the first is compared, and a flag on any counts as known.

Tables are streamed. Kept are, of each table, KEPT_BYTES a sample: key, score, predicted class, flagged, reviewed; matching and testing
them takes no more than PEAK_BYTES a sample of both tables together.
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
from pipeline.publication.drift import ByClass, Drift, drifts

KEPT_BYTES, PEAK_BYTES = 18, 96


BATCH_ROWS = 8192


ROW_BITS = 40


COLUMNS = ("sample_id", "source", "row", "prediction", "score", "flagged")


SHOWN = ("sample_id", "source", "row", "prediction", "score", "p_value")


Indices = NDArray[np.int64]


Mask = NDArray[np.bool_]


class Flag(BaseModel):
    """A flagged sample. `known`: whether the other run audited it too."""

    model_config = ConfigDict(frozen=True)
    sample_id: str
    source: str
    row: int
    prediction: int
    score: float | None
    p_value: float | None
    known: bool


class Flags(BaseModel):
    """Flagged samples: how many, how many more have been reviewed and so are not counted, and the first, the most anomalous first."""

    model_config = ConfigDict(frozen=True)
    count: int = 0
    reviewed: int = 0
    samples: tuple[Flag, ...] = ()


class Difference(BaseModel):
    """What differs between two tables.

    `common`: samples that both hold. `newly_flagged`: flagged in the later table and not in the earlier one. `no_longer_flagged`: of the
    earlier table's flagged samples those that the later one holds unflagged; `no_longer_audited`: those that it does not hold.
    """

    model_config = ConfigDict(frozen=True)
    common: int = 0
    newly_flagged: Flags = Flags()
    no_longer_flagged: Flags = Flags()
    no_longer_audited: int = 0
    drift: tuple[Drift, ...] = ()


@dataclass(frozen=True)
class Table:
    """A published table: where it is."""

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
class Comparing:
    """How tables are compared: files that are unchanged between them, what reviews said by sample id, and how many flags to name."""

    unchanged: frozenset[str]
    reviews: Mapping[str, str]
    top: int


@dataclass(frozen=True)
class _Kept:
    """Of n samples in the order of the table: keys, scores (NaN where there is none), predicted classes, whether flagged, whether reviewed."""

    keys: Indices
    scores: NDArray[np.float32]
    predicted: NDArray[np.int32]
    flagged: Mask
    reviewed: Mask


def reviewed_flags(table: Table, reviews: Mapping[str, str]) -> dict[str, int]:
    """How many flagged samples of a table have been reviewed, by what was said of them; raises as `Table.batches`."""
    verdicts = Counter[str]()
    for batch in table.batches(["sample_id", "flagged"]) if reviews else ():
        names = batch.column("sample_id").filter(batch.column("flagged")).to_pylist()
        verdicts.update(reviews[name] for name in names if name in reviews)
    return dict(sorted(verdicts.items()))


def difference(before: Table, after: Table, how: Comparing) -> Difference:
    """Compares two tables of one model; raises as `Table.batches`."""
    old, new = _kept(before, how), _kept(after, how)
    fresh = new.flagged & ~np.isin(new.keys, old.keys[old.flagged], kind="sort")
    settled = old.flagged & ~np.isin(old.keys, new.keys[new.flagged], kind="sort")
    still = np.isin(old.keys, new.keys[~new.flagged], kind="sort") & settled
    partner = _partners(old.keys, new.keys)
    found = Difference(
        common=int((partner >= 0).sum()),
        newly_flagged=_flags(after, new, fresh, partner >= 0, how.top),
        no_longer_flagged=_flags(before, old, still, still, how.top),
        no_longer_audited=int((settled & ~still).sum()),
    )
    return found.model_copy(update={"drift": tuple(_drift(old, new, partner))})


def _kept(table: Table, how: Comparing) -> _Kept:
    rows, position = table.rows, 0
    kept = _Kept(
        np.zeros(rows, np.int64),
        np.zeros(rows, np.float32),
        np.zeros(rows, np.int32),
        np.zeros(rows, bool),
        np.zeros(rows, bool),
    )
    numbers = {name: number for number, name in enumerate(sorted(how.unchanged))}
    for batch in table.batches(COLUMNS):
        own = slice(position, position + batch.num_rows)
        names = batch.column("sample_id").to_pylist()
        kept.keys[own] = _keys(batch, names, numbers)
        kept.scores[own] = pc.fill_null(batch.column("score"), float("nan")).to_numpy()
        kept.predicted[own] = batch.column("prediction").to_numpy()
        kept.flagged[own] = batch.column("flagged").to_numpy(zero_copy_only=False)
        if how.reviews:
            kept.reviewed[own] = [name in how.reviews for name in names]
        position += batch.num_rows
    return kept


def _keys(batch: pa.RecordBatch, names: Sequence[str], numbers: Mapping[str, int]) -> Indices:
    """Keys (n,) of samples: of unchanged files their number and the row, at least 0; of others a hash of the id, below 0."""
    sources = batch.column("source").dictionary_encode()
    number = np.array([numbers.get(name, -1) for name in sources.dictionary.to_pylist()], np.int64)[
        sources.indices.to_numpy()
    ]
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


def _flags(table: Table, kept: _Kept, flags: Mask, known: Mask, top: int) -> Flags:
    """Counts flags and names the first that have not been reviewed; those without a score, whose gradient is not finite, come first."""
    counted = np.flatnonzero(flags & ~kept.reviewed)
    scores = kept.scores[counted]
    first = counted[np.argsort(np.where(np.isnan(scores), -np.inf, -scores), kind="stable")[:top]]
    return Flags(
        count=len(counted), reviewed=int((flags & kept.reviewed).sum()), samples=tuple(_named(table, first, known))
    )


def _named(table: Table, wanted: Indices, known: Mask) -> list[Flag]:
    """The samples of these rows of the table, in this order."""
    found, position = dict[int, Flag](), 0
    for batch in table.batches(SHOWN) if len(wanted) else ():
        inside = wanted[(wanted >= position) & (wanted < position + batch.num_rows)]
        for index, row in zip(inside.tolist(), batch.take(pa.array(inside - position)).to_pylist(), strict=True):
            found[index] = Flag(**row, known=bool(known[index]))
        position += batch.num_rows
    return [found[index] for index in wanted.tolist()]


def _drift(old: _Kept, new: _Kept, partner: Indices) -> list[Drift]:
    """Moves of the same samples go by the class that the later run predicted."""
    alone = np.ones(len(old.keys), bool)
    alone[partner[partner >= 0]] = False
    paired = np.flatnonzero(partner >= 0)
    moves = new.scores[paired] - old.scores[partner[paired]]
    same = _by_class(moves, new.predicted[paired])
    return drifts(
        same,
        _by_class(old.scores[alone], old.predicted[alone]),
        _by_class(new.scores[partner < 0], new.predicted[partner < 0]),
    )


def _by_class(values: NDArray[np.float32], predicted: NDArray[np.int32]) -> ByClass:
    """Values that are numbers, by class."""
    finite = ~np.isnan(values)
    values, predicted = values[finite], predicted[finite]
    order = np.argsort(predicted, kind="stable")
    classes, starts = np.unique(predicted[order], return_index=True)
    bounds = pairwise([*starts.tolist(), len(order)])
    return {number: values[order[start:stop]] for number, (start, stop) in zip(classes.tolist(), bounds, strict=True)}
