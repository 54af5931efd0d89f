"""Stage 1: rows of trusted and audited samples. A task is a row range of one source file, whichever split it belongs to.

Where the curvature is fitted on others than the samples' rows, tasks of their own compute those (see `madcore.likelihood` and
`madcore.kronecker`), several a sample it may be; they lie beside the samples' own rows, under a key that the damping does not change.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from infra.commits import CommitLog, Measures, Receipt
from infra.computing import compute
from infra.events import Stopwatch, peak_memory_bytes
from infra.prefetch import prefetched
from infra.storage import Storage
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
from madcore.sampling import flat_weights
from pipeline.artifacts.logs import rows_log
from pipeline.artifacts.rows import NO_CLASS, NONFINITE, OK, SampleColumns, at_rest, encode_rows, read_statuses
from pipeline.artifacts.snapshots import read_snapshots
from pipeline.config import AuditConfig
from pipeline.errors import StageError
from pipeline.inputs import Group, Outcome, SampleBatch, no_outcome
from pipeline.plan import ModelPlan, RowTask, samples_of
from pipeline.schema import FACTORED
from pipeline.sources.datasets import Source
from pipeline.sources.models import load_model
from pipeline.traces import traces

UNREADABLE = "unreadable: "
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
        return row_task_log(self._storage, plan, rows.source, rows.draws).commit(rows.name, files, measures, task.supersedes)

    def rows_of(self, task: GradientTask) -> tuple[dict[str, bytes], Measures]:
        """The files of one task, and what they took; nothing is committed."""
        plan, rows = self._plans[task.model], task.rows
        with prefetched(self._read(plan, rows, range(rows.start, rows.stop)), READ_AHEAD) as batches:
            collected, watch, computing = compute(self._traced if task.snapshots else self._compute, plan, batches, task)
        files = encode_rows(collected.rows, collected.scales, collected.columns(rows.start), plan.layout_of(rows.draws))
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
        return compute(self._passed, self._plans[rows.model], rows)

    def _passed(self, plan: ModelPlan, rows: RowTask) -> float:
        groups = [group for batch in self._read(plan, rows, range(rows.start, rows.stop)) for group in batch.groups]
        model, anchor = self._anchored(plan)
        watch = Stopwatch()
        traces(model, anchor, groups, [anchor], 1)
        return watch.seconds / 2  # once at the trained weights, once at the only snapshot

    def _read(self, plan: ModelPlan, rows: RowTask, places: range) -> Iterator[SampleBatch]:
        for batch in plan.inputs.read(plan.config, rows.source, places, samples_of(self._config.run.batch_size, rows.draws)):
            yield batch.pinned() if self._device.type == "cuda" else batch

    def _still_unreadable(self, plan: ModelPlan, rows: RowTask, done: Receipt) -> bool:
        """Whether exactly the samples that could not be read before cannot be read now, for the same reasons: then nothing is computed."""
        log = row_task_log(self._storage, plan, rows.source, rows.draws)
        before = read_statuses(self._storage, log.attempt_folder(done))[:: max(1, rows.draws)]
        for place, status in enumerate(before, rows.start):
            if status.startswith(UNREADABLE):
                (batch,) = self._read(plan, rows, range(place, place + 1))
                if f"{UNREADABLE}{batch.unreadable[0]}" != status:
                    return False
        return True

    def _traced(self, plan: ModelPlan, batches: Iterator[SampleBatch], task: GradientTask) -> tuple["Collected", Stopwatch, float]:
        """As `_compute`, of traces: all samples are read before the first snapshot is."""
        collected, watch = Collected(plan.layout.k, task.rows.stop - task.rows.start, 1, self._device), Stopwatch()
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

    def _compute(self, plan: ModelPlan, batches: Iterator[SampleBatch], task: GradientTask) -> tuple["Collected", Stopwatch, float]:
        """Rows of all batches, a watch that began with them, and the seconds not spent on waiting for a batch to be read."""
        rows, layout = task.rows, plan.layout_of(task.rows.draws)
        collected, watch, waited = Collected(layout.k, rows.stop - rows.start, max(1, rows.draws), self._device), Stopwatch(), 0.0
        while True:
            waiting = Stopwatch()
            batch = next(batches, None)
            waited += waiting.seconds
            if batch is None:
                collected.settle(layout, plan.dtype_of(rows.draws))
                return collected, watch, max(0.0, watch.seconds - waited)
            place = collected.add(batch)
            for group in batch.groups:
                computed = self._fitted_rows(plan, _names(rows, place, batch), group) if rows.draws else self._own_rows(plan, group)
                collected.fill(place, *computed, group)

    def _own_rows(self, plan: ModelPlan, group: Group) -> tuple[Tensor, Outcome]:
        """Of a group's r samples, rows (r, k) and what the model made of them."""
        computed = self._extractor(plan)(group.measured.to(self._device), PRECISIONS[plan.config.gradient.precision])
        samples = len(group.places)
        return computed.rows[:samples], group.outcome(computed.outputs[:samples].float())

    def _fitted_rows(self, plan: ModelPlan, names: Sequence[str], group: Group) -> tuple[Tensor, Outcome]:
        """Of a group's r samples, rows (r * draws, k), those of a sample together; they are not asked what the model made of them."""
        extractor, measured, samples = self._extractor(plan), group.measured.to(self._device), len(group.places)
        if plan.config.curvature.kind in FACTORED:
            numbers = extractor.side_numbers(measured, None if group.tokens is None else group.tokens.present.to(self._device))[:samples]
            return numbers, no_outcome(samples, numbers.device)
        if plan.config.curvature.kind == "ggn":
            rows_rdk = gauss_newton_rows(extractor, measured.inputs, plan.classes)[:samples]
            return rows_rdk.flatten(0, 1), no_outcome(samples, rows_rdk.device)
        own = [names[place] for place in group.places.tolist()]
        labels = sampled_labels(group.tokens, plan.config.curvature.seed, own + own[:1] * (measured.samples - samples))
        rows_rk = extractor(Measured(measured.inputs, labels), PRECISIONS[plan.config.gradient.precision]).rows[:samples]
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


def load_planned(config: AuditConfig, plan: ModelPlan) -> nn.Module:
    """The model that was planned.

    Raises:
        StageError: it is another one now.
    """
    loaded = load_model(config, plan.config, plan.source)
    if loaded.digest != plan.digest:
        raise StageError(f"model {plan.name}: its weights or architecture changed since the plan was made; run again")
    return loaded.module


def row_task_log(storage: Storage, plan: ModelPlan, source: Source, draws: int) -> CommitLog:
    """Where rows of a source are committed: the samples' own, or with `draws` those that the curvature is fitted on."""
    return rows_log(storage, plan.name, plan.fitted_key if draws else plan.row_key, source.key)


def _names(rows: RowTask, place: int, batch: SampleBatch) -> list[str]:
    """What labels are sampled by, of a batch that begins at `place` of its task: ids, and where there is none, the sample's place."""
    return [name or f"{rows.source.key}/{row}" for row, name in enumerate(batch.ids, rows.start + place)]


def sampled_labels(tokens: TokenBatch | None, seed: int, names: Sequence[str]) -> Measurement:
    """The loss at labels sampled from the model, by each sample's name."""
    if tokens is None:
        return SampledLabels(label_uniforms(seed, names).squeeze(1))
    return SampledCompletions(tokens, label_uniforms(seed, names, tokens.ids.shape[1]))


class Collected:
    """A task's results, in the order of its samples, on the model's device until it is settled; a row without a result stays 0.

    A sample has one row or several, all of them as good as the worst. Nothing here waits for a GPU before `settle`.
    """

    def __init__(self, k: int, samples: int, draws: int, device: torch.device):
        """Room for `draws` rows of k numbers a sample."""
        self._draws, rows = draws, samples * draws
        self.rows, self.scales = torch.zeros(rows, k, device=device), torch.ones(rows, 0, device=device)
        self._predictions = torch.full((rows,), NO_CLASS, dtype=torch.int64, device=device)
        self._confidence, self._norms = torch.zeros(rows, device=device), torch.zeros(rows, device=device)
        self._finite = torch.ones(rows, dtype=torch.bool, device=device)
        self._ids: list[str] = []
        self._statuses: list[str] = []

    def add(self, batch: SampleBatch) -> int:
        """Adds a batch's samples, and returns the place of its first."""
        place = len(self._ids) // self._draws
        self._ids += [name for name in batch.ids for _ in range(self._draws)]
        self._statuses += [f"{UNREADABLE}{reason}" if reason else OK for reason in batch.unreadable for _ in range(self._draws)]
        return place

    def fill(self, place: int, rows_rk: Tensor, outcome: Outcome, group: Group) -> None:
        """Fills in what a group computed, at the places of its samples in the batch that begins at `place`: their r rows, those of a sample together."""
        draws, rows_rk = self._draws, rows_rk.float()
        places_r = self._each_draw((place + group.places.to(rows_rk.device, non_blocking=True)) * draws)
        places_r = places_r + torch.arange(draws, device=rows_rk.device).repeat(len(group.places))
        norms_r = torch.linalg.vector_norm(rows_rk, dim=1, dtype=torch.float64)  # not finite where a number of the row is not
        finite_r = self._each_draw(torch.isfinite(norms_r).view(-1, draws).all(dim=1) & outcome.finite)
        self._finite[places_r] = finite_r
        self.rows[places_r] = rows_rk.masked_fill_(~finite_r.unsqueeze(1), 0.0)
        self._predictions[places_r] = torch.where(finite_r, self._each_draw(outcome.predictions), NO_CLASS)
        self._confidence[places_r] = torch.where(finite_r, self._each_draw(outcome.confidence), 0.0)
        self._norms[places_r] = torch.where(finite_r, norms_r.float(), 0.0)

    def settle(self, layout: RowLayout, dtype: str) -> None:
        """Brings all to the CPU, rows as they are at rest, and marks the samples without a finite gradient."""
        rows, scales = at_rest(self.rows, layout, dtype)
        self.rows, self.scales = rows.cpu(), scales.cpu()
        self._predictions, self._finite = self._predictions.cpu(), self._finite.cpu()
        self._confidence, self._norms = self._confidence.cpu(), self._norms.cpu()
        for place in torch.nonzero(~self._finite).flatten().tolist():
            self._statuses[place] = NONFINITE

    def _each_draw(self, per_sample: Tensor) -> Tensor:
        return per_sample.repeat_interleave(self._draws) if self._draws > 1 else per_sample

    @property
    def nonfinite(self) -> int:
        """Samples whose gradient or logits are not finite."""
        return self._statuses.count(NONFINITE) // self._draws

    @property
    def unreadable(self) -> int:
        """Samples that could not be read."""
        return sum(status.startswith(UNREADABLE) for status in self._statuses) // self._draws

    def columns(self, start: int) -> SampleColumns:
        """The samples, one for each of their rows; the first is row `start` of its source."""
        places = [start + row // self._draws for row in range(len(self._ids))]
        return SampleColumns(self._ids, places, self._predictions, self._confidence, self._norms, self._statuses)
