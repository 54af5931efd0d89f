"""Estimates of what an audit will cost: worker-hours, bytes and requests of what is not done yet.

They follow from shapes and from a small timed sample of each model.

Requests are counted as the pipeline makes them: those of an audit of nothing, and those of each task and stored part.
The tests of this module compare them with the requests that a store receives. Repeated requests and waits for a store
are not estimated.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from infra.formats.arrays import CHUNK_BYTES
from madcore.scoring.calibration import calibration_size
from pipeline.config.audit_config import AuditConfig
from pipeline.operations.timing import RowTimings, ScoreRates, row_rates, score_rates
from pipeline.planning.earlier_runs.order import last_audits
from pipeline.planning.earlier_runs.remaining import RemainingWork, remaining_work
from pipeline.planning.memory import moment_sizes
from pipeline.planning.plan import AuditPlan, Cost, ModelPlan, RowTask
from pipeline.root.mark import check_root, root_storage
from pipeline.stages.curvature.tasks import moment_ranges
from pipeline.stages.reporting.decisions import TOP_FLAGGED

RUN_REQUESTS, MODEL_REQUESTS, DONE_MODEL_REQUESTS, SOURCE_REQUESTS = 50, 62, 26, 5


ROW_TASK, TRUSTED_PART, SUMMED_PART, FITTED_PART, SCORED_PART, REPORTED_PART = 4, 13, 4, 3, 5, 5


OPENED, CONFIRMED = 3, 1  # requests for a Parquet file's size and footer, and for its identity before a commit


READ_BYTES = 4 << 20  # that one request for a part of a file reads


REPORTED_SECONDS = 6e-6  # of a row, on the machine of the documented figures; scoring takes several times as long


PLAN_READS, SCORE_READS = 3, 3  # times that planning looks at the trusted set, and reporting at scores


TRUSTED_BYTES = 80  # of a trusted sample's id, part, prediction and score, which two tasks keep


def estimate_costs(plan: AuditPlan, executor: str = "serial") -> AuditPlan:
    """Estimate the cost of each model of a plan; writes nothing.

    Args:
        plan: from `plan_audit`.
        executor: `serial`, one worker with the threads of this process, or `ray`, `run.workers` of them with one
            thread each.

    Returns:
        The plan with its `costs` by model. Seconds are those of workers like this machine: without a GPU here, models
        that will have one are timed without.
    """
    storage, before = root_storage(plan.config.root), torch.get_num_threads()
    config = plan.config
    if not torch.cuda.is_available():
        config = config.model_copy(update={"run": config.run.model_copy(update={"gpus_per_worker": 0})})
    audits = last_audits(storage, plan) if check_root(storage) is not None else {}
    torch.set_num_threads(before if executor == "serial" else 1)
    try:
        workers = 1 if executor == "serial" else config.run.workers
        loadable = [model for model in plan.models if not model.from_shapes]
        left = {model.name: remaining_work(storage, model, audits.get(model.name)) for model in loadable}
        costs = {model.name: _cost(config, model, left[model.name], workers) for model in loadable}
    finally:
        torch.set_num_threads(before)
    return replace(plan, costs=costs)


def _cost(config: AuditConfig, plan: ModelPlan, left: RemainingWork, workers: int) -> Cost:
    rows = row_rates(config, plan) if left.own or left.curvature_rows else RowTimings()
    trusted, reference = sum(source.rows for source in plan.trusted), _references(plan)
    rates = score_rates(plan, reference) if left.scored else ScoreRates(0.0, 0.0, 0.0, 0.0, 0.0)
    scored, audited = (sum(source.rows for source in sources) for sources in (left.scored, plan.audited))
    fitted_on = reference if not plan.config.curvature.transductive else trusted + audited
    summed = fitted_on * max(1, plan.labels_per_sample) * rates.moment
    whitened, calibrated = trusted * rates.whitened, (trusted - reference) * rates.scored
    seconds = {
        "gradients": _row_seconds(plan, left, rows),
        "curvature": left.curvature * (summed + rates.factor + whitened + calibrated),
        "scoring": scored * rates.scored,
        "reporting": left.report * audited * REPORTED_SECONDS,
    }
    stored = _stored(plan, left, rows.sample_bytes, rates.part_bytes)
    read = _read(plan, left, rows.sample_bytes, rates.part_bytes, workers)
    return Cost(seconds, round(stored), round(read), _requests(plan, left, rates))


def _row_seconds(plan: ModelPlan, left: RemainingWork, rates: RowTimings) -> float:
    """Of rows, and of the chains of loss traces, whose steps count as three passes: a forward and a backward one."""
    own, fitted = _samples(left.own), _samples(left.curvature_rows)
    traced = plan.config.traced
    if traced is None:
        return own * rates.own + fitted * rates.curvature_rows
    steps = traced.chains * traced.draws * traced.batch if left.own else 0
    return rates.forward * (own * (1 + traced.chains * len(traced.kept)) + 3 * steps)


def _stored(plan: ModelPlan, left: RemainingWork, sample_bytes: float, part_bytes: float) -> float:
    """Bytes that tasks store."""
    files = (plan.trusted, plan.audited, left.scored)
    trusted, audited, scored = (sum(source.rows for source in sources) for sources in files)
    samples = _samples(left.own) + plan.labels_per_sample * _samples(left.curvature_rows)
    rows = _at_rest(plan, (*left.own, *left.curvature_rows)) + sample_bytes * samples
    references = 4 * plan.layout.k * _references(plan) + TRUSTED_BYTES * trusted
    curvature = left.curvature * (_sum_bytes(plan) + _squares(plan) + references)
    scores = part_bytes * (scored + left.report * audited)
    return rows + curvature + scores + plan.snapshot_bytes * bool(left.own)


def _read(plan: ModelPlan, left: RemainingWork, sample_bytes: float, part_bytes: float, workers: int) -> float:
    """Bytes that planning, tasks and workers read; in blocks from a store, so a small file is read whole each time."""
    config, tasks, traced = plan.config, (*left.own, *left.curvature_rows), plan.config.traced is not None
    trusted, scored, audited = (plan.tasks_of(sources) for sources in (plan.trusted, left.scored, plan.audited))
    weights = 4 * plan.recipe.weights * ((not plan.known) + workers * bool(tasks))
    planned = PLAN_READS * sum(_block(task) for task in trusted[:1]) + sum(_block(task) for task in audited[:1])
    inputs = sum(_block(task, _share(task)) for task in tasks)
    labels = left.curvature * sum(_block(task) for task in trusted if "label" in task.source.truth)
    # Of references, calibration, screening, the curvature.
    passes = 2 + config.screened + (config.curvature.kind in ("block_moment", "ekfac"))
    fitted = _at_rest(plan, _fitted_on(plan)) if plan.labels_per_sample or config.curvature.transductive else 0
    samples = sample_bytes * (left.curvature * (1 + passes) * _samples(trusted) + _samples(scored))
    curvature = left.curvature * (passes * _at_rest(plan, trusted) + fitted + _sum_bytes(plan) + _squares(plan))
    references = workers * bool(left.scored) * (4 * plan.layout.k * _references(plan) + _squares(plan))
    pictures = left.report * min(_pictures(plan) * max(_block(task) for task in audited), _most(audited))
    truth = left.report * _most(task for task in audited if "anomalous" in task.source.truth)
    tables = SCORE_READS * left.report * part_bytes * _samples(audited)
    snapshots = plan.snapshot_bytes * len(left.own) if traced else 0
    rows = inputs + labels + samples + curvature + references + _at_rest(plan, scored)
    return weights + planned + rows + pictures + truth + tables + snapshots


def _references(plan: ModelPlan) -> int:
    """How many trusted samples the reference part has."""
    trusted = sum(source.rows for source in plan.trusted)
    return trusted - calibration_size(trusted, plan.config.calibration.fraction)


def _sum_bytes(plan: ModelPlan) -> int:
    """Bytes of the curvature's partial sums."""
    return _sums(plan, len(_fitted_on(plan))) * 8 * sum(moment_sizes(plan.config, plan.sides, _references(plan)))


def _fitted_on(plan: ModelPlan) -> tuple[RowTask, ...]:
    """The tasks whose rows the curvature is fitted on."""
    transductive = plan.sources if plan.config.curvature.transductive else plan.trusted
    return plan.tasks_of(plan.curvature_sources or transductive, plan.labels_per_sample)


def _at_rest(plan: ModelPlan, tasks: Iterable[RowTask]) -> int:
    """Bytes of tasks' numbers, which fill whole chunks."""
    total = 0
    for task in tasks:
        each = plan.number_bytes(task.labels_per_sample)
        rows = (task.stop - task.start) * max(1, task.labels_per_sample)
        chunk = max(1, min(rows, CHUNK_BYTES // each))
        total += -(-rows // chunk) * chunk * each
    return total


def _block(task: RowTask, more: int = 0) -> int:
    """Bytes that are read of a task's file to look at a little of it, and at so many bytes more."""
    return min(task.source.file.size, READ_BYTES * ("://" in task.source.file.url) + more)


def _most(tasks: Iterable[RowTask]) -> int:
    """Bytes that are read to look at a little of each task while its file stays open: at most the whole file, once."""
    blocks: dict[str, int] = {}
    for task in tasks:
        read = blocks.get(task.source_key, 0) + _block(task)
        blocks[task.source_key] = min(read, task.source.file.size)
    return sum(blocks.values())


def _squares(plan: ModelPlan) -> int:
    """Bytes of the whitening."""
    if plan.config.curvature.kind == "identity" or plan.config.traced:
        return 0
    return 4 * sum(size**2 for size in plan.layout.sizes)


def _sums(plan: ModelPlan, parts: int) -> int:
    """How many partial sums are stored for a curvature that is fitted on so many parts."""
    total = 0
    while plan.config.curvature.kind != "identity" and (ranges := moment_ranges(parts)):
        total, parts = total + len(ranges), len(ranges)
    return total


def _requests(plan: ModelPlan, left: RemainingWork, rates: ScoreRates) -> int:
    """Requests for one model."""
    if not left.anything:
        return DONE_MODEL_REQUESTS + SOURCE_REQUESTS * len(plan.sources)
    tasks = (*left.own, *left.curvature_rows)
    inputs = sum(OPENED + CONFIRMED + -(-_share(task) // READ_BYTES) for task in tasks if "://" in task.source.file.url)
    files = (plan.trusted, plan.curvature_sources, left.scored, plan.audited)
    trusted, fitted, scored, audited = (len(plan.tasks_of(sources)) for sources in files)
    transductive = audited if plan.config.curvature.transductive else 0
    summed = SUMMED_PART * _sums(plan, trusted + transductive)
    curvature = left.curvature * (TRUSTED_PART * trusted + FITTED_PART * (fitted + transductive) + summed)
    more = sum(int(source.rows * rates.part_bytes) // READ_BYTES for source in left.scored)
    opened = sum("anomalous" in source.truth for source in plan.audited) + min(_pictures(plan), len(plan.audited))
    parts = SCORED_PART * scored + left.report * (REPORTED_PART * audited + (OPENED + CONFIRMED) * opened) + 2 * more
    return MODEL_REQUESTS + SOURCE_REQUESTS * len(plan.sources) + ROW_TASK * len(tasks) + inputs + curvature + parts


def _pictures(plan: ModelPlan) -> int:
    """How many pictures a report may have, at most one file of audited samples opened for each."""
    return TOP_FLAGGED if plan.config.samples == "images" else 0


def _share(task: RowTask) -> int:
    return task.source.file.size * (task.stop - task.start) // max(1, task.source.rows)


def _samples(tasks: Sequence[RowTask]) -> int:
    return sum(task.stop - task.start for task in tasks)
