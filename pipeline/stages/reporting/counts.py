"""What a report counts while it streams over score parts. Memory does not grow with the samples, except where truth is known."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from madcore.scoring.calibration import exceedances
from pipeline.data.statuses import FAILED, NONFINITE, UNREADABLE
from pipeline.data.truth import UNKNOWN, Truth
from pipeline.stages.reporting.evaluation import LabelledScores

BINS = 60


IDS_AT_ONCE = 1 << 24


class ScoreCounts:
    """Counts of one model's audited samples: statuses, exceedances of the calibration scores, predicted classes, score range."""

    def __init__(self, calibration: NDArray[np.float64], suspected: NDArray[np.float64] | None = None):
        """`calibration`: scores of the calibration part, (M,); `suspected`: of suspects that were drawn for it, (S,)."""
        self.calibration = np.sort(calibration)
        self.by_exceedances = np.zeros(len(calibration) + 1, np.int64)
        self.unscreened = np.sort(np.concatenate([calibration, [] if suspected is None else suspected]))
        self.by_exceedances_unscreened = np.zeros(len(self.unscreened) + 1, np.int64)
        self.statuses: Counter[str] = Counter()
        self.predicted: Counter[int] = Counter()
        finite = calibration[np.isfinite(calibration)]
        self.low, self.high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
        self._known: list[tuple[NDArray[np.float64], ...]] = []

    def add(self, batch: pa.RecordBatch, truth: Truth | None) -> None:
        """Adds a batch of a score part, with its truth where the source has any."""
        statuses = batch.column("status").to_pylist()
        self.statuses.update(kind(status) for status in statuses)
        scores, ok = scores_of(batch)
        self.by_exceedances += np.bincount(
            exceedances(scores[ok], self.calibration), minlength=len(self.by_exceedances)
        )
        self.by_exceedances_unscreened += np.bincount(
            exceedances(scores[ok], self.unscreened), minlength=len(self.by_exceedances_unscreened)
        )
        predictions = batch.column("prediction").to_numpy()
        self.predicted.update(predictions[ok].tolist())
        if ok.any():
            self.low, self.high = min(self.low, float(scores[ok].min())), max(self.high, float(scores[ok].max()))
        if truth is not None:
            judged = (truth.anomalous != UNKNOWN) & (ok | np.array([status == NONFINITE for status in statuses]))
            columns = [
                scores,
                predictions,
                numbers(batch, "confidence"),
                numbers(batch, "gradient_norm"),
                truth.anomalous,
                truth.label,
                truth.target,
            ]
            self._known.append(tuple(column[judged].astype(np.float64) for column in columns))

    @property
    def total(self) -> int:
        """Audited samples, whatever their status."""
        return self.statuses.total()

    @property
    def edges(self) -> NDArray[np.float64]:
        """Edges of the histogram's bins, over all finite scores."""
        return np.linspace(self.low, max(self.high, self.low + 1e-6), BINS + 1)

    @property
    def calibration_bins(self) -> NDArray[np.int64]:
        """Counts of finite calibration scores in the histogram's bins."""
        return np.histogram(self.calibration[np.isfinite(self.calibration)], self.edges)[0]

    def judged(self, flag_rank: int) -> LabelledScores | None:
        """The samples whose truth is known; None without any. Flagged: at most `flag_rank` - 1 exceedances, or not finite."""
        if not self._known or not sum(len(columns[0]) for columns in self._known):
            return None
        scores, predictions, confidence, norms, anomalous, label, target = (
            np.concatenate(columns) for columns in zip(*self._known, strict=True)
        )
        finite = np.isfinite(scores)
        flagged = np.where(finite, exceedances(np.where(finite, scores, np.inf), self.calibration) < flag_rank, True)
        above = float(scores[finite].max()) + 1 if finite.any() else 0.0
        classes = (column.astype(np.int64) for column in (predictions, anomalous, label, target))
        predicted, marks, labels, targets = classes
        return LabelledScores(
            np.where(finite, scores, above), flagged, predicted, confidence, norms, marks, labels, targets
        )


def kind(status: str) -> str:
    """A status without its reason: ok, nonfinite, unreadable or failed."""
    return UNREADABLE[:-2] if status.startswith(UNREADABLE) else FAILED[:-2] if status.startswith(FAILED) else status


def scores_of(batch: pa.RecordBatch) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores as float64, NaN where there is none, and which rows have one."""
    scores = numbers(batch, "score")
    return scores, ~np.isnan(scores)


def numbers(batch: pa.RecordBatch, name: str) -> NDArray[np.float64]:
    """A numeric column as float64, nulls as NaN."""
    return np.array(batch.column(name).to_numpy(zero_copy_only=False), np.float64)


def repeated(read_ids: Callable[[], Iterable[Sequence[str]]], total: int) -> int:
    """How many samples carry an id that an earlier one has.

    Samples without an id are not counted. In bounded memory: ids are hashed, and where there are more than 2^24 they are read again
    for each share of the hashes.
    """
    shares = max(1, -(-total // IDS_AT_ONCE))
    found = 0
    for share in range(shares):
        hashes = (np.array([hash(name) for name in batch if name], np.int64) for batch in read_ids())
        mine = np.concatenate([np.zeros(0, np.int64), *(values[values % shares == share] for values in hashes)])
        found += len(mine) - len(np.unique(mine))
    return found
