"""The time that a model's work takes per sample, and the bytes that it leaves.

It is measured on a few samples in this process, by the code that workers run.
Rows are timed on the first samples of the largest audited file. What comes after them is timed on random rows of the
same layout, since its cost follows from shapes.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from infra.events import Stopwatch
from infra.execution.threads import compute_threads, run_in_compute_thread
from infra.formats.tables import write_parquet
from madcore import BlockMoment, Whitening
from madcore.curvature.whitening import Matrix
from pipeline.artifacts.rows import SCORING_BLOCK, StoredBlock, to_stored
from pipeline.artifacts.samples import SAMPLES, SampleColumns
from pipeline.artifacts.scores import PART_FORMAT
from pipeline.artifacts.trusted import TrustedSamples
from pipeline.config.audit_config import AuditConfig
from pipeline.config.curvature import FACTORED
from pipeline.data.statuses import OK
from pipeline.planning.plan import ModelPlan, RowTask
from pipeline.stages.gradients.worker import GradientTask, GradientWorker
from pipeline.stages.scoring.scorer import Scorer
from pipeline.stages.scoring.worker import scored_batches

SECONDS = 0.3  # that a timing takes at least, where there are samples enough


FIRST = 32  # samples of the first timing


BLOCKS = 4  # of rows that each thread scores


REFERENCES, LARGEST = 4096, 512  # that scoring and factoring are timed with at most; the rest follows from shapes


@dataclass(frozen=True)
class RowTimings:
    """Seconds a sample: of its own row, of its curvature rows, and, for loss traces, of a pass through the model.

    `sample_bytes`: bytes at rest of what is kept of a sample besides its numbers.
    """

    own: float = 0.0
    curvature_rows: float = 0.0
    forward: float = 0.0
    sample_bytes: float = 0.0


@dataclass(frozen=True)
class ScoreRates:
    """Seconds of whitening a row, of adding it to a moment, of factoring, of scoring a row; bytes of a row's scores."""

    whitened: float
    moment: float
    factor: float
    scored: float
    part_bytes: float


def row_rates(config: AuditConfig, plan: ModelPlan) -> RowTimings:
    """Load the model and time its rows for about a second; on a GPU where `config.run` gives workers one."""
    worker = GradientWorker(config, {plan.name: plan})
    if plan.config.traced is not None:
        return RowTimings(forward=_timed(worker.time_pass, plan, 0))
    sizes: dict[str, float] = {}

    def seconds(task: RowTask) -> float:
        files, measures = worker.compute(GradientTask(task))
        sizes["sample"] = len(files[SAMPLES]) / measures.rows
        return measures.seconds

    own, sample_bytes = _timed(seconds, plan, 0), sizes["sample"]
    curvature_rows = _timed(seconds, plan, plan.labels_per_sample) if plan.labels_per_sample else 0.0
    return RowTimings(own, curvature_rows, 0.0, sample_bytes)


def _timed(seconds: Callable[[RowTask], float], plan: ModelPlan, labels: int) -> float:
    """Seconds a sample, of as many as take SECONDS, or of a whole task: the faster of two calls after a warm-up."""
    source = max(plan.audited, key=lambda one: one.rows)
    most = next(plan.tasks(source, labels)).stop
    samples = min(FIRST, most)
    seconds(RowTask(plan.name, source.key, 0, samples, source, labels))
    while True:
        task = RowTask(plan.name, source.key, 0, samples, source, labels)
        taken = min(seconds(task), seconds(task))
        if taken >= SECONDS or samples == most:
            return taken / samples
        samples = min(4 * samples, most)


def score_rates(plan: ModelPlan, references: int) -> ScoreRates:
    """Time for about a second what is done with rows, on random ones, against a number of references."""
    layout, used = plan.layout, min(references, REFERENCES)
    rows = torch.randn(SCORING_BLOCK, layout.k, generator=torch.Generator().manual_seed(0))
    if plan.config.traced or plan.config.curvature.kind == "identity":
        scored, part_bytes = _scored(plan, Whitening(layout, None), rows, used)
        return ScoreRates(0.0, 0.0, 0.0, scored * references / used, part_bytes)
    whitening = Whitening(layout, tuple(Matrix(torch.eye(size)) for size in layout.sizes))
    whitened = run_in_compute_thread(_seconds, lambda: whitening(rows)) / SCORING_BLOCK
    added = run_in_compute_thread(_seconds, lambda: BlockMoment.zero(layout).update(rows)) / SCORING_BLOCK
    moment = {"kfac": 0.0, "ekfac": whitened}.get(plan.config.curvature.kind, added)
    scored, part_bytes = _scored(plan, whitening, rows, used)
    factor = run_in_compute_thread(_factor_seconds, plan, references)
    return ScoreRates(whitened, moment, factor, scored * references / used, part_bytes)


def _seconds(call: Callable[[], object]) -> float:
    """Seconds of a call: the faster of two after a warm-up."""
    call()

    def once() -> float:
        watch = Stopwatch()
        call()
        return watch.seconds

    return min(once(), once())


def _factor_seconds(plan: ModelPlan, rows: int) -> float:
    """Of one layer's eigenvalues, LARGEST at most; of other layers by the cubes of their sizes."""
    sizes = [min(size, rows) for size in plan.layout.sizes]
    largest = min(max(sizes), LARGEST)
    if plan.config.curvature.kind in FACTORED:
        return 0.0  # Kronecker factors are small
    matrix = torch.randn(largest, largest, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return _seconds(lambda: torch.linalg.eigh(matrix @ matrix.T)) * sum(size**3 for size in sizes) / largest**3


def _scored(plan: ModelPlan, whitening: Whitening, rows: Tensor, references: int) -> tuple[float, float]:
    """Seconds and bytes a row of a score part, of as many blocks as keep all threads busy."""
    generator = torch.Generator().manual_seed(1)
    predictions = torch.randint(max(1, plan.classes), (max(references, SCORING_BLOCK),), generator=generator)
    names = [f"{place:012d}" for place in range(references)]
    trusted = TrustedSamples(names, ["reference"] * references, predictions[:references], np.full(references, np.nan))
    scorer = Scorer.of(plan, whitening, torch.randn(references, plan.layout.k, generator=generator), trusted)
    stored, scales = to_stored(rows, plan.layout, plan.dtype_of(0))
    samples = SampleColumns(
        ids=[f"{place:012d}" for place in range(SCORING_BLOCK)],
        rows=list(range(SCORING_BLOCK)),
        predictions=predictions[:SCORING_BLOCK],
        confidence=torch.rand(SCORING_BLOCK, generator=generator),
        gradient_norm=torch.rand(SCORING_BLOCK, generator=generator),
        statuses=[OK] * SCORING_BLOCK,
    )
    blocks = [StoredBlock(stored, scales, samples, plan.layout)] * (BLOCKS * compute_threads())
    sizes = list[int]()

    def write() -> None:
        sink, source = io.BytesIO(), plan.audited[0].file.name
        write_parquet(sink, scored_batches(blocks, scorer, pa.array(names, pa.string()), source, []), PART_FORMAT)
        sizes.append(len(sink.getvalue()))

    rows_written = len(blocks) * SCORING_BLOCK
    return _seconds(write) / rows_written, sizes[-1] / rows_written
