"""Plans from stored rows, for rescoring and sweeps: what must be in the root, checked against the config."""

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import replace

from infra.commits import CommitLog, Receipt
from infra.errors import Changed, StorageError
from infra.storage.pins import PinnedInput
from infra.storage.storage import Storage
from madcore import MadcoreError, SideLayout
from madcore.reprojection import Reprojection
from pipeline.artifacts.parts import RowsPart
from pipeline.artifacts.samples import read_samples
from pipeline.config.audit_config import AuditConfig
from pipeline.config.curvature import FACTORED
from pipeline.config.schema import ModelConfig
from pipeline.data.sources import Source
from pipeline.errors import ConfigError, SourceError
from pipeline.planning.chains import chain_log, segments
from pipeline.planning.checks.limits import check_samples
from pipeline.planning.earlier_runs.rows import (
    EarlierRows,
    chosen_layers,
    find_earlier_run,
    find_rows,
    find_rows_of_rank,
)
from pipeline.planning.memory import ProjectedMemory, project_memory, shapes_of_rows
from pipeline.planning.plan import AuditPlan, ModelPlan, RowTask, row_task_log
from pipeline.planning.recipe import projection_of
from pipeline.root.logs import NO_RECEIPTS, Receipts, read_receipts
from pipeline.root.mark import open_root, root_storage

NO_IDS: frozenset[str] = frozenset()


Find = Callable[[Storage, ModelConfig], EarlierRows]


def plan_rescore(config: AuditConfig, drop: Set[str] = NO_IDS) -> AuditPlan:
    """A plan on the rows that the latest completed run of each model stored; loads no model and writes nothing.

    Args:
        config: with any curvature, score and calibration, and with `estimator.layers` that choose among the stored
            ones. All else of a model must be as it was when its rows were stored.
        drop: ids of trusted samples to leave out.

    Raises:
        RootError: the config's root is not one.
        ConfigError: no model is left to run, with every reason; or an id to drop is not in the trusted set.
    """
    return _plan(config, drop, find_rows, NO_RECEIPTS)


def plan_point(config: AuditConfig, known: Receipts = NO_RECEIPTS) -> AuditPlan:
    """Like `plan_rescore`, for a point of a sweep: `estimator.projection.rank` may also be below the stored one.

    Rows are then re-projected as they are read, which is not an approximation (see `madcore.reprojection`); what is at
    rest was rounded at the stored rank, so the figures equal those of a run up to that rounding, not byte for byte.

    Args:
        config: of the point.
        known: receipts that were read for other points.
    """
    return _plan(config, NO_IDS, find_rows_of_rank, known)


def _plan(config: AuditConfig, drop: Set[str], find: Find, known: Receipts) -> AuditPlan:
    storage = root_storage(config.root)
    open_root(storage)
    on_cpus = config.run.model_copy(update={"gpus_per_worker": 0})  # no model has to compute on a GPU
    config = config.model_copy(update={"run": on_cpus})
    models, refused, receipts = list[ModelPlan](), dict[str, str](), dict[str, Mapping[str, Receipt]]()
    for model in config.models:
        try:
            plan = _plan_model(storage, model, find(storage, model))
            own = read_receipts({log.folder: log for log in _logs(storage, plan)}, known)
            receipts |= own
            models.append(_check_stored(storage, plan, own, drop))
        except (SourceError, StorageError, MadcoreError) as error:
            refused[model.name] = str(error)
    if not models:
        raise ConfigError("; ".join(f"model {name}: {reason}" for name, reason in refused.items()))
    unknown = sorted(drop - {name for model in models for name in model.dropped})
    if unknown and not refused:
        shown = ", ".join(repr(name) for name in unknown[:3])
        raise ConfigError(
            f"{len(unknown):,} of {len(drop):,} ids to drop are of no trusted sample ({shown}); "
            "check the file, or the column of ids in it"
        )
    return AuditPlan(config, tuple(models), refused, receipts=receipts)


def _plan_model(storage: Storage, model: ModelConfig, found: EarlierRows) -> ModelPlan:
    recipe, names = found.recipe, chosen_layers(model, found.recipe)
    sides, reprojection = recipe.sides.of_layers(names), None
    if model.traced is None and model.gradient.projection.rank != found.config.gradient.projection.rank:
        reprojection = _reprojection(model, found, names)
        sides = _of_rank(sides, reprojection)
    return ModelPlan(
        config=model,
        source=None,
        digest=found.entry.digest,
        row_key=found.entry.row_key,
        recipe=recipe,
        sides=sides,
        refused_files={},
        memory=ProjectedMemory(0, 0, 0, 0),
        reprojection=reprojection,
        stored=find_earlier_run(storage, model.name, found.run_id),
    )


def _reprojection(model: ModelConfig, found: EarlierRows, names: tuple[str, ...]) -> Reprojection:
    """The re-projection of stored rows of these layers to the rank of the config.

    Raises:
        SourceError, MadcoreError: there is none.
    """
    rank, projection = model.gradient.projection.rank, projection_of(found.config)
    reprojection = Reprojection.of(found.recipe.layers_named(names), projection, rank)
    if model.curvature.kind in FACTORED:
        raise SourceError(
            f"curvature.kind: {model.curvature.kind} is fitted on the moments of layers' sides, which are stored at "
            f"rank {projection.rank} and are not re-projected to rank {rank}; `mad run` with "
            f"estimator.projection.rank: {rank} stores them at that rank"
        )
    return reprojection


def _of_rank(sides: SideLayout, reprojection: Reprojection) -> SideLayout:
    rank = reprojection.rank
    kept = tuple(None if one is None else (min(one[0], rank), min(one[1], rank)) for one in sides.kept)
    return SideLayout(reprojection.layout, kept)


def _logs(storage: Storage, plan: ModelPlan) -> Iterator[CommitLog]:
    """The commit logs that must be complete: of the trusted samples' rows, of curvature rows, and of chains."""
    yield from (row_task_log(storage, plan, source, 0) for source in plan.trusted)
    yield from (row_task_log(storage, plan, source, plan.labels_per_sample) for source in plan.curvature_sources)
    if plan.config.traced is not None:
        yield from (chain_log(storage, plan, chain) for chain in range(plan.config.traced.chains))


def _check_stored(storage: Storage, plan: ModelPlan, receipts: Receipts, drop: Set[str]) -> ModelPlan:
    """The plan without the samples to drop, and with its memory.

    Raises:
        SourceError: rows, weights or truth that it needs are not stored, or the trusted samples are too few for the
        target.
    """
    for source in plan.trusted:
        missing = _missing(storage, plan, source, receipts)
        if missing:
            raise SourceError(
                f"{len(missing):,} tasks of rows of {source.file.name} are not stored any more; `mad run` computes them"
            )
    if any(_missing(storage, plan, source, receipts, plan.labels_per_sample) for source in plan.curvature_sources):
        raise SourceError(_no_curvature_rows(plan))
    _check_chains(storage, plan, receipts)
    _check_truth(plan)
    dropped = tuple(sorted(_trusted_ids(storage, plan, receipts) & drop)) if drop else ()
    samples = sum(source.rows for source in plan.trusted) - len(dropped)
    check_samples(plan.config, samples)
    shapes = shapes_of_rows(plan.config, plan.recipe, plan.sides, samples)
    shapes = replace(shapes, reprojected=plan.reprojection.stored.k if plan.reprojection is not None else 0)
    return replace(plan, dropped=dropped, memory=project_memory(shapes))


def _missing(storage: Storage, plan: ModelPlan, source: Source, receipts: Receipts, labels: int = 0) -> list[RowTask]:
    """The tasks of a source that have no receipt."""
    done = receipts[row_task_log(storage, plan, source, labels).folder]
    return [task for task in plan.tasks(source, labels) if task.name not in done]


def _trusted_ids(storage: Storage, plan: ModelPlan, receipts: Receipts) -> set[str]:
    """The ids of the trusted samples, as they are stored with their rows."""
    found = set[str]()
    for source in plan.trusted:
        log = row_task_log(storage, plan, source, 0)
        for task in plan.tasks(source):
            part = RowsPart.of(log, receipts[log.folder][task.name], source.file.name)
            found.update(read_samples(storage, part).ids)
    return found


def _check_chains(storage: Storage, plan: ModelPlan, receipts: Receipts) -> None:
    settings = plan.config.traced
    for chain in range(settings.chains) if settings is not None else ():
        done = receipts[chain_log(storage, plan, chain).folder]
        if settings is not None and any(segment.name not in done for segment in segments(plan, settings)):
            raise SourceError(f"the weights of chain {chain} are not stored any more; `mad run` samples them")


def _no_curvature_rows(plan: ModelPlan) -> str:
    curvature, run_id = plan.config.curvature, plan.stored.run_id if plan.stored is not None else ""
    inputs = "gradients at labels other than the samples' own"
    if curvature.kind in FACTORED:
        inputs = "the moments of layers' sides"
    samples = "trusted and audited samples" if curvature.transductive else "trusted samples"
    return (
        f"curvature.kind: {curvature.kind} is fitted on {inputs}, which no run stored of all {samples} "
        f"({run_id} did not); `mad run` with curvature.kind: {curvature.kind} stores them and reuses existing rows; "
        "without the model, kinds identity and block_moment are available"
    )


def _check_truth(plan: ModelPlan) -> None:
    """Files that still have to be read, because an earlier version kept nothing of their truth, must be there."""
    labels, truth = (plan.stored.labels, plan.stored.truth) if plan.stored is not None else ("", "")
    needed = [source for source in plan.trusted if "label" in source.truth and not labels]
    needed += [source for source in plan.audited if "anomalous" in source.truth and not truth]
    for source in needed:
        try:
            PinnedInput(source.file).close()
        except StorageError as error:
            why = "it is another file now" if isinstance(error, Changed) else f"it cannot be read ({error})"
            raise SourceError(
                f"{source.file.name}: its labels or truth are not stored, because an earlier version of mad kept none, "
                f"and {why}; put it back, or set "
                "data.columns.label and anomalous to null in a `mad run`"
            ) from error
