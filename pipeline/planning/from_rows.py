"""Plans from stored rows, for rescoring and sweeps: what must stand in the root, and that it is as the config says."""

from collections.abc import Callable, Sequence, Set
from dataclasses import replace

from infra.errors import StorageError
from infra.storage.files import open_input
from infra.storage.storage import Storage
from madcore import Layer, MadcoreError, SideLayout
from madcore.reprojection import Reprojection
from madcore.scoring.calibration import calibration_size
from pipeline.artifacts.rows import RowsPart, read_samples
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import FACTORED, ModelConfig, projection_of
from pipeline.data.sources import Source
from pipeline.errors import ConfigError, SourceError
from pipeline.planning.chains import chain_log, segments
from pipeline.planning.earlier_runs import EarlierRows, chosen_layers, recorded, recorded_of_rank, stored_run
from pipeline.planning.memory import ProjectedMemory, Shapes, moments, project_memory
from pipeline.planning.plan import AuditPlan, ModelPlan, check_samples, row_task_log
from pipeline.planning.recipe import EarlierRun
from pipeline.root.mark import open_root, root_storage

NOTHING: frozenset[str] = frozenset()


Find = Callable[[Storage, ModelConfig], EarlierRows]


def plan_rescore(config: AuditConfig, drop: Set[str] = NOTHING) -> AuditPlan:
    """A plan on the rows that the latest completed run of each model stored; reads no model and writes nothing.

    Args:
        config: with any curvature, score and calibration, and with `estimator.layers` that choose among the stored ones. All else of a
            model must be as it was when its rows were stored.
        drop: ids of trusted samples to do without.

    Raises:
        RootError: its root is none.
        ConfigError: no model is left to run, with every reason; or an id to drop is nobody's.
    """
    return _plan(config, drop, recorded)


def plan_point(config: AuditConfig) -> AuditPlan:
    """As `plan_rescore`, for a point of a sweep: `estimator.projection.rank` may be below the stored one too.

    Its rows are then re-projected as they are read, which is no approximation (see `madcore.reprojection`); what is at rest was rounded at
    the stored rank, so that the figures are those of a run up to that rounding, and not its bytes.
    """
    return _plan(config, NOTHING, recorded_of_rank)


def _plan(config: AuditConfig, drop: Set[str], find: Find) -> AuditPlan:
    storage = root_storage(config.root)
    open_root(storage)
    config = config.model_copy(
        update={"run": config.run.model_copy(update={"gpus_per_worker": 0})}
    )  # no model is there to compute on one
    models, refused = list[ModelPlan](), dict[str, str]()
    for model in config.models:
        try:
            models.append(_plan_model(storage, model, drop, find(storage, model)))
        except (SourceError, StorageError, MadcoreError) as error:
            refused[model.name] = str(error)
    if not models:
        raise ConfigError("; ".join(f"model {name}: {reason}" for name, reason in refused.items()))
    unknown = sorted(drop - {name for model in models for name in model.dropped})
    if unknown and not refused:
        shown = ", ".join(repr(name) for name in unknown[:3])
        raise ConfigError(
            f"{len(unknown):,} of {len(drop):,} ids to drop are of no trusted sample ({shown}); check the file, or the column of ids in it"
        )
    return AuditPlan(config, tuple(models), refused)


def _plan_model(storage: Storage, model: ModelConfig, drop: Set[str], found: EarlierRows) -> ModelPlan:
    entry, rows = found.entry, found.rows
    names = chosen_layers(model, rows)
    stored = stored_run(storage, model.name, found.run_id, rows)
    layers = tuple(layer for layer in rows.layers if layer.name in names)
    lower, sides = _lower(model, found.config, layers), rows.sides.of_layers(names)
    plan = ModelPlan(
        config=model,
        source=None,
        digest=entry.digest,
        row_key=entry.row_key,
        snapshots_key=rows.snapshots_key,
        layers=layers,
        sides=sides if lower is None else _of_rank(sides, lower),
        fallback={name: cost for name, cost in rows.fallback.items() if name in names},
        not_covered=rows.not_covered,
        classes=rows.classes,
        inputs=rows.inputs,
        trusted=rows.trusted,
        audited=rows.audited,
        sampling=rows.sampling,
        weights=rows.weights,
        refused_files={},
        rows_per_task=rows.rows_per_task,
        memory=ProjectedMemory(0, 0, 0, 0),
        stored=stored,
        lower=lower,
    )
    parts = _check_stored(storage, plan)
    _check_truth(plan, stored)
    plan = replace(
        plan,
        dropped=tuple(sorted({name for part in parts for name in read_samples(storage, part).ids} & drop))
        if drop
        else (),
    )
    samples = sum(source.rows for source in plan.trusted) - len(plan.dropped)
    check_samples(model, samples)
    return replace(plan, memory=_memory(plan, samples))


def _lower(model: ModelConfig, stored: ModelConfig, layers: Sequence[Layer]) -> Reprojection | None:
    """The re-projection of stored rows to the rank that is asked for; None where they have it.

    Raises:
        SourceError, MadcoreError: there is none.
    """
    if model.traced is not None or model.gradient.projection.rank == stored.gradient.projection.rank:
        return None
    lower = Reprojection.of(layers, projection_of(stored), model.gradient.projection.rank)
    if model.curvature.kind in FACTORED:
        raise SourceError(
            f"curvature.kind: {model.curvature.kind} is fitted on the moments of layers' sides, which are stored at rank {lower.projection.rank} and are not "
            f"re-projected to rank {lower.rank}; `mad run` with estimator.projection.rank: {lower.rank} stores them at that rank"
        )
    return lower


def _of_rank(sides: SideLayout, lower: Reprojection) -> SideLayout:
    return SideLayout(
        lower.layout,
        tuple(None if kept is None else (min(kept[0], lower.rank), min(kept[1], lower.rank)) for kept in sides.kept),
    )


def _check_stored(storage: Storage, plan: ModelPlan) -> list[RowsPart]:
    """The parts of the trusted samples' own rows.

    Raises:
        SourceError: rows are not there that the plan cannot do without.
    """
    parts: list[RowsPart] = []
    for draws, sources in ((0, plan.trusted), (plan.draws, plan.fitted)):
        for source in sources:
            log = row_task_log(storage, plan, source, draws)
            receipts = log.receipts()
            missing = [task for task in plan.tasks(source, draws) if task.name not in receipts]
            if missing and draws:
                raise SourceError(_not_fitted(plan))
            if missing:
                raise SourceError(
                    f"{len(missing):,} tasks of rows of {source.file.name} are not stored any more; `mad run` computes them"
                )
            if not draws:
                own = [(task, receipts[task.name]) for task in plan.tasks(source)]
                parts += [
                    RowsPart(
                        source.file.name, source.key, task.start, task.stop, log.attempt_folder(found), found.content
                    )
                    for task, found in own
                ]
    settings = plan.config.traced
    for chain in range(settings.chains) if settings is not None else ():
        known = chain_log(storage, plan, chain).receipts()
        if settings is not None and any(segment.name not in known for segment in segments(plan, settings)):
            raise SourceError(f"the weights of chain {chain} are not stored any more; `mad run` samples them")
    return parts


def _not_fitted(plan: ModelPlan) -> str:
    curvature, stored = plan.config.curvature, plan.stored
    inputs = (
        "the moments of layers' sides"
        if curvature.kind in FACTORED
        else "gradients at labels other than the samples' own"
    )
    whose = "trusted and audited samples" if curvature.transductive else "trusted samples"
    return (
        f"curvature.kind: {curvature.kind} is fitted on {inputs}, which no run stored of all {whose} ({stored.run_id if stored else ''} did not); "
        f"`mad run` with curvature.kind: {curvature.kind} stores them, and uses the rows that are there; without the model, kinds identity and "
        "block_moment can be had"
    )


def _check_truth(plan: ModelPlan, stored: EarlierRun) -> None:
    """Files that still have to be read, because an earlier version kept nothing of them, must be there."""
    needed: list[Source] = [source for source in plan.trusted if "label" in source.truth and not stored.labels]
    needed += [source for source in plan.audited if "anomalous" in source.truth and not stored.truth]
    for source in needed:
        try:
            open_input(source.file.url).close()
        except StorageError as error:
            raise SourceError(
                f"{source.file.name}: its labels or truth are not stored, because an earlier version of mad kept none, and it cannot be read ({error}); "
                "put it back, or set data.columns.label and anomalous to null in a `mad run`"
            ) from error


def _memory(plan: ModelPlan, samples: int) -> ProjectedMemory:
    """What the stages after the gradients need; see `pipeline.planning`."""
    layout, config = plan.layout, plan.config
    reference, audited = (
        samples - calibration_size(samples, config.calibration.fraction),
        sum(source.rows for source in plan.audited),
    )
    fitted = samples + audited if config.curvature.transductive else reference
    shapes = Shapes(
        layout=layout,
        stored_row_size=max(layout.k, plan.sides.stored.k) if config.curvature.kind in FACTORED else layout.k,
        reprojected=plan.lower.stored.k if plan.lower is not None else 0,
        model_bytes=0,
        sample_bytes=0,
        retained_bytes_per_sample=0,
        at_once=0,
        task_rows=0,
        batch=0,
        reference=reference,
        classes=plan.classes,
        moments=moments(config, plan.sides, max(1, plan.draws) * fitted),
        screened=samples if config.screened else 0,
        labelled_samples=sum(source.rows for source in plan.audited if "anomalous" in source.truth),
    )
    return project_memory(shapes)
