"""What a report counts while it streams over score parts.

Memory does not grow with the samples, except where truth is known.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from madcore.scoring.calibration import exceedances
from pipeline.data.statuses import FAILED, NONFINITE, UNREADABLE
from pipeline.data.truth import UNKNOWN, Truth
from pipeline.stages.reporting.evaluation import LabelledScores

BINS = 60

IDS_AT_ONCE = 1 << 24

Column = NDArray[np.float64]


class ScoreCounts:
    """Counts of one model's audited samples: statuses, exceedances of calibration scores, classes, range of scores."""

    def __init__(self, calibration: Column, suspected: Column | None = None):
        """Count nothing yet.

        Args:
            calibration: scores of the calibration part, (M,).
            suspected: scores of suspects that were drawn for it, (S,).
        """
        self.calibration = np.sort(calibration)
        self.by_exceedances = np.zeros(len(calibration) + 1, np.int64)
        self.unscreened = np.sort(np.concatenate([calibration, [] if suspected is None else suspected]))
        self.by_exceedances_unscreened = np.zeros(len(self.unscreened) + 1, np.int64)
        self.statuses: Counter[str] = Counter()
        self.predicted: Counter[int] = Counter()
        finite = calibration[np.isfinite(calibration)]
        self.low, self.high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
        self._labelled: list[tuple[Column, ...]] = []

    def add(self, batch: pa.RecordBatch, truth: Truth | None) -> None:
        """Add a batch of a score part, with its truth where the source has any."""
        statuses = batch.column("status").to_pylist()
        self.statuses.update(kind_of_status(status) for status in statuses)
        scores, ok = scores_of(batch)
        self.by_exceedances += _histogram(exceedances(scores[ok], self.calibration), len(self.by_exceedances))
        unscreened = exceedances(scores[ok], self.unscreened)
        self.by_exceedances_unscreened += _histogram(unscreened, len(self.by_exceedances_unscreened))
        self.predicted.update(batch.column("prediction").to_numpy()[ok].tolist())
        finite = scores[np.isfinite(scores)]
        if len(finite):
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))
        if truth is not None:
            nonfinite = np.array([status == NONFINITE for status in statuses])
            self._add_labelled(batch, truth, (truth.anomalous != UNKNOWN) & (ok | nonfinite))

    def _add_labelled(self, batch: pa.RecordBatch, truth: Truth, chosen: NDArray[np.bool_]) -> None:
        columns = [
            *(numbers(batch, name) for name in ("score", "prediction", "confidence", "gradient_norm")),
            truth.anomalous,
            truth.label,
            truth.target,
        ]
        self._labelled.append(tuple(column[chosen].astype(np.float64) for column in columns))

    @property
    def total(self) -> int:
        """Audited samples, whatever their status."""
        return self.statuses.total()

    @property
    def edges(self) -> Column:
        """Edges of the histogram's bins, over all finite scores."""
        return np.linspace(self.low, max(self.high, self.low + 1e-6), BINS + 1)

    @property
    def calibration_bins(self) -> NDArray[np.int64]:
        """Counts of finite calibration scores in the histogram's bins."""
        return np.histogram(self.calibration[np.isfinite(self.calibration)], self.edges)[0]

    def labelled(self, flag_rank: int) -> LabelledScores | None:
        """The samples whose truth is known; None without any.

        Flagged are those of fewer than `flag_rank` exceedances, and those whose gradient is not finite. These score
        above all others, as do those without a gradient.
        """
        if not any(len(columns[0]) for columns in self._labelled):
            return None
        scores, predictions, confidence, norms, *truth = map(np.concatenate, zip(*self._labelled, strict=True))
        anomalous, label, target = (column.astype(np.int64) for column in truth)
        finite = np.isfinite(scores)
        places = exceedances(np.where(finite, scores, np.inf), self.calibration)
        above = float(scores[finite].max()) + 1 if finite.any() else 0.0
        return LabelledScores(
            scores=np.where(finite, scores, above),
            flagged=np.where(np.isnan(scores), True, places < flag_rank),
            predictions=predictions.astype(np.int64),
            confidence=confidence,
            gradient_norm=norms,
            anomalous=anomalous,
            label=label,
            target=target,
        )


def _histogram(places: NDArray[np.int64], levels: int) -> NDArray[np.int64]:
    return np.bincount(places, minlength=levels)


def kind_of_status(status: str) -> str:
    """A status without its reason: ok, flat, nonfinite, unreadable or failed."""
    return UNREADABLE[:-2] if status.startswith(UNREADABLE) else FAILED[:-2] if status.startswith(FAILED) else status


def scores_of(batch: pa.RecordBatch) -> tuple[Column, NDArray[np.bool_]]:
    """Scores as float64, infinite where a sample has no gradient, NaN where there is none; and which rows have one."""
    scores = numbers(batch, "score")
    return scores, ~np.isnan(scores)


def numbers(batch: pa.RecordBatch, name: str) -> Column:
    """A numeric column as float64, nulls as NaN."""
    return np.array(batch.column(name).to_numpy(zero_copy_only=False), np.float64)


@dataclass(frozen=True)
class IdCounts:
    """How many audited samples repeat an id of an earlier one, and how many share theirs with a trusted sample."""

    repeated: int
    shared: int


def count_ids(read_ids: Callable[[], Iterable[Sequence[str]]], total: int, trusted: Collection[str]) -> IdCounts:
    """Count ids in one pass; samples without an id are not counted.

    In bounded memory: ids are hashed, and where there are more than 2^24 they are read again for each share of the
    hashes.

    Args:
        read_ids: reads all ids, batch by batch.
        total: how many there are.
        trusted: the ids of the trusted samples that the curvature or the calibration rests on.
    """
    shares = max(1, -(-total // IDS_AT_ONCE))
    repeated = shared = 0
    for share in range(shares):
        pieces = [np.zeros(0, np.int64)]
        for batch in read_ids():
            ids = [name for name in batch if name]
            hashes = np.array([hash(name) for name in ids], np.int64)
            pieces.append(hashes[hashes % shares == share])
            shared += sum(name in trusted for name in ids) if share == 0 else 0
        mine = np.concatenate(pieces)
        repeated += len(mine) - len(np.unique(mine))
    return IdCounts(repeated, shared)
