"""What an audit will cost: worker-hours, bytes and requests of what is not done yet, from shapes and a small timed sample of each model.

Requests are counted as the pipeline makes them: those of an audit of nothing, and those of each task and stored part, which
`tests/pipeline/test_costs.py` holds against what a store is asked. Repeats are not foreseen, nor are waits for a store.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from infra.formats.arrays import CHUNK_BYTES
from infra.storage.storage import Storage
from madcore.scoring.calibration import calibration_size
from pipeline.config.audit_config import AuditConfig
from pipeline.data.sources import Source
from pipeline.operations.timing import RowTimings, ScoreRates, row_rates, score_rates
from pipeline.planning.memory import moment_sizes
from pipeline.planning.order import LastAudit, last_audits
from pipeline.planning.plan import AuditPlan, Cost, ModelPlan, RowTask, row_task_log
from pipeline.root.logs import read_receipts
from pipeline.root.mark import check_root, root_storage
from pipeline.stages.curvature.tasks import moment_ranges
from pipeline.stages.reporting.decisions import TOP_FLAGGED

RUN_REQUESTS, MODEL_REQUESTS, DONE_MODEL_REQUESTS, SOURCE_REQUESTS = 50, 59, 60, 5


ROW_TASK, TRUSTED_PART, SUMMED_PART, FITTED_PART, SCORED_PART, REPORTED_PART = 4, 13, 4, 3, 5, 5


OPENED, READ_BYTES = (
    3,
    4 << 20,
)  # requests for a Parquet file's size and footer; bytes that one request for a part of it reads


REPORTED_SECONDS = (
    6e-6  # of a row, on the machine of the README's figures at scale; scoring takes several times as long
)


PLAN_READS, SCORE_READS = 3, 3  # times that planning looks at the trusted set, and reporting at scores


TRUSTED_BYTES = 80  # of a trusted sample's id, part, prediction and score, which two tasks keep


@dataclass(frozen=True)
class RemainingWork:
    """What is not done of a model: row tasks, whether its curvature is, audited files whose rows are not scored, and whether its report is."""

    own: tuple[RowTask, ...]
    curvature_rows: tuple[RowTask, ...]
    curvature: bool
    scored: tuple[Source, ...]
    report: bool

    @property
    def anything(self) -> bool:
        """Whether there is work."""
        return bool(self.own or self.curvature_rows or self.report)


def estimated(plan: AuditPlan, executor: str = "serial") -> AuditPlan:
    """The plan with the cost of each of its models; writes nothing.

    Args:
        plan: from `plan_audit`.
        executor: `serial`, one worker with the threads of this process, or `ray`, `run.workers` of them with one thread each.

    Returns:
        The plan, its `costs` by model. Seconds are of workers like this machine: without a GPU here, models that are to have one are
        timed without.
    """
    storage, before = root_storage(plan.config.root), torch.get_num_threads()
    config = plan.config
    if not torch.cuda.is_available():
        config = config.model_copy(update={"run": config.run.model_copy(update={"gpus_per_worker": 0})})
    audits = last_audits(storage, plan) if check_root(storage) is not None else {}
    torch.set_num_threads(before if executor == "serial" else 1)
    try:
        workers = 1 if executor == "serial" else config.run.workers
        costs = {
            model.name: _cost(config, model, left_of(storage, model, audits.get(model.name)), workers)
            for model in plan.models
        }
    finally:
        torch.set_num_threads(before)
    return replace(plan, costs=costs)


def left_of(storage: Storage, plan: ModelPlan, last: LastAudit | None) -> RemainingWork:
    """What is not done of a model, by the receipts of its rows and by what its latest completed run had."""
    own = _undone(storage, plan, plan.sources, 0)
    fitted = _undone(storage, plan, plan.curvature_sources, plan.labels_per_sample) if plan.labels_per_sample else ()
    known = set(last.planned.sources) if last is not None and last.is_like(plan) else set[str]()
    fitted_on = plan.sources if plan.config.curvature.transductive else plan.trusted
    curvature = bool(fitted) or any(source.key not in known for source in fitted_on)
    scored = tuple(source for source in plan.audited if curvature or source.key not in known)
    return RemainingWork(
        own, fitted, curvature, scored, bool(scored) or known != {source.key for source in plan.sources}
    )


def _undone(storage: Storage, plan: ModelPlan, sources: Iterable[Source], labels: int) -> tuple[RowTask, ...]:
    logs = {source.key: row_task_log(storage, plan, source, labels) for source in sources}
    done = read_receipts({log.folder: log for log in logs.values()})
    return tuple(
        task
        for source in sources
        for task in plan.tasks(source, labels)
        if task.name not in done[logs[source.key].folder]
    )


def _cost(config: AuditConfig, plan: ModelPlan, left: RemainingWork, workers: int) -> Cost:
    rows = row_rates(config, plan) if left.own or left.curvature_rows else RowTimings()
    trusted, reference = sum(source.rows for source in plan.trusted), _references(plan)
    rates = score_rates(plan, reference) if left.scored else ScoreRates(0.0, 0.0, 0.0, 0.0, 0.0)
    scored, audited = (sum(source.rows for source in sources) for sources in (left.scored, plan.audited))
    fitted_on = reference if not plan.config.curvature.transductive else trusted + audited
    seconds = {
        "gradients": _row_seconds(plan, left, rows),
        "curvature": left.curvature
        * (
            fitted_on * max(1, plan.labels_per_sample) * rates.moment
            + rates.factor
            + trusted * rates.whitened
            + (trusted - reference) * rates.scored
        ),
        "scoring": scored * rates.scored,
        "reporting": left.report * audited * REPORTED_SECONDS,
    }
    stored, read = (
        _stored(plan, left, rows.sample_bytes, rates.part_bytes),
        _read(plan, left, rows.sample_bytes, rates.part_bytes, workers),
    )
    return Cost(seconds, round(stored), round(read), _requests(plan, left, rates))


def _row_seconds(plan: ModelPlan, left: RemainingWork, rates: RowTimings) -> float:
    """Of rows; of traces, of chains too, whose steps count as three passes of a batch, one forward and one backward."""
    own, fitted = _samples(left.own), _samples(left.curvature_rows)
    traced = plan.config.traced
    if traced is None:
        return own * rates.own + fitted * rates.curvature_rows
    steps = traced.chains * traced.draws * traced.batch if left.own else 0
    return rates.forward * (own * (1 + traced.chains * len(traced.kept)) + 3 * steps)


def _stored(plan: ModelPlan, left: RemainingWork, sample_bytes: float, part_bytes: float) -> float:
    """Bytes that tasks store."""
    trusted, audited, scored = (
        sum(source.rows for source in sources) for sources in (plan.trusted, plan.audited, left.scored)
    )
    rows = _at_rest(plan, (*left.own, *left.curvature_rows)) + sample_bytes * (
        _samples(left.own) + plan.labels_per_sample * _samples(left.curvature_rows)
    )
    references = 4 * plan.layout.k * _references(plan) + TRUSTED_BYTES * trusted
    scores = part_bytes * (scored + left.report * audited)
    return (
        rows
        + left.curvature * (_sum_bytes(plan) + _squares(plan) + references)
        + scores
        + plan.snapshot_bytes * bool(left.own)
    )


def _read(plan: ModelPlan, left: RemainingWork, sample_bytes: float, part_bytes: float, workers: int) -> float:
    """Bytes that planning, tasks and workers read. Of a file in a store they are read in blocks, so that of a small one all of it is, each time."""
    config, tasks, traced = plan.config, (*left.own, *left.curvature_rows), plan.config.traced is not None
    trusted, scored, audited = (plan.tasks_of(sources) for sources in (plan.trusted, left.scored, plan.audited))
    weights = 4 * plan.recipe.weights * (1 + workers * bool(tasks))
    planned = PLAN_READS * sum(_block(task) for task in trusted[:1]) + sum(_block(task) for task in audited[:1])
    inputs = sum(_block(task, _share(task)) for task in tasks)
    labels = left.curvature * sum(_block(task) for task in trusted if "label" in task.source.truth)
    passes = (
        2 + config.screened + (config.curvature.kind in ("block_moment", "ekfac"))
    )  # of references, calibration, screening, the curvature
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
    """How many trusted samples explain."""
    trusted = sum(source.rows for source in plan.trusted)
    return trusted - calibration_size(trusted, plan.config.calibration.fraction)


def _sum_bytes(plan: ModelPlan) -> int:
    """Bytes of the curvature's partial sums."""
    return _sums(plan, len(_fitted_on(plan))) * 8 * sum(moment_sizes(plan.config, plan.sides, _references(plan)))


def _fitted_on(plan: ModelPlan) -> tuple[RowTask, ...]:
    """The tasks of whose rows the curvature is made."""
    transductive = plan.sources if plan.config.curvature.transductive else plan.trusted
    return plan.tasks_of(plan.curvature_sources or transductive, plan.labels_per_sample)


def _at_rest(plan: ModelPlan, tasks: Iterable[RowTask]) -> int:
    """Bytes of tasks' numbers, which fill whole chunks."""
    total = 0
    for task in tasks:
        each, rows = (
            plan.number_bytes(task.labels_per_sample),
            (task.stop - task.start) * max(1, task.labels_per_sample),
        )
        chunk = max(1, min(rows, CHUNK_BYTES // each))
        total += -(-rows // chunk) * chunk * each
    return total


def _block(task: RowTask, beside: int = 0) -> int:
    """Bytes that are read of a task's file to look at a little of it, and at so many bytes beside."""
    return min(task.source.file.size, READ_BYTES * ("://" in task.source.file.url) + beside)


def _most(tasks: Iterable[RowTask]) -> int:
    """Bytes that are read to look at a little of each task while its file stays open: at most the whole file, once."""
    blocks: dict[str, int] = {}
    for task in tasks:
        read = blocks.get(task.source_key, 0) + _block(task)
        blocks[task.source_key] = min(read, task.source.file.size)
    return sum(blocks.values())


def _squares(plan: ModelPlan) -> int:
    """Bytes of the whitening."""
    return (
        0
        if plan.config.curvature.kind == "identity" or plan.config.traced
        else 4 * sum(size**2 for size in plan.layout.sizes)
    )


def _sums(plan: ModelPlan, parts: int) -> int:
    """How many partial sums are stored of a curvature that is fitted on so many parts."""
    total = 0
    while plan.config.curvature.kind != "identity" and (ranges := moment_ranges(parts)):
        total, parts = total + len(ranges), len(ranges)
    return total


def _requests(plan: ModelPlan, left: RemainingWork, rates: ScoreRates) -> int:
    """Of one model."""
    if not left.anything:
        return DONE_MODEL_REQUESTS + SOURCE_REQUESTS * len(plan.sources)
    tasks = (*left.own, *left.curvature_rows)
    inputs = sum(OPENED + -(-_share(task) // READ_BYTES) for task in tasks if "://" in task.source.file.url)
    trusted, fitted, scored, audited = (
        len(plan.tasks_of(sources)) for sources in (plan.trusted, plan.curvature_sources, left.scored, plan.audited)
    )
    transductive = audited if plan.config.curvature.transductive else 0
    curvature = left.curvature * (
        TRUSTED_PART * trusted
        + FITTED_PART * (fitted + transductive)
        + SUMMED_PART * _sums(plan, trusted + transductive)
    )
    more = sum(int(source.rows * rates.part_bytes) // READ_BYTES for source in left.scored)
    files = sum("anomalous" in source.truth for source in plan.audited) + min(_pictures(plan), len(plan.audited))
    parts = SCORED_PART * scored + left.report * (REPORTED_PART * audited + OPENED * files) + 2 * more
    return MODEL_REQUESTS + SOURCE_REQUESTS * len(plan.sources) + ROW_TASK * len(tasks) + inputs + curvature + parts


def _pictures(plan: ModelPlan) -> int:
    """How many pictures a report may have, at most one file of audited samples opened for each."""
    return 0 if plan.config.is_text else TOP_FLAGGED


def _share(task: RowTask) -> int:
    return task.source.file.size * (task.stop - task.start) // max(1, task.source.rows)


def _samples(tasks: Sequence[RowTask]) -> int:
    return sum(task.stop - task.start for task in tasks)
