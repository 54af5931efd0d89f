"""A run: the stages one after the other over all models, then publication. What an earlier run has committed is not done again.

A model that fails is set aside with the reason, and the others go on.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from infra.commits import CommitLog, Receipt
from infra.events import Listener, StageEnded, Stopwatch, ignore
from infra.executors import EXECUTORS, Executor, Resources, open_executor
from infra.storage import Storage
from pipeline.artifacts.layout import claim_root, root_lock
from pipeline.artifacts.logs import STAGES, reporting_log, scoring_log
from pipeline.artifacts.rows import RowsPart
from pipeline.audit import Audit
from pipeline.chains import Chains
from pipeline.errors import ConfigError
from pipeline.fitting import Fitting
from pipeline.gradients import GradientTask, GradientWorker, row_task_log
from pipeline.keys import key_of
from pipeline.plan import AuditPlan, ModelPlan, RowTask
from pipeline.progress import ModelRun
from pipeline.publication import begin, make_up, publish
from pipeline.reporting import REPORT, ReportingWorker, ReportTask, ScorePart, reporting_key
from pipeline.scoring import ScoreTask, ScoringWorker, scoring_key
from pipeline.steps import Failure, Job, StepRunner
from pipeline.stored import AbsentRows


def run_audit(plan: AuditPlan, executor: str = "serial", until: str = "reporting", listener: Listener = ignore, address: str | None = None) -> Audit:
    """Runs a plan to the end, or to the end of the stage `until`, and opens the result.

    Resumes by itself: tasks that are done, by this run or any other in this root, are not repeated.

    Args:
        plan: from `plan_audit`.
        executor: `serial`, in this process, or `ray`, on a cluster.
        until: `gradients`, `curvature`, `scoring` or `reporting`; only after the last are scores published.
        listener: told of stages, tasks and notices.
        address: of the Ray cluster to join; None takes RAY_ADDRESS of the environment, or else starts one here.

    Returns:
        The audit, its `outcome` that of this run.

    Raises:
        ConfigError: no such executor or stage.
        ClusterError: no cluster answers, or it lacks what the config asks for.
        CannotFit: for every model a worker would need more memory than `run.memory_per_worker`.
        RootError: the root is not one, or its store lets two writers overwrite each other.
        LockHeld: another process runs an audit in this root.
        StorageError: the root takes no more, or does not answer; what is done is kept.
    """
    if executor not in EXECUTORS:
        raise ConfigError(f"executor {executor!r} is not available in this version; available: {', '.join(EXECUTORS)}")
    if until not in STAGES:
        raise ConfigError(f"there is no stage {until!r}; stages: {', '.join(STAGES)}")
    plan = plan.fitting()
    resources = Resources(plan.config.run.workers, plan.config.run.gpus_per_worker, int(plan.config.run.memory_per_worker))
    with open_executor(executor, address, resources) as opened:
        return _run(plan, opened, resources, STAGES[: STAGES.index(until) + 1], listener)


def _run(plan: AuditPlan, executor: Executor, resources: Resources, stages: Sequence[str], listener: Listener) -> Audit:
    storage = Storage(plan.config.root)
    claim_root(storage)
    with root_lock(storage) as lock:
        make_up(storage)
        run_id = begin(storage, plan)
        models = {model.name: ModelRun(model) for model in plan.models}
        steps = _Stages(plan, storage, StepRunner(models, executor, resources, listener))
        for stage in stages:
            watch = Stopwatch()
            getattr(steps, stage)()
            listener(StageEnded(stage, watch.seconds))
            lock.check()
        outcome = publish(storage, run_id, plan, list(models.values()), complete=stages[-1] == STAGES[-1])
    return Audit(storage, outcome)


def compute(plan: AuditPlan, storage: Storage, runner: StepRunner) -> None:
    """All stages of a plan, for the models of the runner: their tasks are committed, no run is recorded, and nothing is published."""
    steps = _Stages(plan, storage, runner)
    for stage in STAGES:
        watch = Stopwatch()
        getattr(steps, stage)()
        runner.tell(StageEnded(stage, watch.seconds))


class _Stages:
    """The four stages, each reading only what an earlier one has committed."""

    def __init__(self, plan: AuditPlan, storage: Storage, runner: StepRunner):
        self._config, self._storage, self._runner = plan.config, storage, runner
        self._plans: dict[str, ModelPlan] = {model.name: model for model in plan.models}

    def gradients(self) -> None:
        Chains(self._config, self._storage, self._plans, self._runner).run()
        tasks = {model.plan.name: model.plan.row_tasks for model in self._runner.alive}
        jobs = {name: [self._rows_job(self._runner.models[name], task) for task in own] for name, own in tasks.items()}
        rescored = any(model.plan.stored for model in self._runner.alive)
        results = self._runner.run("gradients", AbsentRows if rescored else partial(GradientWorker, self._config, self._plans), jobs)
        for model in self._runner.alive:
            done = dict(zip(tasks[model.plan.name], results[model.plan.name], strict=True))
            model.trusted, model.audited = (self._row_parts(model, split, 0, done) for split in ("trusted", "audited"))
            draws = model.plan.draws
            if draws:
                model.fitted_trusted = self._row_parts(model, "trusted", draws, done)
            if draws and model.plan.config.curvature.transductive:
                model.fitted_audited = self._row_parts(model, "audited", draws, done)
            model.failure = self._rows_failure(model, done)

    def _rows_failure(self, model: ModelRun, done: dict[RowTask, Receipt | Failure]) -> str:
        """Why a model cannot go on with the rows that it has; "" where it can."""
        trusted = (*model.trusted, *model.fitted_trusted)
        lost = [part.failure for part in trusted if part.failure]
        if lost:
            return f"{len(lost)} of {len(trusted)} tasks of the trusted set failed, so there is nothing complete to compare with: {lost[0]}"
        receipts = {task: result for task, result in done.items() if isinstance(result, Receipt)}
        nonfinite = {task: receipt.measures.nonfinite for task, receipt in receipts.items() if receipt.measures.nonfinite}
        if nonfinite and self._config.run.on_nonfinite == "fail":
            first = next(iter(nonfinite)).source.file.name
            return f"{sum(nonfinite.values()):,} gradients are not finite, the first of them in {first}, and run.on_nonfinite is fail"
        return ""

    def _rows_job(self, model: ModelRun, rows: RowTask) -> Job[GradientTask]:
        log, task = row_task_log(self._storage, model.plan, rows.source, rows.draws), GradientTask(rows, snapshots=model.snapshots)
        return Job(log, rows.name, task, retry=None if model.plan.stored else lambda receipt: replace(task, supersedes=receipt))

    def _row_parts(self, model: ModelRun, split: str, draws: int, done: dict[RowTask, Receipt | Failure]) -> tuple[RowsPart, ...]:
        """The parts of a split, in order, of rows of so many draws; a source without a failed task is published."""
        parts: list[RowsPart] = []
        for source in model.plan.trusted if split == "trusted" else model.plan.audited:
            log = row_task_log(self._storage, model.plan, source, draws)
            results = {task: done[task] for task in model.plan.tasks(source, draws)}
            receipts = [result for result in results.values() if isinstance(result, Receipt)]
            if len(receipts) == len(results):
                model.manifests.setdefault(f"fitted_{split}" if draws else split, []).append(log.publish(receipts))
            parts += [_row_part(log, task, result) for task, result in results.items()]
        return tuple(parts)

    def curvature(self) -> None:
        Fitting(self._storage, self._plans, self._runner).run()

    def scoring(self) -> None:
        jobs: dict[str, list[Job[ScoreTask]]] = {}
        for model in self._runner.alive:
            assert model.curvature is not None
            key = scoring_key(model.plan, model.curvature)
            jobs[model.plan.name] = [
                Job(scoring_log(self._storage, model.plan.name, key, part.source_key), part.name, ScoreTask(model.plan.name, key, part, model.curvature))
                for part in model.audited
            ]
        results = self._runner.run("scoring", partial(ScoringWorker, self._storage.url, self._plans), jobs)
        for name, own in results.items():
            self._collect_scores(self._runner.models[name], jobs[name], own)

    def _collect_scores(self, model: ModelRun, jobs: Sequence[Job[ScoreTask]], results: Sequence[Receipt | Failure]) -> None:
        by_log: dict[str, tuple[CommitLog, list[Receipt]]] = {}
        parts: list[ScorePart] = []
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, Failure):
                model.failure = f"scoring rows {job.task.part.start} to {job.task.part.stop} of {job.task.part.source}: {result.reason}"
                return
            part = job.task.part
            parts.append(ScorePart(part.source, part.source_key, part.start, part.stop, job.log.attempt_folder(result), result.content))
            by_log.setdefault(job.log.folder, (job.log, []))[1].append(result)
        model.score_parts = tuple(parts)
        model.manifests["scoring"] = [log.publish(receipts) for log, receipts in by_log.values()]

    def reporting(self) -> None:
        jobs: dict[str, list[Job[ReportTask]]] = {}
        for model in self._runner.alive:
            assert model.curvature is not None
            name, key = model.plan.name, reporting_key(model.plan, model.score_parts, model.curvature.content)
            task = ReportTask(name, key, model.score_parts, model.curvature.references, model.segments)
            jobs[name] = [Job(reporting_log(self._storage, name, key), REPORT, task)]
        results = self._runner.run("reporting", partial(ReportingWorker, self._storage.url, self._plans), jobs)
        for name, (receipt,) in self._runner.whole(results).items():
            model, log = self._runner.models[name], jobs[name][0].log
            model.report = receipt
            model.report_folder = log.attempt_folder(receipt)
            model.manifests["reporting"] = [log.publish([receipt])]


def _row_part(log: CommitLog, task: RowTask, result: Receipt | Failure) -> RowsPart:
    source, key = task.source.file.name, task.source.key
    if isinstance(result, Failure):
        return RowsPart(source, key, task.start, task.stop, "", key_of(failure=result.reason), result.reason)
    return RowsPart(source, key, task.start, task.stop, log.attempt_folder(result), result.content)
