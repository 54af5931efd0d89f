"""A run: the stages one after the other over all models, then publication. What an earlier run has committed is not done again.

A model that fails is set aside with the reason, and the others go on. With a deadline models go through the stages in waves, those
first that need it most (see `pipeline.priority`), so that some are whole when it comes; without one, all of them together, which
leaves no worker waiting at the end of each wave.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from infra.commits import CommitLog, Receipt
from infra.events import Event, Listener, Notice, StageEnded, Stopwatch, ignore
from infra.executors import EXECUTORS, Resources, open_executor
from infra.storage import Storage
from pipeline.alerts import tell
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
from pipeline.priority import LastAudit, gone_files, in_order, last_audits, waves
from pipeline.progress import ModelRun
from pipeline.publication import RunOutcome, begin, make_up, publish
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
    if until not in STAGES:
        raise ConfigError(f"there is no stage {until!r}; stages: {', '.join(STAGES)}")
    plan, resources = plan.fitting(), _resources(plan, executor)
    with open_executor(executor, address, resources) as opened:
        return _run(plan, StepRunner({}, opened, resources, listener), STAGES[: STAGES.index(until) + 1])


def run_audit_until(plan: AuditPlan, passed: Callable[[], bool], executor: str = "serial", listener: Listener = ignore, address: str | None = None) -> Audit:
    """Runs a plan as far as a deadline lets it, and opens the result: models that are whole by then are published, nothing is of the others.

    Models go first that no run has completed, then those that changed, then those whose latest completed run is oldest. Tasks that
    have begun at the deadline end, so a run outlasts it by a task or two of each worker, and by publication. What is done is kept.

    Args:
        plan: from `plan_audit`.
        passed: whether no further task should be begun, such as `Deadline(seconds).passed`.
        executor: as of `run_audit`.
        listener: as of `run_audit`.
        address: as of `run_audit`.

    Returns:
        The audit; models that were not come to are its outcome's `unreached`, in order of priority.

    Raises:
        ConfigError, ClusterError, CannotFit, RootError, LockHeld, StorageError: as `run_audit`.
    """
    plan, resources = plan.fitting(), _resources(plan, executor)
    with open_executor(executor, address, resources) as opened:
        runner = StepRunner({}, opened, resources, listener, passed)
        return _run_in_waves(plan, runner, 1 if executor == "serial" else resources.workers)


def _resources(plan: AuditPlan, executor: str) -> Resources:
    if executor not in EXECUTORS:
        raise ConfigError(f"executor {executor!r} is not available in this version; available: {', '.join(EXECUTORS)}")
    return Resources(plan.config.run.workers, plan.config.run.gpus_per_worker, int(plan.config.run.memory_per_worker))


def _run(plan: AuditPlan, runner: StepRunner, stages: Sequence[str]) -> Audit:
    storage = Storage(plan.config.root)
    claim_root(storage)
    with root_lock(storage) as lock:
        make_up(storage)
        runner = replace(runner, models=_model_runs(plan, last_audits(storage, plan), runner.tell))
        run_id = begin(storage, plan)
        compute(plan, storage, runner, stages, lock.check)
        outcome = publish(storage, run_id, plan, list(runner.models.values()), complete=stages[-1] == STAGES[-1])
    return _told(plan, storage, outcome, runner.tell)


def _run_in_waves(plan: AuditPlan, runner: StepRunner, workers: int) -> Audit:
    storage = Storage(plan.config.root)
    claim_root(storage)
    with root_lock(storage) as lock:
        make_up(storage)
        audits = last_audits(storage, plan)
        plan = in_order(plan, audits)
        models = _model_runs(plan, audits, runner.tell)
        run_id = begin(storage, plan)
        seconds = dict[str, float]()

        def summed(event: Event) -> None:
            if isinstance(event, StageEnded):
                seconds[event.stage] = seconds.get(event.stage, 0.0) + event.seconds
            else:
                runner.tell(event)

        for wave in waves(plan.models, workers):
            if runner.closed():
                break
            of_wave = replace(runner, models={model.name: models[model.name] for model in wave}, tell=summed)
            compute(replace(plan, models=wave), storage, of_wave, STAGES, lock.check)
            runner.tell(Notice(f"{sum(model.report is not None for model in models.values())} of {len(models)} models are through"))
        for stage, total in seconds.items():
            runner.tell(StageEnded(stage, total))
        outcome = publish(storage, run_id, plan, list(models.values()), complete=True)
    return _told(plan, storage, outcome, runner.tell)


def _told(plan: AuditPlan, storage: Storage, outcome: RunOutcome, listener: Listener) -> Audit:
    if plan.config.on_verdict is not None:
        tell(plan.config.on_verdict, plan.config.folder, storage.url, outcome.summaries, listener)
    return Audit(storage, outcome)


def compute(plan: AuditPlan, storage: Storage, runner: StepRunner, stages: Sequence[str], check: Callable[[], None]) -> None:
    """Stages of a plan, for the models of the runner: their tasks are committed, no run is recorded, and nothing is published.

    `check`: called after each stage; raises where the root's lock is lost.
    """
    steps = _Stages(plan, storage, runner)
    for stage in stages:
        watch = Stopwatch()
        getattr(steps, stage)()
        runner.tell(StageEnded(stage, watch.seconds))
        check()


def _model_runs(plan: AuditPlan, audits: Mapping[str, LastAudit], tell: Listener) -> dict[str, ModelRun]:
    """All models at the start of a run; tells of files that are gone."""
    runs = {model.name: ModelRun(model, gone_files(model, audits.get(model.name)), plan.costs.get(model.name)) for model in plan.models}
    for name, run in runs.items():
        if run.gone:
            tell(Notice(f"model {name}: files that its latest run audited and that no glob finds any more: {', '.join(run.gone)}"))
    return runs


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
