"""Stage 3: audited rows against the references. A task is one part of the rows; parts do not depend on each other."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import torch

from infra.commits import Measures, Receipt
from infra.errors import StorageError
from infra.events import Stopwatch, peak_memory_bytes
from infra.execution.prefetch import prefetched
from infra.execution.threads import compute, compute_threads, map_in_threads
from infra.formats.tables import write_parquet
from infra.storage.storage import Storage
from madcore import RowLayout
from madcore.scoring.coupling import SampleScores
from pipeline.artifacts.curvature import CurvatureFolders, read_reference_rows, read_trusted, read_whitening
from pipeline.artifacts.rows import SCORING_BLOCK, RowsPart, SampleColumns, StoredBlock, read_stored
from pipeline.artifacts.scores import PART, PART_FORMAT, score_batch
from pipeline.data.sources import read_ids
from pipeline.data.statuses import FAILED, NONFINITE
from pipeline.keys import key_of
from pipeline.planning.plan import ModelPlan
from pipeline.root.logs import scoring_log
from pipeline.stages.scoring.scorer import SCORER_FORMAT, Scorer

READ_AHEAD = 2


@dataclass(frozen=True)
class ScoreTask:
    """One part to score."""

    model: str
    key: str
    part: RowsPart
    curvature: CurvatureFolders


def scoring_key(plan: ModelPlan, curvature: CurvatureFolders) -> str:
    """Of the curvature's content and the score."""
    return key_of(
        format=SCORER_FORMAT,
        curvature=curvature.content,
        score=plan.config.score.model_dump(mode="json"),
        classes=plan.classes,
    )


@dataclass(frozen=True)
class _Loaded:
    key: str
    scorer: Scorer
    reference_ids: pa.Array


class ScoringWorker:
    """Scores parts; keeps a model's references loaded while its tasks last."""

    def __init__(self, root: str, plans: dict[str, ModelPlan]):
        """Opens the storage."""
        self._storage, self._plans = Storage(root), plans
        self._loaded: _Loaded | None = None

    def __call__(self, task: ScoreTask) -> Receipt:
        """Scores and commits one part. Reading runs ahead in a thread, and blocks are scored in as many as there are cores."""
        plan, sink, busy = self._plans[task.model], io.BytesIO(), list[float]()
        write_parquet(
            sink, self._failed(plan, task.part) if task.part.failure else self._batches(plan, task, busy), PART_FORMAT
        )
        seconds = sum(busy) / compute_threads()  # tasks of a worker overlap, blocks of a thread do not
        measures = Measures(
            rows=task.part.stop - task.part.start, seconds=seconds, peak_memory_bytes=peak_memory_bytes()
        )
        return scoring_log(self._storage, plan.name, task.key, task.part.source_key).commit(
            task.part.name, {PART: sink.getvalue()}, measures
        )

    def _batches(self, plan: ModelPlan, task: ScoreTask, busy: list[float]) -> Iterator[pa.RecordBatch]:
        """Record batches in order; of rows nothing is kept. `busy` takes the seconds of each."""
        loaded = compute(self._loaded_for, plan, task)
        with prefetched(read_stored(self._storage, task.part, plan.reading, SCORING_BLOCK), READ_AHEAD) as blocks:
            yield from scored_batches(blocks, loaded.scorer, loaded.reference_ids, task.part.source, busy)

    def _loaded_for(self, plan: ModelPlan, task: ScoreTask) -> _Loaded:
        """What the task's rows are scored with, loaded unless the last task's is the same; one task at a time."""
        if self._loaded is None or self._loaded.key != task.key:
            self._loaded = None
            self._loaded = self._load(plan, task)
        return self._loaded

    def _load(self, plan: ModelPlan, task: ScoreTask) -> _Loaded:
        trusted = read_trusted(self._storage, task.curvature.references)
        whitened = read_reference_rows(self._storage, task.curvature.references)
        scorer = Scorer.of(plan, read_whitening(self._storage, task.curvature.factor, plan.layout), whitened, trusted)
        return _Loaded(task.key, scorer, pa.array(trusted.reference_ids, pa.string()))

    def _failed(self, plan: ModelPlan, part: RowsPart) -> Iterator[pa.RecordBatch]:
        """Rows of a task that was given up: named, unscored, none left out."""
        n = part.stop - part.start
        samples = SampleColumns(
            ids=_ids(plan, part),
            rows=list(range(part.start, part.stop)),
            predictions=torch.full((n,), -1),
            confidence=torch.zeros(n),
            gradient_norm=torch.zeros(n),
            statuses=[f"{FAILED}{part.failure}"] * n,
        )
        yield score_batch(
            part.source, samples, _no_scores(n, plan.layout), pa.array([], pa.string()), plan.layout.names
        )


def scored_batches(
    blocks: Iterable[StoredBlock], scorer: Scorer, reference_ids: pa.Array, source: str, busy: list[float]
) -> Iterator[pa.RecordBatch]:
    """Record batches of a score part, one a block of rows of a source, in order; `busy` takes the seconds of each."""

    def scored(block: StoredBlock) -> pa.RecordBatch:
        watch, found = Stopwatch(), scorer(block.rows, block.samples.predictions.clamp(min=0))
        batch = score_batch(source, _without_overflow(block.samples, found), found, reference_ids, block.layout.names)
        busy.append(watch.seconds)
        return batch

    return map_in_threads(scored, blocks)


def _without_overflow(samples: SampleColumns, scored: SampleScores) -> SampleColumns:
    """Samples whose row is finite, but whose whitened row leaves the range of float32, count as not finite."""
    overflown = samples.ok & ~torch.isfinite(scored.score)
    if not overflown.any():
        return samples
    statuses = [
        NONFINITE if over else status for over, status in zip(overflown.tolist(), samples.statuses, strict=True)
    ]
    return replace(samples, statuses=statuses)


def _ids(plan: ModelPlan, part: RowsPart) -> list[str]:
    """Ids of a part's rows, empty where they cannot be read: (source, row) names a sample all the same."""
    source = next(source for source in plan.audited if source.key == part.source_key)
    try:
        return [name or "" for ids in read_ids(source, part.start, part.stop) for name in ids]
    except StorageError:
        return [""] * (part.stop - part.start)


def _no_scores(samples: int, layout: RowLayout) -> SampleScores:
    nothing, per_layer = torch.zeros(samples), torch.zeros(samples, len(layout.names))
    return SampleScores(nothing, nothing, per_layer, torch.zeros(samples, 0, dtype=torch.int64), torch.zeros(samples, 0))
