"""The plan of an audit: everything that can be known before running. `mad plan` prints it; what cannot fit is refused.

Plans are made by `pipeline.planning.from_models` and `pipeline.planning.from_rows`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from infra.commits import CommitLog
from infra.storage.storage import Storage
from madcore import Layer, Projection, RerunCost, RowLayout, SideLayout
from madcore.reprojection import Reprojection
from pipeline.config.audit_config import AuditConfig
from pipeline.config.curvature import FACTORED
from pipeline.config.schema import ModelConfig
from pipeline.data.sources import Source
from pipeline.errors import CannotFit, ConfigError
from pipeline.inputs.model_inputs import ModelInputs
from pipeline.keys import key_of
from pipeline.planning.checks.limits import describe_misfit
from pipeline.planning.memory import ProjectedMemory
from pipeline.planning.probe.stored import ProbeArtifact
from pipeline.planning.recipe import EarlierRun, RowRecipe, count_labels, projection_of, samples_of
from pipeline.root.logs import Receipts, rows_log

CURVATURE_ROWS_FORMAT = 1


SNAPSHOT_BYTES, HELD_OUT_SAMPLES = 256 << 20, 256


@dataclass(frozen=True)
class RowTask:
    """Rows [start, stop) of one source file, for one model; the same task whichever split and spelling names the file.

    `labels_per_sample`: 0 for the samples' own rows; else the task is for curvature rows, one for each of so many
    labels of a sample.
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

    `recipe`: what its rows follow from, as the run records it. `sides`: the layouts that rows and their sides are
    used in: the recipe's, or, of stored rows, those of the chosen layers at the rank wanted; `reprojection`: how
    stored rows of a higher rank are read, None where they have that rank. `stored`: the earlier run whose rows are
    used as they are, None where rows are computed. `dropped`: ids of trusted samples that neither explain nor
    calibrate. `recomputed`: why rows that an earlier version stored are computed again, "" where none are.
    `undone`: how the weights were taken out of the file's wrappers and prefixes, "" where they were in none. `probe`:
    what planning found out about the model, where that can be used again. `from_shapes`: why the plan follows from
    shapes alone, "" where the model has been loaded; `weightless`: whether that is for want of weights.

    Where a method takes `labels`, that is the number of labels per sample of a `RowTask`.
    """

    config: ModelConfig
    source: bytes | None = field(repr=False)
    digest: str
    row_key: str
    recipe: RowRecipe
    sides: SideLayout
    refused_files: Mapping[str, str]
    memory: ProjectedMemory
    reprojection: Reprojection | None = None
    stored: EarlierRun | None = None
    dropped: tuple[str, ...] = ()
    recomputed: str = ""
    undone: str = ""
    probe: ProbeArtifact | None = None
    from_shapes: str = ""
    weightless: bool = False

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name

    @property
    def known(self) -> bool:
        """Whether the root knew the model, so that planning read no weights."""
        return self.probe is not None and self.probe.is_published

    @property
    def trusted(self) -> tuple[Source, ...]:
        """The files of the trusted set."""
        return self.recipe.trusted

    @property
    def audited(self) -> tuple[Source, ...]:
        """The files of the audited samples."""
        return self.recipe.audited

    @property
    def sampling(self) -> tuple[Source, ...]:
        """The files of the sampling set, none without loss traces."""
        return self.recipe.sampling

    @property
    def inputs(self) -> ModelInputs:
        """How samples are read and batched."""
        return self.recipe.inputs

    @property
    def classes(self) -> int:
        """The model's classes; 0 for a language model, whose outputs have none."""
        return self.recipe.classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by which labels are read; none where nobody says them."""
        return self.recipe.class_names

    @property
    def not_covered(self) -> Mapping[str, str]:
        """Chosen parameters that have no row, and why."""
        return self.recipe.not_covered

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers whose rows are used."""
        return self.recipe.layers_named(self.layout.names)

    @property
    def fallback(self) -> Mapping[str, RerunCost]:
        """Costs of those of the layers whose modules run again for each sample."""
        return {name: cost for name, cost in self.recipe.fallback.items() if name in self.layout.names}

    @property
    def projection(self) -> Projection:
        """The projection of its rows."""
        return projection_of(self.config)

    @property
    def layout(self) -> RowLayout:
        """The layout that rows are used in."""
        return self.sides.rows

    @property
    def row_reader(self) -> RowLayout | Reprojection:
        """How stored rows are read: by their layout, or, of a higher rank, by the re-projection to it."""
        return self.layout if self.reprojection is None else self.reprojection

    @property
    def sources(self) -> tuple[Source, ...]:
        """All files, each once: trusted ones first."""
        return _distinct((*self.trusted, *self.audited))

    @property
    def labels_per_sample(self) -> int:
        """Labels that each sample has a curvature row for; 0 where the curvature is fitted on the samples' own rows."""
        return count_labels(self.config, self.classes)

    @property
    def curvature_sources(self) -> tuple[Source, ...]:
        """All files whose samples need curvature rows, each once."""
        if not self.labels_per_sample:
            return ()
        return self.sources if self.config.curvature.transductive else _distinct(self.trusted)

    @property
    def curvature_rows_key(self) -> str:
        """The key of the curvature rows: independent of the damping, the same for both kinds of Kronecker factors."""
        curvature = self.config.curvature
        kind = "sides" if curvature.kind in FACTORED else curvature.kind
        return key_of(format=CURVATURE_ROWS_FORMAT, rows=self.row_key, kind=kind, seed=curvature.seed)

    def layout_of(self, labels: int) -> RowLayout:
        """The layout of the rows of a task."""
        return self.sides.stored if self._has_sides(labels) else self.layout

    def dtype_of(self, labels: int) -> Literal["float16", "float32"]:
        """The type of a task's rows at rest. Side numbers are sums of squares, too large for the range of float16."""
        if self.config.traced or self._has_sides(labels):
            return "float32"
        return self.config.gradient.rows_dtype

    def _has_sides(self, labels: int) -> bool:
        return bool(labels) and self.config.curvature.kind in FACTORED

    def tasks(self, source: Source, labels: int = 0) -> Iterator[RowTask]:
        """The tasks of one source, in order."""
        step = samples_of(self.recipe.rows_per_task, labels)
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
        labels = self.labels_per_sample
        own = sum(source.rows for source in self.sources) * self._bytes_of_row(0)
        return own + labels * sum(source.rows for source in self.curvature_sources) * self._bytes_of_row(labels)

    @property
    def snapshot_bytes(self) -> int:
        """Bytes at rest of all the weights that loss traces are taken at."""
        traced = self.config.traced
        return 4 * self.recipe.weights * traced.chains * len(traced.kept) if traced is not None else 0

    def number_bytes(self, labels: int) -> int:
        """Bytes of a row's numbers at rest."""
        return (2 if self.dtype_of(labels) == "float16" else 4) * self.layout_of(labels).k

    def _bytes_of_row(self, labels: int) -> int:
        """With the scales of its layers."""
        return self.number_bytes(labels) + 4 * len(self.layout_of(labels).sizes)


def _distinct(sources: Iterable[Source]) -> tuple[Source, ...]:
    return tuple({source.key: source for source in sources}.values())


@dataclass(frozen=True)
class Cost:
    """What a model's audit costs: seconds of workers by stage, bytes stored and read, and requests to the store."""

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
    """The plan of an audit: its models, why each other one cannot be audited, and what reviews say of samples, by id.

    `costs`: what models are expected to cost, none without `pipeline.operations.cost.estimate_costs`. `receipts`:
    those of stored rows that were read for the plan, by the folder of their commit log.
    """

    config: AuditConfig
    models: tuple[ModelPlan, ...]
    refused: Mapping[str, str]
    reviews: Mapping[str, str] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)
    receipts: Receipts = field(default_factory=dict, repr=False)

    @property
    def complete(self) -> bool:
        """Whether every model and every file of the config is in the plan."""
        return not self.refused and not any(model.refused_files or model.weightless for model in self.models)

    @property
    def misfits(self) -> dict[str, str]:
        """Models that cannot fit, and why."""
        granted = int(self.config.run.memory_per_worker)
        large = [model for model in self.models if model.memory.peak > granted]
        return {model.name: describe_misfit(model.config, model.memory, granted) for model in large}

    def fitting(self) -> "AuditPlan":
        """The plan of the models that fit and have weights, the others refused.

        Raises:
            CannotFit: none fits.
            ConfigError: none has weights.
        """
        without = {model.name: model.from_shapes for model in self.models if model.weightless}
        misfits = {name: reason for name, reason in self.misfits.items() if name not in without}
        unfit = {**without, **misfits}
        if len(unfit) == len(self.models):
            reasons = "; ".join(f"model {name}: {reason}" for name, reason in unfit.items())
            raise CannotFit(reasons) if misfits else ConfigError(reasons)
        models = tuple(model for model in self.models if model.name not in unfit)
        return replace(self, models=models, refused={**self.refused, **unfit})


def row_task_log(storage: Storage, plan: ModelPlan, source: Source, labels: int) -> CommitLog:
    """Where rows of a source are committed: the samples' own, or, with `labels`, its curvature rows."""
    return rows_log(storage, plan.name, plan.curvature_rows_key if labels else plan.row_key, source.key)
