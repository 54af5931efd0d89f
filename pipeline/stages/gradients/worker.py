"""Stage 1: rows of trusted and audited samples.

A task is a row range of a source file, whichever split the file belongs to. Where the curvature is made of other rows
than the samples' own, tasks of their own compute those (see `madcore.extraction.likelihood` and
`madcore.curvature.kronecker`), for one or several labels per sample. They are stored next to the samples' own rows,
under a key that the damping does not change.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from infra.commits import Measures, Receipt
from infra.events import Stopwatch, peak_memory_bytes
from infra.execution.prefetch import prefetched
from infra.execution.threads import run_in_compute_thread
from infra.storage.pins import confirm
from infra.storage.storage import Storage
from madcore import (
    Measured,
    Measurement,
    RowExtractor,
    RowLayout,
    SampledCompletions,
    SampledLabels,
    TokenBatch,
    gauss_newton_rows,
    label_uniforms,
)
from madcore.sampling.langevin import flat_weights
from madcore.scoring.flat import flat_rows, weights_norm
from pipeline.artifacts.chains import read_snapshots
from pipeline.artifacts.rows import encode_rows
from pipeline.artifacts.samples import read_statuses
from pipeline.config.audit_config import AuditConfig
from pipeline.config.curvature import FACTORED
from pipeline.data.statuses import UNREADABLE
from pipeline.inputs.batches import Group, SampleBatch
from pipeline.planning.plan import ModelPlan, RowTask, row_task_log
from pipeline.planning.recipe import samples_of
from pipeline.stages.gradients.loading import load_planned
from pipeline.stages.gradients.loss_traces import compute_traces
from pipeline.stages.gradients.task_results import TaskResults, label_names
from pipeline.tasks.predictions import Predictions, no_predictions

READ_AHEAD = 2

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Measurements whose derivative for an output is 1 or -1, however confident the model is.
STEEP = ("margin", "token_margin", "label_margin", "output")

Computed = tuple[TaskResults, Stopwatch, float]  # results, a watch started with the computation, seconds of computing


@dataclass(frozen=True)
class GradientTask:
    """A row range to compute.

    `supersedes`: the receipt of the same range, where it is tried again. `snapshots`: the folders of the weights that
    traces are taken at.
    """

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
        """Load nothing yet: the first task says which model."""
        self._config, self._plans = config, plans
        self._storage = Storage(config.root)
        self._device = torch.device("cuda" if config.run.gpus_per_worker > 0 else "cpu")
        self._loaded: tuple[str, RowExtractor, float] | None = None
        self._anchor: tuple[str, nn.Module, Tensor] | None = None

    def __call__(self, task: GradientTask) -> Receipt:
        """Compute and commit one task."""
        plan, rows = self._plans[task.model], task.rows
        if task.supersedes is not None and self._still_unreadable(plan, rows, task.supersedes):
            return task.supersedes
        files, measures = self.compute(task)
        log = row_task_log(self._storage, plan, rows.source, rows.labels_per_sample)
        confirm([rows.source.file])
        return log.commit(rows.name, files, measures, task.supersedes)

    def compute(self, task: GradientTask) -> tuple[dict[str, bytes], Measures]:
        """The files of one task, and their cost; nothing is committed."""
        plan, rows = self._plans[task.model], task.rows
        method = self._compute_traces if task.snapshots else self._compute_rows
        with prefetched(self._read(plan, rows, range(rows.start, rows.stop)), READ_AHEAD) as batches:
            results, watch, computing = run_in_compute_thread(method, plan, batches, task)
        layout = plan.layout_of(rows.labels_per_sample)
        files = encode_rows(results.rows, results.scales, results.columns(rows.start), layout)
        measures = Measures(
            rows=rows.stop - rows.start,
            seconds=watch.seconds,
            peak_memory_bytes=peak_memory_bytes(),
            computing_seconds=computing,
            nonfinite=results.nonfinite,
            unreadable=results.unreadable,
        )
        return files, measures

    def time_pass(self, rows: RowTask) -> float:
        """Seconds of one pass of a task's samples through the model, as traces need it; nothing is committed."""
        return run_in_compute_thread(self._time_pass, self._plans[rows.model], rows)

    def _time_pass(self, plan: ModelPlan, rows: RowTask) -> float:
        groups = [group for batch in self._read(plan, rows, range(rows.start, rows.stop)) for group in batch.groups]
        model, anchor = self._anchored(plan)
        watch = Stopwatch()
        compute_traces(model, anchor, groups, [anchor], RowLayout(("",), (1,)))
        return watch.seconds / 2  # once at the trained weights, once at the only snapshot

    def _read(self, plan: ModelPlan, rows: RowTask, places: range) -> Iterator[SampleBatch]:
        batch_size = samples_of(self._config.run.batch_size, rows.labels_per_sample)
        for batch in plan.inputs.read(plan.config, rows.source, places, batch_size):
            yield batch.pinned() if self._device.type == "cuda" else batch

    def _still_unreadable(self, plan: ModelPlan, rows: RowTask, done: Receipt) -> bool:
        """Whether the same samples as before cannot be read, for the same reasons: then nothing needs computing."""
        log = row_task_log(self._storage, plan, rows.source, rows.labels_per_sample)
        before = read_statuses(self._storage, log.attempt_folder(done))[:: max(1, rows.labels_per_sample)]
        for place, status in enumerate(before, rows.start):
            if status.startswith(UNREADABLE):
                (batch,) = self._read(plan, rows, range(place, place + 1))
                if f"{UNREADABLE}{batch.unreadable[0]}" != status:
                    return False
        return True

    def _compute_traces(self, plan: ModelPlan, batches: Iterator[SampleBatch], task: GradientTask) -> Computed:
        """Like `_compute_rows`, for loss traces: all samples are read before the first snapshot is."""
        results, watch = TaskResults(plan.layout.k, task.rows.stop - task.rows.start, 1, self._device), Stopwatch()
        placed = list[tuple[int, Group]]()
        for batch in batches:
            place = results.add(batch)
            placed += [(place, group) for group in batch.groups]
        model, anchor = self._anchored(plan)
        with prefetched(read_snapshots(self._storage, task.snapshots), READ_AHEAD) as snapshots:
            traces = compute_traces(model, anchor, [group for _, group in placed], snapshots, plan.layout)
        for (place, group), of_group in zip(placed, traces, strict=True):
            results.fill(place, of_group.rows, of_group.outcome, group)
        results.settle(plan.layout, plan.dtype_of(0))
        return results, watch, watch.seconds

    def _compute_rows(self, plan: ModelPlan, batches: Iterator[SampleBatch], task: GradientTask) -> Computed:
        """Rows of all batches; the seconds of computing leave out the waits for a batch to be read."""
        rows, labels = task.rows, task.rows.labels_per_sample
        layout = plan.layout_of(labels)
        results = TaskResults(layout.k, rows.stop - rows.start, max(1, labels), self._device)
        watch, waited = Stopwatch(), 0.0
        while True:
            waiting = Stopwatch()
            batch = next(batches, None)
            waited += waiting.seconds
            if batch is None:
                results.settle(layout, plan.dtype_of(labels))
                return results, watch, max(0.0, watch.seconds - waited)
            place = results.add(batch)
            for group in batch.groups:
                if labels:
                    computed = self._curvature_rows(plan, label_names(rows, place, batch), group)
                else:
                    computed = self._own_rows(plan, group)
                results.fill(place, *computed, group)

    def _own_rows(self, plan: ModelPlan, group: Group) -> tuple[Tensor, Predictions]:
        """Rows (r, k) of a group's r samples, and what the model predicts for them."""
        precision, samples = PRECISIONS[plan.config.gradient.precision], len(group.places)
        extractor, weights = self._extractor(plan)
        computed = extractor(group.measured.to(self._device), precision)
        rows_rk, outcome = computed.rows[:samples], group.predict(computed.outputs[:samples].float())
        steep = plan.config.measurement in STEEP
        resolution = torch.finfo(computed.outputs.dtype).eps ** 0.5 if steep else torch.finfo(rows_rk.dtype).eps
        norms_r = torch.linalg.vector_norm(rows_rk, dim=1, dtype=torch.float64)
        return rows_rk, replace(outcome, flat=flat_rows(norms_r, outcome.size, weights, resolution))

    def _curvature_rows(self, plan: ModelPlan, names: Sequence[str], group: Group) -> tuple[Tensor, Predictions]:
        """Rows (r * labels, k) of a group's r samples, those of a sample together; without predictions."""
        (extractor, _), measured, samples = self._extractor(plan), group.measured.to(self._device), len(group.places)
        if plan.config.curvature.kind in FACTORED:
            present = group.present
            counted = None if present is None else present.to(self._device)
            rows_rk = extractor.side_numbers(measured, counted)[:samples]
        elif plan.config.curvature.kind == "ggn":
            rows_rk = gauss_newton_rows(extractor, measured.inputs, plan.classes)[:samples].flatten(0, 1)
        else:
            own = [names[place] for place in group.places.tolist()]
            padded = own + own[:1] * (measured.samples - samples)
            labels = sampled_labels(group.tokens, plan.config.curvature.seed, padded)
            precision = PRECISIONS[plan.config.gradient.precision]
            rows_rk = extractor(Measured(measured.inputs, labels), precision).rows[:samples]
        return rows_rk, no_predictions(samples, rows_rk.device)

    def _anchored(self, plan: ModelPlan) -> tuple[nn.Module, Tensor]:
        """A model, and its weights as they were trained."""
        if self._anchor is None or self._anchor[0] != plan.name:
            self._anchor = None
            model = load_planned(self._config, plan).to(self._device)
            self._anchor = (plan.name, model, flat_weights(model))
        return self._anchor[1:]

    def _extractor(self, plan: ModelPlan) -> tuple[RowExtractor, float]:
        """What makes a model's rows, and the norm of its layers' weights."""
        if self._loaded is None or self._loaded[0] != plan.name:
            self._loaded = None
            model = load_planned(self._config, plan).to(self._device)
            extractor = RowExtractor(model, plan.layers, plan.projection)
            self._loaded = (plan.name, extractor, weights_norm(model, plan.layers))
        return self._loaded[1:]


def sampled_labels(tokens: TokenBatch | None, seed: int, names: Sequence[str]) -> Measurement:
    """The loss at labels sampled from the model, keyed by each sample's name."""
    if tokens is None:
        return SampledLabels(label_uniforms(seed, names).squeeze(1))
    return SampledCompletions(tokens, label_uniforms(seed, names, tokens.ids.shape[1]))
