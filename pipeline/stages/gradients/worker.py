"""Stage 1: rows of trusted and audited samples. A task is a row range of one source file, whichever split it belongs to.

Where the curvature is fitted on others than the samples' rows, tasks of their own compute those (see `madcore.extraction.likelihood` and
`madcore.curvature.kronecker`), several a sample it may be; they lie beside the samples' own rows, under a key that the damping does not change.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from infra.commits import Measures, Receipt
from infra.events import Stopwatch, peak_memory_bytes
from infra.execution.prefetch import prefetched
from infra.execution.threads import run_in_compute_thread
from infra.storage.storage import Storage
from madcore import (
    Measured,
    Measurement,
    RowExtractor,
    SampledCompletions,
    SampledLabels,
    TokenBatch,
    gauss_newton_rows,
    label_uniforms,
)
from madcore.sampling.langevin import flat_weights
from pipeline.artifacts.chains import read_snapshots
from pipeline.artifacts.rows import encode_rows, read_statuses
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import FACTORED
from pipeline.data.batches import Group, Outcome, SampleBatch, no_outcome
from pipeline.data.statuses import UNREADABLE
from pipeline.planning.plan import ModelPlan, RowTask, row_task_log, samples_of
from pipeline.stages.gradients.loading import load_planned
from pipeline.stages.gradients.loss_traces import traces
from pipeline.stages.gradients.task_results import TaskResults, label_names

READ_AHEAD = 2


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class GradientTask:
    """A row range to compute, the receipt it supersedes where it is tried again, and of traces the folders of the snapshots they are taken at."""

    rows: RowTask
    supersedes: Receipt | None = None
    snapshots: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """The model's name."""
        return self.rows.model

    @property
    def name(self) -> str:
        """The name under which it is committed."""
        return self.rows.name


class GradientWorker:
    """Computes rows; keeps a model loaded while its tasks last.

    Reading and decoding run ahead in a thread of each task; one of two tasks computes while the other reads, or writes.
    """

    def __init__(self, config: AuditConfig, plans: dict[str, ModelPlan]):
        """Loads nothing yet: the first task says which model."""
        self._config, self._plans = config, plans
        self._storage = Storage(config.root)
        self._device = torch.device("cuda" if config.run.gpus_per_worker > 0 else "cpu")
        self._loaded: tuple[str, RowExtractor] | None = None
        self._anchor: tuple[str, nn.Module, Tensor] | None = None

    def __call__(self, task: GradientTask) -> Receipt:
        """Computes and commits one task."""
        plan, rows = self._plans[task.model], task.rows
        if task.supersedes is not None and self._still_unreadable(plan, rows, task.supersedes):
            return task.supersedes
        files, measures = self.rows_of(task)
        return row_task_log(self._storage, plan, rows.source, rows.labels_per_sample).commit(
            rows.name, files, measures, task.supersedes
        )

    def rows_of(self, task: GradientTask) -> tuple[dict[str, bytes], Measures]:
        """The files of one task, and what they took; nothing is committed."""
        plan, rows = self._plans[task.model], task.rows
        with prefetched(self._read(plan, rows, range(rows.start, rows.stop)), READ_AHEAD) as batches:
            collected, watch, computing = run_in_compute_thread(
                self._traced if task.snapshots else self._compute, plan, batches, task
            )
        files = encode_rows(
            collected.rows, collected.scales, collected.columns(rows.start), plan.layout_of(rows.labels_per_sample)
        )
        measures = Measures(
            rows=rows.stop - rows.start,
            seconds=watch.seconds,
            peak_memory_bytes=peak_memory_bytes(),
            computing_seconds=computing,
            nonfinite=collected.nonfinite,
            unreadable=collected.unreadable,
        )
        return files, measures

    def pass_seconds(self, rows: RowTask) -> float:
        """Seconds that the samples of a task take to go through the model once, as traces make them; nothing is committed."""
        return run_in_compute_thread(self._passed, self._plans[rows.model], rows)

    def _passed(self, plan: ModelPlan, rows: RowTask) -> float:
        groups = [group for batch in self._read(plan, rows, range(rows.start, rows.stop)) for group in batch.groups]
        model, anchor = self._anchored(plan)
        watch = Stopwatch()
        traces(model, anchor, groups, [anchor], 1)
        return watch.seconds / 2  # once at the trained weights, once at the only snapshot

    def _read(self, plan: ModelPlan, rows: RowTask, places: range) -> Iterator[SampleBatch]:
        for batch in plan.inputs.read(
            plan.config, rows.source, places, samples_of(self._config.run.batch_size, rows.labels_per_sample)
        ):
            yield batch.pinned() if self._device.type == "cuda" else batch

    def _still_unreadable(self, plan: ModelPlan, rows: RowTask, done: Receipt) -> bool:
        """Whether exactly the samples that could not be read before cannot be read now, for the same reasons: then nothing is computed."""
        log = row_task_log(self._storage, plan, rows.source, rows.labels_per_sample)
        before = read_statuses(self._storage, log.attempt_folder(done))[:: max(1, rows.labels_per_sample)]
        for place, status in enumerate(before, rows.start):
            if status.startswith(UNREADABLE):
                (batch,) = self._read(plan, rows, range(place, place + 1))
                if f"{UNREADABLE}{batch.unreadable[0]}" != status:
                    return False
        return True

    def _traced(
        self, plan: ModelPlan, batches: Iterator[SampleBatch], task: GradientTask
    ) -> tuple[TaskResults, Stopwatch, float]:
        """As `_compute`, of traces: all samples are read before the first snapshot is."""
        collected, watch = TaskResults(plan.layout.k, task.rows.stop - task.rows.start, 1, self._device), Stopwatch()
        placed = list[tuple[int, Group]]()
        for batch in batches:
            place = collected.add(batch)
            placed += [(place, group) for group in batch.groups]
        model, anchor = self._anchored(plan)
        with prefetched(read_snapshots(self._storage, task.snapshots), READ_AHEAD) as snapshots:
            found = traces(model, anchor, [group for _, group in placed], snapshots, plan.layout.k)
        for (place, group), traced in zip(placed, found, strict=True):
            collected.fill(place, traced.rows, traced.outcome, group)
        collected.settle(plan.layout, plan.dtype_of(0))
        return collected, watch, watch.seconds

    def _compute(
        self, plan: ModelPlan, batches: Iterator[SampleBatch], task: GradientTask
    ) -> tuple[TaskResults, Stopwatch, float]:
        """Rows of all batches, a watch that began with them, and the seconds not spent on waiting for a batch to be read."""
        rows, layout = task.rows, plan.layout_of(task.rows.labels_per_sample)
        collected, watch, waited = (
            TaskResults(layout.k, rows.stop - rows.start, max(1, rows.labels_per_sample), self._device),
            Stopwatch(),
            0.0,
        )
        while True:
            waiting = Stopwatch()
            batch = next(batches, None)
            waited += waiting.seconds
            if batch is None:
                collected.settle(layout, plan.dtype_of(rows.labels_per_sample))
                return collected, watch, max(0.0, watch.seconds - waited)
            place = collected.add(batch)
            for group in batch.groups:
                computed = (
                    self._curvature_rows(plan, label_names(rows, place, batch), group)
                    if rows.labels_per_sample
                    else self._own_rows(plan, group)
                )
                collected.fill(place, *computed, group)

    def _own_rows(self, plan: ModelPlan, group: Group) -> tuple[Tensor, Outcome]:
        """Of a group's r samples, rows (r, k) and what the model made of them."""
        computed = self._extractor(plan)(group.measured.to(self._device), PRECISIONS[plan.config.gradient.precision])
        samples = len(group.places)
        return computed.rows[:samples], group.outcome(computed.outputs[:samples].float())

    def _curvature_rows(self, plan: ModelPlan, names: Sequence[str], group: Group) -> tuple[Tensor, Outcome]:
        """Of a group's r samples, rows (r * labels, k), those of a sample together; they are not asked what the model made of them."""
        extractor, measured, samples = self._extractor(plan), group.measured.to(self._device), len(group.places)
        if plan.config.curvature.kind in FACTORED:
            numbers = extractor.side_numbers(
                measured, None if group.tokens is None else group.tokens.present.to(self._device)
            )[:samples]
            return numbers, no_outcome(samples, numbers.device)
        if plan.config.curvature.kind == "ggn":
            rows_rdk = gauss_newton_rows(extractor, measured.inputs, plan.classes)[:samples]
            return rows_rdk.flatten(0, 1), no_outcome(samples, rows_rdk.device)
        own = [names[place] for place in group.places.tolist()]
        labels = sampled_labels(group.tokens, plan.config.curvature.seed, own + own[:1] * (measured.samples - samples))
        rows_rk = extractor(Measured(measured.inputs, labels), PRECISIONS[plan.config.gradient.precision]).rows[
            :samples
        ]
        return rows_rk, no_outcome(samples, rows_rk.device)

    def _anchored(self, plan: ModelPlan) -> tuple[nn.Module, Tensor]:
        """A model, and its weights as they were trained."""
        if self._anchor is None or self._anchor[0] != plan.name:
            self._anchor = None
            model = load_planned(self._config, plan).to(self._device)
            self._anchor = (plan.name, model, flat_weights(model))
        return self._anchor[1:]

    def _extractor(self, plan: ModelPlan) -> RowExtractor:
        if self._loaded is None or self._loaded[0] != plan.name:
            self._loaded = None
            extractor = RowExtractor(load_planned(self._config, plan).to(self._device), plan.layers, plan.projection)
            self._loaded = (plan.name, extractor)
        return self._loaded[1]


def sampled_labels(tokens: TokenBatch | None, seed: int, names: Sequence[str]) -> Measurement:
    """The loss at labels sampled from the model, by each sample's name."""
    if tokens is None:
        return SampledLabels(label_uniforms(seed, names).squeeze(1))
    return SampledCompletions(tokens, label_uniforms(seed, names, tokens.ids.shape[1]))
