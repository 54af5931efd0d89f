"""Stage 1: rows of trusted and audited samples. A task is a row range of one source file, whichever split it belongs to."""

from dataclasses import dataclass

import torch
from torch import Tensor

from infra.commits import Measures, Receipt
from infra.events import Stopwatch, peak_memory_bytes
from infra.storage import Storage
from madcore import RowExtractor, margin
from madcore.measurements import predictions_and_confidence
from pipeline.artifacts.logs import rows_log
from pipeline.artifacts.rows import NONFINITE, OK, SampleColumns, encode_rows
from pipeline.config import AuditConfig
from pipeline.errors import StageError
from pipeline.plan import ModelPlan, RowTask
from pipeline.sources.datasets import ImageBatch, Reading, read_images
from pipeline.sources.images import scaled
from pipeline.sources.models import load_model

UNREADABLE = "unreadable: "
BATCH_MULTIPLE = 8
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
        reading = Reading(self._config.run.batch_size, plan.input_size, resize=plan.config.data.preprocess.size is not None)
        for batch in read_images(rows.source, rows.start, rows.stop, reading):
            collected.add(batch, *self._rows(extractor, batch, plan))
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
            extractor = RowExtractor(loaded.module.to(self._device), plan.layers, plan.projection, margin)
            self._loaded = (plan.name, extractor)
        return self._loaded[1]

    def _rows(self, extractor: RowExtractor, batch: ImageBatch, plan: ModelPlan) -> tuple[Tensor, Tensor]:
        """Rows and logits, on the CPU, of the readable images of a batch."""
        if not len(batch.pixels):
            return torch.zeros(0, plan.layout.k), torch.zeros(0, plan.classes)
        inputs = aligned(torch.from_numpy(scaled(batch.pixels, plan.config.data.preprocess))).to(self._device)
        computed = extractor(inputs, PRECISIONS[plan.config.estimator.precision])
        samples = len(batch.pixels)
        return computed.rows[:samples].cpu(), computed.outputs[:samples].float().cpu()


def aligned(inputs: Tensor) -> Tensor:
    """Inputs (n, ...), n at least 1, with the first one repeated until n is a multiple of BATCH_MULTIPLE.

    Kernels add in another order for batches of one or of odd sizes. A last-bit difference can open or close a rectifier, which
    moved one row in 200 by up to 0.4 % of its norm between batches of 1 and 256 (zoo networks, CPU); aligned, they were equal.
    """
    missing = -len(inputs) % BATCH_MULTIPLE
    return torch.cat([inputs, inputs[:1].expand(missing, *inputs.shape[1:])]) if missing else inputs


class _Collected:
    """A task's results, in the order of its rows; a row without a result stays 0."""

    def __init__(self, k: int, rows: int):
        self.rows = torch.zeros(rows, k)
        self._predictions = torch.full((rows,), -1, dtype=torch.int64)
        self._confidence, self._norms = torch.zeros(rows), torch.zeros(rows)
        self._ids: list[str] = []
        self._statuses: list[str] = []

    def add(self, batch: ImageBatch, rows_rk: Tensor, logits_rc: Tensor) -> None:
        """Adds a batch: its readable samples' rows and logits."""
        offset = len(self._ids)
        readable = torch.tensor([index for index, reason in enumerate(batch.unreadable) if not reason], dtype=torch.int64)
        finite = torch.isfinite(rows_rk).all(dim=1) & torch.isfinite(logits_rc).all(dim=1)
        places = offset + readable[finite]
        predictions, confidence = predictions_and_confidence(logits_rc[finite])
        self.rows[places] = rows_rk[finite].float()
        self._predictions[places], self._confidence[places] = predictions, confidence
        self._norms[places] = torch.linalg.vector_norm(rows_rk[finite], dim=1, dtype=torch.float64).float()
        statuses = [f"{UNREADABLE}{reason}" if reason else OK for reason in batch.unreadable]
        for index in readable[~finite].tolist():
            statuses[index] = NONFINITE
        self._ids += batch.ids
        self._statuses += statuses

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
