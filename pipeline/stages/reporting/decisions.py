"""From scores to p-values, q-values and flags, a batch at a time, and what a report shows of them."""

import heapq
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import JsonValue

from madcore.scoring.calibration import exceedances, largest_rank, q_values_by_exceedances, threshold
from pipeline.artifacts.scores import PUBLISHED_FORMAT
from pipeline.config.scoring import Target
from pipeline.data.statuses import FLAT, NONFINITE
from pipeline.stages.reporting.counts import BINS, ScoreCounts, scores_of

TOP_FLAGGED = 24

TOP_TRUSTED_SHOWN = 3

FLAT_LISTED = 24

FLAT_SHOWN = ("sample_id", "source", "row", "prediction", "confidence", "p_value", "flagged")


@dataclass(frozen=True)
class Decisions:
    """How exceedances become p-values and q-values, (M + 1,) each, and flags: fewer than `flag_rank` exceedances."""

    p_values: NDArray[np.float64]
    q_values: NDArray[np.float64]
    flag_rank: int
    threshold: float | None

    @classmethod
    def of(cls, target: Target, counts: ScoreCounts) -> "Decisions":
        """Decide from the counts of the first pass."""
        levels = len(counts.by_exceedances)
        p_values, q_values = np.arange(1, levels + 1) / levels, q_values_by_exceedances(counts.by_exceedances)
        if target.fdr is None:
            rank = largest_rank(target.level, levels - 1)
        else:
            flagged = np.flatnonzero((q_values <= target.fdr) & (counts.by_exceedances > 0))
            rank = int(flagged[-1]) + 1 if len(flagged) else 0
        return cls(p_values, q_values, rank, threshold(counts.calibration, rank))

    @property
    def finite_threshold(self) -> float | None:
        """Scores above it are flagged; None where no score can be."""
        return self.threshold if self.threshold is not None and np.isfinite(self.threshold) else None


class FlaggedSamples:
    """Decides batch after batch, and keeps what a report shows: counts of flags, the histogram, the top samples.

    `flat`: the first of the samples without a gradient, and `flagged_flat`, how many of those are flagged; they are
    none of the top samples.
    """

    def __init__(self, decisions: Decisions, counts: ScoreCounts):
        """Begin the second pass; `counts` are of the first over the same batches."""
        self.decisions = decisions
        self.flagged = 0
        self.by_class: Counter[int] = Counter()
        self.bins = np.zeros(BINS, np.int64)
        self.flat: list[dict[str, JsonValue]] = []
        self.flagged_flat = 0
        self._counts = counts
        self._top: list[tuple[float, int, dict[str, JsonValue]]] = []
        self._seen = 0

    @property
    def top(self) -> list[dict[str, JsonValue]]:
        """The flagged samples of largest score, most anomalous first."""
        return [entry for _, _, entry in sorted(self._top, key=lambda item: item[:2], reverse=True)]

    def decide(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Turn a batch of a score part into a batch of the published table."""
        scores, ok = scores_of(batch)
        places = exceedances(np.where(ok, scores, np.inf), self._counts.calibration)
        flagged = ok & (places < self.decisions.flag_rank)
        p_values = pa.array(self.decisions.p_values[places], pa.float64(), mask=~ok)
        q_values = pa.array(self.decisions.q_values[places], pa.float64(), mask=~ok)
        statuses = np.array(batch.column("status").to_pylist(), dtype=object)
        all_flagged, flat = flagged | (statuses == NONFINITE), statuses == FLAT
        decided = {"p_value": p_values, "q_value": q_values, "flagged": pa.array(all_flagged, pa.bool_())}
        names = [field.name for field in PUBLISHED_FORMAT.columns]
        columns = [decided[name] if name in decided else batch.column(name) for name in names]
        published = pa.RecordBatch.from_arrays(columns, schema=PUBLISHED_FORMAT.schema)
        self.flagged += int(all_flagged.sum())
        self.by_class.update(batch.column("prediction").to_numpy()[flagged].tolist())
        self.bins += np.histogram(scores[np.isfinite(scores)], self._counts.edges)[0]
        self._keep_top(published, scores, flagged & ~flat)
        self._keep_flat(published, np.flatnonzero(flat)[: FLAT_LISTED - len(self.flat)])
        self.flagged_flat += int((flagged & flat).sum())
        return published

    def _keep_top(self, batch: pa.RecordBatch, scores: NDArray[np.float64], flagged: NDArray[np.bool_]) -> None:
        candidates = np.flatnonzero(flagged)
        for index in candidates[np.argsort(-scores[candidates], kind="stable")][:TOP_FLAGGED].tolist():
            entry = _entry(batch.slice(index, 1).to_pylist()[0])
            keep = heapq.heappush if len(self._top) < TOP_FLAGGED else heapq.heappushpop
            keep(self._top, (float(scores[index]), -(self._seen + index), entry))
        self._seen += batch.num_rows

    def _keep_flat(self, batch: pa.RecordBatch, places: NDArray[np.int64]) -> None:
        rows = batch.select([*FLAT_SHOWN]).take(pa.array(places))
        self.flat += rows.to_pylist()


def _entry(row: dict[str, JsonValue]) -> dict[str, JsonValue]:
    shown = ("sample_id", "source", "row", "score", "p_value", "q_value", "prediction", "confidence")
    trusted = row["top_trusted"]
    top = trusted[:TOP_TRUSTED_SHOWN] if isinstance(trusted, list) else []
    return {**{name: row[name] for name in shown}, "top_trusted": top}
