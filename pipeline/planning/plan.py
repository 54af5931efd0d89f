"""The plan of an audit: everything that can be known before running, printed by `mad plan` and refused if it cannot fit (made by `pipeline.planning`)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from infra.commits import CommitLog
from infra.storage.storage import Storage
from madcore import Layer, MadcoreError, Projection, RerunCost, RowLayout, SideLayout
from madcore.reprojection import Reprojection
from madcore.scoring.calibration import calibration_size, check_target, smallest_certified_group
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import FACTORED, ModelConfig, projection_of
from pipeline.data.batches import BATCH_MULTIPLE, ModelInputs
from pipeline.data.sources import Source
from pipeline.errors import CannotFit, SourceError
from pipeline.keys import key_of
from pipeline.planning.memory import PROCESS_BYTES, ProjectedMemory
from pipeline.planning.recipe import EarlierRun
from pipeline.root.logs import rows_log


def check_samples(model: ModelConfig, samples: int) -> None:
    """Refuses a target that so many trusted samples put out of reach.

    Raises:
        SourceError: they do.
    """
    calibration = calibration_size(samples, model.calibration.fraction)
    try:
        check_target(model.calibration.target.level, calibration, samples)
    except MadcoreError as error:
        raise SourceError(
            f"calibration: {error}; add trusted samples, or raise calibration.fraction ({model.calibration.fraction:g}) or the target"
        ) from error


ROWS_FORMAT, CURVATURE_ROWS_FORMAT, SNAPSHOTS_FORMAT = 1, 1, 1


SNAPSHOT_BYTES, HELD_OUT_SAMPLES = 256 << 20, 256


@dataclass(frozen=True)
class RowTask:
    """Rows [start, stop) of one source file, for one model; the same task whichever split and spelling names the file.

    `labels_per_sample`: 0 for the samples' own rows; else for those that the curvature is fitted on, so many a sample.
    """

    model: str
    source_key: str
    start: int
    stop: int
    source: Source = field(compare=False)
    labels_per_sample: int = 0

    @property
    def name(self) -> str:
        """The task's name in its commit log."""
        return f"{self.start:012d}-{self.stop:012d}"


@dataclass(frozen=True)
class ModelPlan:
    """What will be done for one model.

    `snapshots_key` is that of the weights that traces are taken at. `classes` is 0 for a language model, whose outputs have none; `weights` is
    how many numbers the model is made of. `stored`: the earlier run whose rows are used as they are, None where they are computed;
    `dropped` are ids of trusted samples that neither explain nor calibrate; `reprojection` is how stored rows of a higher rank are read.
    """

    config: ModelConfig
    source: bytes | None = field(repr=False)
    digest: str
    row_key: str
    snapshots_key: str
    layers: tuple[Layer, ...]
    sides: SideLayout
    fallback: Mapping[str, RerunCost]
    not_covered: Mapping[str, str]
    classes: int
    inputs: ModelInputs
    trusted: tuple[Source, ...]
    audited: tuple[Source, ...]
    sampling: tuple[Source, ...]
    refused_files: Mapping[str, str]
    weights: int
    rows_per_task: int
    memory: ProjectedMemory
    stored: EarlierRun | None = None
    dropped: tuple[str, ...] = ()
    reprojection: Reprojection | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name

    @property
    def projection(self) -> Projection:
        """The projection of its rows."""
        return projection_of(self.config)

    @property
    def layout(self) -> RowLayout:
        """The layout of its rows."""
        return self.sides.rows

    @property
    def row_reader(self) -> RowLayout | Reprojection:
        """How its rows are read: by their layout, or, of stored rows of a higher rank, by the re-projection to it."""
        return self.layout if self.reprojection is None else self.reprojection

    @property
    def sources(self) -> tuple[Source, ...]:
        """All files, each once: trusted ones first."""
        return tuple({source.key: source for source in (*self.trusted, *self.audited)}.values())

    @property
    def labels_per_sample(self) -> int:
        """How many rows a sample has that the curvature is fitted on; 0 where it is fitted on the samples' own rows."""
        return count_labels(self.config, self.classes)

    @property
    def curvature_sources(self) -> tuple[Source, ...]:
        """All files of whose samples the curvature needs rows of its own, each once."""
        sources = self.sources if self.config.curvature.transductive else self.trusted
        return tuple({source.key: source for source in sources}.values()) if self.labels_per_sample else ()

    @property
    def curvature_rows_key(self) -> str:
        """The key of those rows; a changed damping leaves it as it is, and both curvatures of Kronecker factors share theirs."""
        curvature = self.config.curvature
        kind = "sides" if curvature.kind in FACTORED else curvature.kind
        return key_of(format=CURVATURE_ROWS_FORMAT, rows=self.row_key, kind=kind, seed=curvature.seed)

    def layout_of(self, labels: int) -> RowLayout:
        """The layout of the rows of a task."""
        return self.sides.stored if labels and self.config.curvature.kind in FACTORED else self.layout

    def dtype_of(self, labels: int) -> Literal["float16", "float32"]:
        """What the rows of a task are at rest. Side numbers are sums of squares, of which float16 has too small a range."""
        return (
            "float32"
            if labels and self.config.curvature.kind in FACTORED
            else "float32"
            if self.config.traced
            else self.config.gradient.rows_dtype
        )

    def tasks(self, source: Source, labels: int = 0) -> Iterator[RowTask]:
        """The tasks of one source, in order."""
        step = samples_of(self.rows_per_task, labels)
        for start in range(0, source.rows, step):
            yield RowTask(self.name, source.key, start, min(start + step, source.rows), source, labels)

    @property
    def row_tasks(self) -> tuple[RowTask, ...]:
        """All tasks of the gradients stage."""
        return (*self.tasks_of(self.sources), *self.tasks_of(self.curvature_sources, self.labels_per_sample))

    def tasks_of(self, sources: Iterable[Source], labels: int = 0) -> tuple[RowTask, ...]:
        """The tasks of several sources, in order."""
        return tuple(task for source in sources for task in self.tasks(source, labels))

    @property
    def row_bytes(self) -> int:
        """Bytes of all rows at rest."""
        own, fitted = (sum(source.rows for source in sources) for sources in (self.sources, self.curvature_sources))
        return own * self._bytes_of_row(0) + self.labels_per_sample * fitted * self._bytes_of_row(
            self.labels_per_sample
        )

    @property
    def snapshot_bytes(self) -> int:
        """Bytes of all weights at rest that traces are taken at."""
        traced = self.config.traced
        return 4 * self.weights * traced.chains * len(traced.kept) if traced is not None else 0

    def number_bytes(self, labels: int) -> int:
        """Bytes of a row's numbers at rest."""
        return (2 if self.dtype_of(labels) == "float16" else 4) * self.layout_of(labels).k

    def _bytes_of_row(self, labels: int) -> int:
        return self.number_bytes(labels) + 4 * len(self.layout_of(labels).sizes)


def count_labels(model: ModelConfig, classes: int) -> int:
    """How many rows a sample of the model has that its curvature is fitted on, beside its own (see `madcore.extraction.likelihood`)."""
    return {"ggn": classes, "fisher": 1, "kfac": 1, "ekfac": 1}.get(model.curvature.kind, 0)


def samples_of(rows: int, labels: int) -> int:
    """How many samples have so many rows, `labels_per_sample` each: a multiple of BATCH_MULTIPLE, to which batches would be filled up."""
    return rows if labels <= 1 else max(1, rows // (labels * BATCH_MULTIPLE)) * BATCH_MULTIPLE


@dataclass(frozen=True)
class Cost:
    """What a model's audit costs: seconds of workers by stage, bytes that are stored and read, and requests to the store."""

    seconds: Mapping[str, float]
    bytes_stored: int
    bytes_read: int
    requests: int

    @property
    def worker_hours(self) -> float:
        """Hours of one worker, all stages together."""
        return sum(self.seconds.values()) / 3600


@dataclass(frozen=True)
class AuditPlan:
    """The plan of an audit: its models, why each other model of the config cannot be audited, and what reviews said of samples, by id.

    `costs` are what models are expected to cost, none unless `pipeline.operations.cost.estimated` was asked.
    """

    config: AuditConfig
    models: tuple[ModelPlan, ...]
    refused: Mapping[str, str]
    reviews: Mapping[str, str] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every model and every file of the config is in the plan."""
        return not self.refused and not any(model.refused_files for model in self.models)

    @property
    def misfits(self) -> dict[str, str]:
        """Models that cannot fit, and why."""
        granted = int(self.config.run.memory_per_worker)
        return {model.name: _does_not_fit(model, granted) for model in self.models if model.memory.peak > granted}

    def fitting(self) -> "AuditPlan":
        """The plan of the models that fit, the others refused.

        Raises:
            CannotFit: none does.
        """
        misfits = self.misfits
        if len(misfits) == len(self.models):
            raise CannotFit("; ".join(f"model {name}: {reason}" for name, reason in misfits.items()))
        models = tuple(model for model in self.models if model.name not in misfits)
        return replace(self, models=models, refused={**self.refused, **misfits})


def _does_not_fit(plan: ModelPlan, granted: int) -> str:
    needs = asdict(plan.memory)
    remedies = {
        "gradients": _remedy_of_rows(plan.config),
        "curvature": "lower estimator.draws" if plan.config.traced else "lower estimator.projection.rank",
        "scoring": f"lower {'estimator.draws' if plan.config.traced else 'estimator.projection.rank'}, or use fewer trusted samples",
        "reporting": "audit fewer samples at once, or set data.columns.anomalous: null",
    }
    worst = max(needs, key=lambda stage: needs[stage])
    return (
        f"the stage {worst} would need {needs[worst] / 2**30:.2f} GiB a worker, run.memory_per_worker grants "
        f"{granted / 2**30:.2f} GiB ({PROCESS_BYTES / 2**30:.2f} GiB of it for Python and torch alone); {remedies[worst]}, or grant more"
    )


def _remedy_of_rows(model: ModelConfig) -> str:
    if model.traced is not None:
        return "lower estimator.batch, run.batch_size or run.rows_per_task"
    return (
        "lower run.rows_per_task, or use shorter trusted texts"
        if model.is_text
        else "lower run.batch_size or run.rows_per_task"
    )


def certifiable(plan: ModelPlan) -> int | None:
    """For an fdr target, the fewest samples it can flag, if any; None for an fpr target."""
    level = plan.config.calibration.target.fdr
    if level is None:
        return None
    calibration = calibration_size(sum(source.rows for source in plan.trusted), plan.config.calibration.fraction)
    return smallest_certified_group(level, calibration, sum(source.rows for source in plan.audited))


def row_task_log(storage: Storage, plan: ModelPlan, source: Source, labels: int) -> CommitLog:
    """Where rows of a source are committed: the samples' own, or with `labels_per_sample` those that the curvature is fitted on."""
    return rows_log(storage, plan.name, plan.curvature_rows_key if labels else plan.row_key, source.key)
