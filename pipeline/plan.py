"""The plan: everything that can be known before running, printed by `mad plan` and refused if it cannot fit. It writes nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Literal

from pydantic import JsonValue

from infra.computing import compute
from infra.errors import StorageError
from madcore import Layer, MadcoreError, Projection, RerunCost, RowLayout, SideLayout
from madcore.calibration import calibration_size, check_target, smallest_certified_group
from madcore.rerun import CHUNK_BYTES
from pipeline.artifacts.layout import check_root, root_storage
from pipeline.config import AuditConfig
from pipeline.errors import CannotFit, ConfigError, SourceError
from pipeline.inputs import BATCH_MULTIPLE, ImageInputs, ModelInputs
from pipeline.keys import key_of
from pipeline.memory import PROCESS_BYTES, ProjectedMemory, Shapes, project_memory
from pipeline.probes import Probed, probe, projection_of
from pipeline.schema import FACTORED, ModelConfig
from pipeline.sources.datasets import INPUTS, Source, find_sources, read_ids

ROWS_FORMAT, FITTED_FORMAT, SNAPSHOTS_FORMAT = 1, 1, 1
SNAPSHOT_BYTES = 256 << 20


@dataclass(frozen=True)
class RowTask:
    """Rows [start, stop) of one source file, for one model; the same task whichever split and spelling names the file.

    `draws`: 0 for the samples' own rows; else for those that the curvature is fitted on, so many a sample.
    """

    model: str
    source_key: str
    start: int
    stop: int
    source: Source = field(compare=False)
    draws: int = 0

    @property
    def name(self) -> str:
        """The task's name in its commit log."""
        return f"{self.start:012d}-{self.stop:012d}"


@dataclass(frozen=True)
class ModelPlan:
    """What will be done for one model. `classes` is 0 for a language model, whose outputs have none; `weights` is how many numbers it is made of."""

    config: ModelConfig
    source: bytes | None = field(repr=False)
    digest: str
    row_key: str
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
    def sources(self) -> tuple[Source, ...]:
        """All files, each once: trusted ones first."""
        return tuple({source.key: source for source in (*self.trusted, *self.audited)}.values())

    @property
    def draws(self) -> int:
        """How many rows a sample has that the curvature is fitted on; 0 where it is fitted on the samples' own rows."""
        return draws_of(self.config, self.classes)

    @property
    def fitted(self) -> tuple[Source, ...]:
        """All files of whose samples the curvature needs rows of its own, each once."""
        sources = self.sources if self.config.curvature.transductive else self.trusted
        return tuple({source.key: source for source in sources}.values()) if self.draws else ()

    @property
    def fitted_key(self) -> str:
        """The key of those rows; a changed damping leaves it as it is, and both curvatures of Kronecker factors share theirs."""
        curvature = self.config.curvature
        kind = "sides" if curvature.kind in FACTORED else curvature.kind
        return key_of(format=FITTED_FORMAT, rows=self.row_key, kind=kind, seed=curvature.seed)

    @property
    def snapshots_key(self) -> str:
        """The key of the weights that traces are taken at."""
        return key_of(format=SNAPSHOTS_FORMAT, rows=self.row_key)

    def layout_of(self, draws: int) -> RowLayout:
        """The layout of the rows of a task."""
        return self.sides.stored if draws and self.config.curvature.kind in FACTORED else self.layout

    def dtype_of(self, draws: int) -> Literal["float16", "float32"]:
        """What the rows of a task are at rest. Side numbers are sums of squares, of which float16 has too small a range."""
        return "float32" if draws and self.config.curvature.kind in FACTORED else "float32" if self.config.traced else self.config.gradient.rows_dtype

    def tasks(self, source: Source, draws: int = 0) -> Iterator[RowTask]:
        """The tasks of one source, in order."""
        step = samples_of(self.rows_per_task, draws)
        for start in range(0, source.rows, step):
            yield RowTask(self.name, source.key, start, min(start + step, source.rows), source, draws)

    @property
    def row_tasks(self) -> tuple[RowTask, ...]:
        """All tasks of the gradients stage."""
        own = (task for source in self.sources for task in self.tasks(source))
        return (*own, *(task for source in self.fitted for task in self.tasks(source, self.draws)))

    @property
    def row_bytes(self) -> int:
        """Bytes of all rows at rest."""
        own, fitted = (sum(source.rows for source in sources) for sources in (self.sources, self.fitted))
        return own * self._bytes_of_row(0) + self.draws * fitted * self._bytes_of_row(self.draws)

    def _bytes_of_row(self, draws: int) -> int:
        layout = self.layout_of(draws)
        return (2 if self.dtype_of(draws) == "float16" else 4) * layout.k + 4 * len(layout.sizes)


def draws_of(model: ModelConfig, classes: int) -> int:
    """How many rows a sample of the model has that its curvature is fitted on, beside its own (see `madcore.likelihood`)."""
    return {"ggn": classes, "fisher": 1, "kfac": 1, "ekfac": 1}.get(model.curvature.kind, 0)


def samples_of(rows: int, draws: int) -> int:
    """How many samples have so many rows, `draws` each: a multiple of BATCH_MULTIPLE, to which batches would be filled up."""
    return rows if draws <= 1 else max(1, rows // (draws * BATCH_MULTIPLE)) * BATCH_MULTIPLE


@dataclass(frozen=True)
class AuditPlan:
    """The plan of an audit: its models, and why each other model of the config cannot be audited."""

    config: AuditConfig
    models: tuple[ModelPlan, ...]
    refused: Mapping[str, str]

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


def plan_audit(config: AuditConfig) -> AuditPlan:
    """Loads every model once, checks its layers against autograd, reads the schemas of all files, and writes nothing.

    Raises:
        ConfigError: no model is left to run; with every reason.
        RootError: the root is not one.
    """
    check_root(root_storage(config.root))
    models, refused = [], {}
    for model in config.models:
        try:
            models.append(_plan_model(config, model))
        except (SourceError, StorageError, MadcoreError) as error:
            refused[model.name] = str(error)
    if not models:
        raise ConfigError("; ".join(f"model {name}: {reason}" for name, reason in refused.items()))
    return AuditPlan(config, tuple(models), refused)


def _plan_model(config: AuditConfig, model: ModelConfig) -> ModelPlan:
    trusted, trusted_refused = find_sources(config, model, "trusted")
    if trusted_refused:
        raise SourceError("; ".join(trusted_refused.values()))
    audited, refused_files = find_sources(config, model, "audited")
    sampling = _find_sampling(config, model, trusted)
    samples = _check_trusted(model, trusted)
    probed = compute(probe, config, model, trusted)
    layout, rows = probed.sides.rows, max(source.rows for source in (*trusted, *audited))
    draws, reference = draws_of(model, probed.classes), samples - calibration_size(samples, model.calibration.fraction)
    fitted = samples + sum(source.rows for source in audited) if model.curvature.transductive else reference
    shapes = Shapes(
        layout=layout,
        widest=max(layout.k, probed.sides.stored.k) if model.curvature.kind in FACTORED else layout.k,
        model_bytes=probed.model_bytes,
        sample_bytes=probed.sample_bytes,
        kept_bytes=probed.kept_bytes,
        at_once=probed.at_once,
        task_rows=max(min(config.run.rows_per_task, rows * max(1, draws)), BATCH_MULTIPLE * draws),
        batch=max(min(config.run.batch_size, rows * max(1, draws)), BATCH_MULTIPLE * max(0, draws - 1)),
        reference=reference,
        classes=probed.classes,
        moments=_moments(model, probed, max(1, draws) * fitted),
        judged=sum(source.rows for source in audited if "anomalous" in source.truth),
        besides=_besides(config, model, probed, sampling, rows),
    )
    if model.traced is not None:
        shapes = replace(shapes, batch=max(shapes.batch, model.traced.batch))
    inputs, shapes = _batched(probed, shapes, int(config.run.memory_per_worker))
    return ModelPlan(
        config=model,
        source=probed.source,
        digest=probed.digest,
        row_key=_row_key(model, probed, layout, sampling),
        layers=probed.coverage.covered,
        sides=probed.sides,
        fallback=probed.fallback,
        not_covered=probed.coverage.not_covered,
        classes=probed.classes,
        inputs=inputs,
        trusted=tuple(trusted),
        audited=tuple(audited),
        sampling=tuple(sampling),
        weights=probed.weights,
        refused_files=refused_files,
        rows_per_task=config.run.rows_per_task,
        memory=project_memory(shapes),
    )


def _find_sampling(config: AuditConfig, model: ModelConfig, trusted: list[Source]) -> list[Source]:
    """The files of the sampling set, none unless traces are asked for; refuses samples that are trusted too, by their ids."""
    if model.traced is None:
        return []
    sampling, refused = find_sources(config, model, "sampling")
    if refused:
        raise SourceError("; ".join(refused.values()))
    known = {name for source in trusted for ids in read_ids(source) for name in ids if name is not None}
    shared = [name for source in sampling for ids in read_ids(source) for name in ids if name in known]
    if shared:
        shown = ", ".join(repr(name) for name in shared[:3])
        raise SourceError(
            f"estimator.sampling: {len(shared):,} of {sum(source.rows for source in sampling):,} samples have an id that is trusted too ({shown}); weights "
            "sampled on trusted samples would explain them better than others: name files of other clean samples"
        )
    return sampling


def _besides(config: AuditConfig, model: ModelConfig, probed: Probed, sampling: list[Source], rows: int) -> int:
    """What rows need beside their batches (see `Shapes`)."""
    if model.traced is None:
        return 3 * max((max(CHUNK_BYTES, cost.gradient_bytes) for cost in probed.fallback.values()), default=0)
    kept = min(SNAPSHOT_BYTES, 4 * probed.weights * len(model.traced.kept)) + 4 * probed.weights
    held = max(sum(source.rows for source in sampling), min(config.run.rows_per_task, rows))
    return 8 * 4 * probed.weights + 3 * kept + 2 * held * probed.kept_bytes


def _moments(model: ModelConfig, probed: Probed, rows: int) -> tuple[int, ...]:
    """How many numbers a layer's moment has, of so many rows that the curvature is fitted on (see `madcore.curvature`)."""
    if model.curvature.kind == "identity":
        return ()
    factored = probed.sides.kept if model.curvature.kind in FACTORED else (None,) * len(probed.sides.kept)
    pairs = zip(probed.sides.rows.sizes, factored, strict=True)
    return tuple(min(rows, size) * size if sides is None else sides[0] ** 2 + sides[1] ** 2 + size for size, sides in pairs)


def _batched(probed: Probed, shapes: Shapes, granted: int) -> tuple[ModelInputs, Shapes]:
    """How many samples go through the model at once: of images, a batch filled up; of texts, what the memory granted is enough for.

    Audited texts can be longer than any trusted one, and no plan can know without reading them. So a batch of texts has memory
    instead of a number of samples, and the texts are taken in as many groups as that takes.
    """
    if isinstance(probed.inputs, ImageInputs):
        return probed.inputs, replace(shapes, batch=max(BATCH_MULTIPLE, shapes.batch))
    room = granted - project_memory(replace(shapes, batch=0)).gradients
    fitting = max(1, min(shapes.batch, room // (shapes.sample_bytes + 3 * 4 * shapes.layout.k)))
    return replace(probed.inputs, batch_bytes=max(room, 0)), replace(shapes, batch=fitting)


def _check_trusted(model: ModelConfig, trusted: list[Source]) -> int:
    """Refuses repeated ids and a target out of reach; returns the number of trusted samples."""
    seen: set[str] = set()
    repeated: list[str] = []
    for name in chain.from_iterable(ids for source in trusted for ids in read_ids(source)):
        if name is not None and name in seen:
            repeated.append(name)
        elif name is not None:
            seen.add(name)
    if repeated:
        shown = ", ".join(repr(name) for name in repeated[:3])
        raise SourceError(f"data.trusted: {len(repeated)} repeated ids among {len(seen) + len(repeated):,} samples ({shown}); the split needs each id once")
    samples = sum(source.rows for source in trusted)
    calibration = calibration_size(samples, model.calibration.fraction)
    try:
        check_target(model.calibration.target.level, calibration, samples)
    except MadcoreError as error:
        raise SourceError(f"calibration: {error}; add trusted samples, or raise calibration.fraction ({model.calibration.fraction:g}) or the target") from error
    return samples


def _row_key(model: ModelConfig, probed: Probed, layout: RowLayout, sampling: list[Source]) -> str:
    columns = model.data.columns
    more: dict[str, JsonValue] = {"sampling": [source.key for source in sampling], "label": columns.label} if sampling else {}
    if isinstance(probed.inputs, ImageInputs):
        more |= {"preprocess": model.data.preprocess.model_dump(mode="json"), "input_size": list(probed.inputs.size)}
    return key_of(
        format=ROWS_FORMAT,
        model=probed.digest,
        task=model.task,
        columns={role: getattr(columns, role) for role in ("id", *INPUTS[model.task])},
        estimator=model.estimator.model_dump(mode="json", exclude={"sampling"}),
        layers=list(layout.names),
        **more,
    )


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
    return "lower run.rows_per_task, or use shorter trusted texts" if model.is_text else "lower run.batch_size or run.rows_per_task"


def certifiable(plan: ModelPlan) -> int | None:
    """For an fdr target, the fewest samples it can flag, if any; None for an fpr target."""
    level = plan.config.calibration.target.fdr
    if level is None:
        return None
    calibration = calibration_size(sum(source.rows for source in plan.trusted), plan.config.calibration.fraction)
    return smallest_certified_group(level, calibration, sum(source.rows for source in plan.audited))
