"""Stage 3: audited rows against the references. A task is one part of the rows; parts are independent."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import torch

from infra.commits import Measures, Receipt
from infra.errors import StorageError
from infra.events import Stopwatch, peak_memory_bytes
from infra.execution.prefetch import prefetched
from infra.execution.threads import compute_threads, map_in_threads, run_in_compute_thread
from infra.formats.tables import write_parquet
from infra.storage.storage import Storage
from madcore import RowLayout
from madcore.scoring.coupling import SampleScores
from pipeline.artifacts.curvature import read_reference_rows, read_whitening
from pipeline.artifacts.parts import CurvatureFolders, RowsPart
from pipeline.artifacts.rows import SCORING_BLOCK, StoredBlock, read_stored
from pipeline.artifacts.samples import SampleColumns
from pipeline.artifacts.scores import PART, PART_FORMAT, score_batch
from pipeline.artifacts.trusted import read_trusted
from pipeline.data.sources import read_ids
from pipeline.data.statuses import FAILED, FLAT, NONFINITE
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

    @property
    def name(self) -> str:
        """The name under which it is committed."""
        return self.part.name


def scoring_key(plan: ModelPlan, curvature: CurvatureFolders) -> str:
    """Made of the curvature's content and the score."""
    return key_of(
        format=SCORER_FORMAT,
        curvature=curvature.content,
        score=plan.config.score.model_dump(mode="json"),
        classes=plan.classes,
    )


@dataclass(frozen=True)
class _LoadedReferences:
    """A scorer with a model's references, the key that it is for, and their ids."""

    key: str
    scorer: Scorer
    reference_ids: pa.Array


class ScoringWorker:
    """Scores parts; keeps a model's references loaded while its tasks last."""

    def __init__(self, root: str, plans: dict[str, ModelPlan]):
        """Open the storage."""
        self._storage, self._plans = Storage(root), plans
        self._loaded: _LoadedReferences | None = None

    def __call__(self, task: ScoreTask) -> Receipt:
        """Score and commit one part. A thread reads ahead, and as many threads score blocks as there are cores."""
        plan, part, sink, busy = self._plans[task.model], task.part, io.BytesIO(), list[float]()
        batches = self._unscored(plan, part) if part.failure else self._batches(plan, task, busy)
        write_parquet(sink, batches, PART_FORMAT)
        seconds = sum(busy) / compute_threads()  # tasks of a worker overlap, blocks of a thread do not
        measures = Measures(rows=part.stop - part.start, seconds=seconds, peak_memory_bytes=peak_memory_bytes())
        log = scoring_log(self._storage, plan.name, task.key, part.source_key)
        return log.commit(task.name, {PART: sink.getvalue()}, measures)

    def _batches(self, plan: ModelPlan, task: ScoreTask, busy: list[float]) -> Iterator[pa.RecordBatch]:
        """Record batches in order. Rows are not kept in memory. `busy`: the seconds of each are appended to it."""
        loaded = run_in_compute_thread(self._loaded_for, plan, task)
        with prefetched(read_stored(self._storage, task.part, plan.row_reader, SCORING_BLOCK), READ_AHEAD) as blocks:
            yield from scored_batches(blocks, loaded.scorer, loaded.reference_ids, task.part.source, busy)

    def _loaded_for(self, plan: ModelPlan, task: ScoreTask) -> _LoadedReferences:
        """The references of a task, loaded unless the last task had the same; one task at a time."""
        if self._loaded is None or self._loaded.key != task.key:
            self._loaded = None
            self._loaded = self._load(plan, task)
        return self._loaded

    def _load(self, plan: ModelPlan, task: ScoreTask) -> _LoadedReferences:
        trusted = read_trusted(self._storage, task.curvature.references)
        whitened = read_reference_rows(self._storage, task.curvature.references)
        scorer = Scorer.of(plan, read_whitening(self._storage, task.curvature.factor, plan.layout), whitened, trusted)
        return _LoadedReferences(task.key, scorer, pa.array(trusted.reference_ids, pa.string()))

    def _unscored(self, plan: ModelPlan, part: RowsPart) -> Iterator[pa.RecordBatch]:
        """The samples of a task that failed for good: named, without scores, none left out."""
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
    """Record batches of a score part, one for each block, in order; `busy`: their seconds are appended to it."""

    def scored(block: StoredBlock) -> pa.RecordBatch:
        watch, found = Stopwatch(), scorer(block.rows, block.samples.predictions.clamp(min=0))
        batch = score_batch(source, _settled(block.samples, found), found, reference_ids, block.layout.names)
        busy.append(watch.seconds)
        return batch

    return map_in_threads(scored, blocks)


def _settled(samples: SampleColumns, scored: SampleScores) -> SampleColumns:
    """Mark samples as not finite whose row is finite, but whose whitened row leaves the range of float32.

    Those are flat whose row is zero in the layers that are used, or was stored by a version that knew no flat ones.
    """
    statuses = list(samples.statuses)
    for status, marked in ((NONFINITE, ~torch.isfinite(scored.score)), (FLAT, scored.leverage == 0)):
        for place in torch.nonzero(samples.ok & marked).flatten().tolist():
            statuses[place] = status
    return samples if statuses == samples.statuses else replace(samples, statuses=statuses)


def _ids(plan: ModelPlan, part: RowsPart) -> list[str]:
    """Ids of a part's rows, "" where they cannot be read: (source, row) still identifies a sample."""
    source = next(source for source in plan.audited if source.key == part.source_key)
    try:
        return [name or "" for ids in read_ids(source, part.start, part.stop) for name in ids]
    except StorageError:
        return [""] * (part.stop - part.start)


def _no_scores(samples: int, layout: RowLayout) -> SampleScores:
    nothing, per_layer = torch.zeros(samples), torch.zeros(samples, len(layout.names))
    return SampleScores(
        nothing, nothing, per_layer, torch.zeros(samples, 0, dtype=torch.int64), torch.zeros(samples, 0)
    )
