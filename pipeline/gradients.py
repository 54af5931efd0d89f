"""Stage 1: rows of trusted and audited samples. A task is a row range of one source file, whichever split it belongs to."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from infra.commits import Measures, Receipt
from infra.computing import compute
from infra.events import Stopwatch, peak_memory_bytes
from infra.prefetch import prefetched
from infra.storage import Storage
from madcore import RowExtractor, RowLayout
from madcore.gradients import SampleRows
from pipeline.artifacts.logs import rows_log
from pipeline.artifacts.rows import NO_CLASS, NONFINITE, OK, SampleColumns, at_rest, encode_rows, read_statuses
from pipeline.config import AuditConfig
from pipeline.errors import StageError
from pipeline.inputs import Group, SampleBatch
from pipeline.plan import ModelPlan, RowTask
from pipeline.sources.models import load_model

UNREADABLE = "unreadable: "
READ_AHEAD = 2
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class GradientTask:
    """A row range to compute, and the receipt it supersedes where it is tried again."""

    rows: RowTask
    supersedes: Receipt | None = None

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

    def __call__(self, task: GradientTask) -> Receipt:
        """Computes and commits one task."""
        plan, rows = self._plans[task.model], task.rows
        if task.supersedes is not None and self._still_unreadable(plan, rows, task.supersedes):
            return task.supersedes
        with prefetched(self._read(plan, rows, range(rows.start, rows.stop)), READ_AHEAD) as batches:
            collected, watch, computing = compute(self._compute, plan, batches, rows.stop - rows.start)
        files = encode_rows(collected.rows, collected.scales, collected.columns(rows.start), plan.layout)
        measures = Measures(
            rows=rows.stop - rows.start,
            seconds=watch.seconds,
            peak_memory_bytes=peak_memory_bytes(),
            computing_seconds=computing,
            nonfinite=collected.nonfinite,
            unreadable=collected.unreadable,
        )
        return rows_log(self._storage, plan.name, plan.row_key, rows.source.key).commit(rows.name, files, measures, task.supersedes)

    def _read(self, plan: ModelPlan, rows: RowTask, places: range) -> Iterator[SampleBatch]:
        for batch in plan.inputs.read(plan.config, rows.source, places, self._config.run.batch_size):
            yield batch.pinned() if self._device.type == "cuda" else batch

    def _still_unreadable(self, plan: ModelPlan, rows: RowTask, done: Receipt) -> bool:
        """Whether exactly the samples that could not be read before cannot be read now, for the same reasons: then nothing is computed."""
        log = rows_log(self._storage, plan.name, plan.row_key, rows.source.key)
        before = read_statuses(self._storage, log.attempt_folder(done))
        for place, status in enumerate(before, rows.start):
            if status.startswith(UNREADABLE):
                (batch,) = self._read(plan, rows, range(place, place + 1))
                if f"{UNREADABLE}{batch.unreadable[0]}" != status:
                    return False
        return True

    def _compute(self, plan: ModelPlan, batches: Iterator[SampleBatch], samples: int) -> tuple["Collected", Stopwatch, float]:
        """Rows of all batches, a watch that began with them, and the seconds not spent on waiting for a batch to be read."""
        extractor, precision = self._extractor(plan), PRECISIONS[plan.config.estimator.precision]
        collected, watch, waited = Collected(plan.layout.k, samples, self._device), Stopwatch(), 0.0
        while True:
            waiting = Stopwatch()
            batch = next(batches, None)
            waited += waiting.seconds
            if batch is None:
                collected.settle(plan.layout, plan.config.estimator.rows_dtype)
                return collected, watch, watch.seconds - waited
            place = collected.add(batch)
            for group in batch.groups:
                collected.fill(place, extractor(group.measured.to(self._device), precision), group)

    def _extractor(self, plan: ModelPlan) -> RowExtractor:
        if self._loaded is None or self._loaded[0] != plan.name:
            self._loaded = None
            loaded = load_model(self._config, plan.config, plan.source)
            if loaded.digest != plan.digest:
                raise StageError(f"model {plan.name}: its weights or architecture changed since the plan was made; run again")
            extractor = RowExtractor(loaded.module.to(self._device), plan.layers, plan.projection)
            self._loaded = (plan.name, extractor)
        return self._loaded[1]


class Collected:
    """A task's results, in the order of its rows, on the model's device until it is settled; a row without a result stays 0.

    Nothing here waits for a GPU before `settle`.
    """

    def __init__(self, k: int, rows: int, device: torch.device):
        """Room for `rows` rows of k numbers."""
        self.rows, self.scales = torch.zeros(rows, k, device=device), torch.ones(rows, 0, device=device)
        self._predictions = torch.full((rows,), NO_CLASS, dtype=torch.int64, device=device)
        self._confidence, self._norms = torch.zeros(rows, device=device), torch.zeros(rows, device=device)
        self._finite = torch.ones(rows, dtype=torch.bool, device=device)
        self._ids: list[str] = []
        self._statuses: list[str] = []

    def add(self, batch: SampleBatch) -> int:
        """Adds a batch's samples, and returns the place of its first."""
        place = len(self._ids)
        self._ids += batch.ids
        self._statuses += [f"{UNREADABLE}{reason}" if reason else OK for reason in batch.unreadable]
        return place

    def fill(self, place: int, computed: SampleRows, group: Group) -> None:
        """Fills in what a group computed, at the places of its r samples in the batch that begins at `place`."""
        samples = len(group.places)
        rows_rk, outcome = computed.rows[:samples].float(), group.outcome(computed.outputs[:samples].float())
        places_r = place + group.places.to(rows_rk.device, non_blocking=True)
        norms_r = torch.linalg.vector_norm(rows_rk, dim=1, dtype=torch.float64)  # not finite where a number of the row is not
        finite_r = torch.isfinite(norms_r) & outcome.finite
        self._finite[places_r] = finite_r
        self.rows[places_r] = rows_rk.masked_fill_(~finite_r.unsqueeze(1), 0.0)
        self._predictions[places_r] = torch.where(finite_r, outcome.predictions, NO_CLASS)
        self._confidence[places_r] = torch.where(finite_r, outcome.confidence, 0.0)
        self._norms[places_r] = torch.where(finite_r, norms_r.float(), 0.0)

    def settle(self, layout: RowLayout, dtype: str) -> None:
        """Brings all to the CPU, rows as they are at rest, and marks the samples without a finite gradient."""
        rows, scales = at_rest(self.rows, layout, dtype)
        self.rows, self.scales = rows.cpu(), scales.cpu()
        self._predictions, self._finite = self._predictions.cpu(), self._finite.cpu()
        self._confidence, self._norms = self._confidence.cpu(), self._norms.cpu()
        for place in torch.nonzero(~self._finite).flatten().tolist():
            self._statuses[place] = NONFINITE

    @property
    def nonfinite(self) -> int:
        """Samples whose gradient or logits are not finite."""
        return self._statuses.count(NONFINITE)

    @property
    def unreadable(self) -> int:
        """Samples that could not be read."""
        return sum(status.startswith(UNREADABLE) for status in self._statuses)

    def columns(self, start: int) -> SampleColumns:
        """The samples, the first of which is row `start` of its source."""
        places = list(range(start, start + len(self._ids)))
        return SampleColumns(self._ids, places, self._predictions, self._confidence, self._norms, self._statuses)
