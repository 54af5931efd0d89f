"""What an audit will cost: worker-hours, bytes and requests of what is not done yet, from shapes and a small timed sample of each model.

Requests are counted as the pipeline makes them: those of an audit of nothing, and those of each task and stored part, which
`tests/pipeline/test_costs.py` holds against what a store is asked. Repeats are not foreseen, nor are waits for a store.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from infra.arrays import CHUNK_BYTES
from infra.storage import Storage
from madcore.calibration import calibration_size
from pipeline.artifacts.layout import check_root, root_storage
from pipeline.config import AuditConfig
from pipeline.curvature import moment_ranges
from pipeline.gradients import row_task_log
from pipeline.plan import AuditPlan, Cost, ModelPlan, RowTask
from pipeline.planning import moments
from pipeline.priority import LastAudit, last_audits
from pipeline.rates import RowRates, ScoreRates, row_rates, score_rates
from pipeline.sources.datasets import Source
from pipeline.steps import read_receipts

RUN_REQUESTS, MODEL_REQUESTS, SOURCE_REQUESTS = 50, 120, 5
ROW_TASK, TRUSTED_PART, SUMMED_PART, FITTED_PART, SCORED_PART, REPORTED_PART = 4, 13, 4, 3, 5, 7
OPENED, READ_BYTES = 3, 4 << 20  # requests for a Parquet file's size and footer; bytes that one request for a part of it reads
REPORTED_SECONDS = 6e-6  # of a row, on the machine of the README's figures at scale; scoring takes several times as long
TRUSTED_BYTES = 80  # of a trusted sample's id, part, prediction and score, which two tasks keep


@dataclass(frozen=True)
class Left:
    """What is not done of a model: row tasks, whether its curvature is, audited files whose rows are not scored, and whether its report is."""

    own: tuple[RowTask, ...]
    fitted: tuple[RowTask, ...]
    curvature: bool
    scored: tuple[Source, ...]
    report: bool

    @property
    def anything(self) -> bool:
        """Whether there is work."""
        return bool(self.own or self.fitted or self.report)


def estimated(plan: AuditPlan, threads: int | None = None) -> AuditPlan:
    """The plan with the cost of each of its models; writes nothing.

    Args:
        plan: from `plan_audit`.
        threads: how many a worker computes with; None takes this process's, as a run without a cluster does, and on Ray a worker has 1.

    Returns:
        The plan, its `costs` by model. Seconds are of workers like this machine: without a GPU here, models that are to have one are
        timed without.
    """
    storage, before = root_storage(plan.config.root), torch.get_num_threads()
    config = plan.config
    if not torch.cuda.is_available():
        config = config.model_copy(update={"run": config.run.model_copy(update={"gpus_per_worker": 0})})
    known = check_root(storage) is not None
    audits = last_audits(storage, plan) if known else {}
    torch.set_num_threads(threads or before)
    try:
        costs = {model.name: _cost(config, model, left_of(storage, model, audits.get(model.name))) for model in plan.models}
    finally:
        torch.set_num_threads(before)
    return replace(plan, costs=costs)


def left_of(storage: Storage, plan: ModelPlan, last: LastAudit | None) -> Left:
    """What is not done of a model, by the receipts of its rows and by what its latest completed run had."""
    own = _undone(storage, plan, plan.sources, 0)
    fitted = _undone(storage, plan, plan.fitted, plan.draws) if plan.draws else ()
    known = set(last.planned.sources) if last is not None and last.is_like(plan) else set[str]()
    fitted_on = plan.sources if plan.config.curvature.transductive else plan.trusted
    curvature = bool(fitted) or any(source.key not in known for source in fitted_on)
    scored = tuple(source for source in plan.audited if curvature or source.key not in known)
    return Left(own, fitted, curvature, scored, bool(scored) or known != {source.key for source in plan.sources})


def _undone(storage: Storage, plan: ModelPlan, sources: Iterable[Source], draws: int) -> tuple[RowTask, ...]:
    logs = {source.key: row_task_log(storage, plan, source, draws) for source in sources}
    done = read_receipts({log.folder: log for log in logs.values()})
    return tuple(task for source in sources for task in plan.tasks(source, draws) if task.name not in done[logs[source.key].folder])


def _cost(config: AuditConfig, plan: ModelPlan, left: Left) -> Cost:
    rows = row_rates(config, plan) if left.own or left.fitted else RowRates()
    trusted = sum(source.rows for source in plan.trusted)
    reference = trusted - calibration_size(trusted, plan.config.calibration.fraction)
    rates = score_rates(plan, reference) if left.scored else ScoreRates(0.0, 0.0, 0.0, 0.0, 0.0)
    stored, read = _bytes(plan, left, (rows, rates), reference)
    scored, audited = (sum(source.rows for source in sources) for sources in (left.scored, plan.audited))
    fitted_on = reference if not plan.config.curvature.transductive else trusted + audited
    seconds = {
        "gradients": _row_seconds(plan, left, rows),
        "curvature": left.curvature
        * (fitted_on * max(1, plan.draws) * rates.moment + rates.factor + trusted * rates.whitened + (trusted - reference) * rates.scored),
        "scoring": scored * rates.scored,
        "reporting": left.report * audited * REPORTED_SECONDS,
    }
    workers = config.run.workers
    loaded = workers * 4 * (plan.weights * bool(left.own or left.fitted) + reference * plan.layout.k * bool(left.scored))
    return Cost(seconds, round(stored), round(read + loaded), _requests(plan, left, rates))


def _row_seconds(plan: ModelPlan, left: Left, rates: RowRates) -> float:
    """Of rows; of traces, of chains too, whose steps count as three passes of a batch, one forward and one backward."""
    own, fitted = _samples(left.own), _samples(left.fitted)
    traced = plan.config.traced
    if traced is None:
        return own * rates.own + fitted * rates.fitted
    steps = traced.chains * traced.draws * traced.batch if left.own else 0
    return rates.forward * (own * (1 + traced.chains * len(traced.kept)) + 3 * steps)


def _bytes(plan: ModelPlan, left: Left, rates: tuple[RowRates, ScoreRates], reference: int) -> tuple[float, float]:
    """Stored and read, what every worker loads excepted."""
    of_rows, of_scores = rates
    k, audited, trusted = plan.layout.k, sum(source.rows for source in plan.audited), sum(source.rows for source in plan.trusted)
    rows = sum(_stored(plan, task) + (task.stop - task.start) * max(1, task.draws) * of_rows.sample_bytes for task in (*left.own, *left.fitted))
    fitted_on = plan.fitted or (plan.sources if plan.config.curvature.transductive else plan.trusted)
    fitted = [task for source in fitted_on for task in plan.tasks(source, plan.draws)]
    sums = 8 * sum(moments(plan.config, plan.sides, reference))
    curvature = left.curvature * (_sums(plan, len(fitted)) * sums + _squares(plan) + 4 * k * reference + TRUSTED_BYTES * trusted)
    scores = sum(source.rows for source in left.scored) * of_scores.part_bytes
    tables = left.report * audited * (of_scores.part_bytes or 1.0)
    inputs = sum(task.source.file.size * (task.stop - task.start) / task.source.rows for task in (*left.own, *left.fitted))
    at_rest = sum(_stored(plan, task) for source in left.scored for task in plan.tasks(source))
    for_curvature = sum(_stored(plan, task) for source in plan.trusted for task in plan.tasks(source)) + sum(_stored(plan, task) for task in fitted)
    snapshots = plan.snapshot_bytes if left.own else 0
    return rows + curvature + scores + tables + snapshots, inputs + at_rest + left.curvature * for_curvature + 2 * tables + snapshots * len(left.own)


def _stored(plan: ModelPlan, task: RowTask) -> int:
    """Bytes of a task's numbers, which fill whole chunks."""
    each, rows = plan.number_bytes(task.draws), (task.stop - task.start) * max(1, task.draws)
    chunk = max(1, min(rows, CHUNK_BYTES // each))
    return -(-rows // chunk) * chunk * each


def _squares(plan: ModelPlan) -> int:
    """Bytes of the whitening."""
    return 0 if plan.config.curvature.kind == "identity" or plan.config.traced else 4 * sum(size**2 for size in plan.layout.sizes)


def _sums(plan: ModelPlan, parts: int) -> int:
    """How many partial sums are stored of a curvature that is fitted on so many parts."""
    total = 0
    while plan.config.curvature.kind != "identity" and (ranges := moment_ranges(parts)):
        total, parts = total + len(ranges), len(ranges)
    return total


def _requests(plan: ModelPlan, left: Left, rates: ScoreRates) -> int:
    """Of one model."""
    if not left.anything:
        return MODEL_REQUESTS // 2 + SOURCE_REQUESTS * len(plan.sources)
    tasks = (*left.own, *left.fitted)
    inputs = sum(OPENED + -(-_share(task) // READ_BYTES) for task in tasks if "://" in task.source.file.url)
    trusted, fitted, scored, audited = (
        sum(len(list(plan.tasks(source))) for source in sources) for sources in (plan.trusted, plan.fitted, left.scored, plan.audited)
    )
    transductive = audited if plan.config.curvature.transductive else 0
    curvature = left.curvature * (TRUSTED_PART * trusted + FITTED_PART * (fitted + transductive) + SUMMED_PART * _sums(plan, trusted + transductive))
    more = sum(int(source.rows * rates.part_bytes) // READ_BYTES for source in left.scored)
    parts = SCORED_PART * scored + left.report * REPORTED_PART * audited + 2 * more
    return MODEL_REQUESTS + SOURCE_REQUESTS * len(plan.sources) + ROW_TASK * len(tasks) + inputs + curvature + parts


def _share(task: RowTask) -> int:
    return task.source.file.size * (task.stop - task.start) // max(1, task.source.rows)


def _samples(tasks: Sequence[RowTask]) -> int:
    return sum(task.stop - task.start for task in tasks)
