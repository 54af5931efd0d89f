"""Stage 1: rows of trusted and audited samples. A task is a row range of one source file, whichever split it belongs to."""

from dataclasses import dataclass

import torch
from torch import Tensor

from infra.commits import Measures, Receipt
from infra.events import Stopwatch, peak_memory_bytes
from infra.storage import Storage
from madcore import RowExtractor
from madcore.gradients import SampleRows
from pipeline.artifacts.logs import rows_log
from pipeline.artifacts.rows import NONFINITE, OK, SampleColumns, encode_rows
from pipeline.config import AuditConfig
from pipeline.errors import StageError
from pipeline.inputs import Group, SampleBatch
from pipeline.plan import ModelPlan, RowTask
from pipeline.sources.models import load_model

UNREADABLE = "unreadable: "
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
    """Computes rows; keeps a model loaded while its tasks last."""

    def __init__(self, config: AuditConfig, plans: dict[str, ModelPlan]):
        """Loads nothing yet: the first task says which model."""
        self._config, self._plans = config, plans
        self._storage = Storage(config.root)
        self._device = torch.device("cuda" if config.run.gpus_per_worker > 0 else "cpu")
        self._loaded: tuple[str, RowExtractor] | None = None

    def __call__(self, task: GradientTask) -> Receipt:
        """Computes and commits one task."""
        watch, plan, rows = Stopwatch(), self._plans[task.model], task.rows
        extractor = self._extractor(plan)
        collected = _Collected(plan.layout.k, rows.stop - rows.start)
        for batch in plan.inputs.read(plan.config, rows.source, range(rows.start, rows.stop), self._config.run.batch_size):
            places = collected.add(batch)
            for group in batch.groups:
                computed = extractor(group.measured.to(self._device), PRECISIONS[plan.config.estimator.precision])
                collected.fill(places + group.places, computed, group)
        files = encode_rows(collected.rows, collected.columns(rows.start), plan.layout, plan.config.estimator.rows_dtype)
        measures = Measures(
            rows=rows.stop - rows.start,
            seconds=watch.seconds,
            peak_memory_bytes=peak_memory_bytes(),
            nonfinite=collected.nonfinite,
            unreadable=collected.unreadable,
        )
        return rows_log(self._storage, plan.name, plan.row_key, rows.source.key).commit(rows.name, files, measures, task.supersedes)

    def _extractor(self, plan: ModelPlan) -> RowExtractor:
        if self._loaded is None or self._loaded[0] != plan.name:
            self._loaded = None
            loaded = load_model(self._config, plan.config)
            if loaded.digest != plan.digest:
                raise StageError(f"model {plan.name}: its weights or architecture changed since the plan was made; run again")
            extractor = RowExtractor(loaded.module.to(self._device), plan.layers, plan.projection)
            self._loaded = (plan.name, extractor)
        return self._loaded[1]


class _Collected:
    """A task's results, in the order of its rows; a row without a result stays 0."""

    def __init__(self, k: int, rows: int):
        self.rows = torch.zeros(rows, k)
        self._predictions = torch.full((rows,), -1, dtype=torch.int64)
        self._confidence, self._norms = torch.zeros(rows), torch.zeros(rows)
        self._ids: list[str] = []
        self._statuses: list[str] = []

    def add(self, batch: SampleBatch) -> int:
        """Adds a batch's samples, and returns the place of its first."""
        place = len(self._ids)
        self._ids += batch.ids
        self._statuses += [f"{UNREADABLE}{reason}" if reason else OK for reason in batch.unreadable]
        return place

    def fill(self, places_r: Tensor, computed: SampleRows, group: Group) -> None:
        """Fills in what a group computed, at the places of its r samples."""
        samples = len(places_r)
        rows_rk, outcome = computed.rows[:samples].float().cpu(), group.outcome(computed.outputs[:samples].float()).cpu()
        finite = torch.isfinite(rows_rk).all(dim=1) & outcome.finite
        places = places_r[finite]
        self.rows[places] = rows_rk[finite]
        self._predictions[places], self._confidence[places] = outcome.predictions[finite], outcome.confidence[finite]
        self._norms[places] = torch.linalg.vector_norm(rows_rk[finite], dim=1, dtype=torch.float64).float()
        for place in places_r[~finite].tolist():
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
