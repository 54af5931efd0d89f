"""A run: the stages one after the other over all models, then publication. What an earlier run has committed is reused.

A model that fails is set aside with the reason, and the others continue. With a deadline, models go through the stages
in waves, those that need it most first (see `pipeline.planning.earlier_runs.order`), so that some are complete when it
passes. Without one, all of them go together, which leaves no worker waiting at the end of each wave.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from infra.events import Event, Listener, Notice, StageEnded, Stopwatch, ignore
from infra.execution.choose import open_executor
from infra.storage.storage import Storage
from pipeline.errors import ConfigError
from pipeline.planning.earlier_runs.order import LastAudit, gone_files, in_order, last_audits, waves
from pipeline.planning.plan import AuditPlan, ModelPlan
from pipeline.planning.recorded_contents import with_contents
from pipeline.planning.resources import resources_of
from pipeline.publication.notify import notify
from pipeline.publication.publish import finish_interrupted_publication, publish
from pipeline.publication.record import begin
from pipeline.results.audit import Audit
from pipeline.root.logs import PROBE, STAGES
from pipeline.root.mark import claim_root, root_lock
from pipeline.root.records import RunOutcome
from pipeline.stages.progress import ModelRun
from pipeline.stages.runner import StageInputs, StepRunner
from pipeline.stages.sequence import run_stages


class Deadline:
    """A moment after which no task is started: so many seconds from its creation, on a monotonic clock."""

    def __init__(self, seconds: float):
        """Start counting now."""
        self.seconds = seconds
        self._watch = Stopwatch()

    def passed(self) -> bool:
        """Whether it is over."""
        return self._watch.seconds >= self.seconds


def run_audit(
    plan: AuditPlan,
    executor: str = "serial",
    until: str = "reporting",
    listener: Listener = ignore,
    address: str | None = None,
) -> Audit:
    """Run a plan to the end, or to the end of the stage `until`, and open the result.

    It resumes by itself: tasks that are done, by this run or any other in this root, are not repeated.

    Args:
        plan: from `plan_audit`.
        executor: `serial`, in this process, or `ray`, on a cluster.
        until: `gradients`, `curvature`, `scoring` or `reporting`; scores are published after the last only.
        listener: receives events of stages and tasks, and notices.
        address: of the Ray cluster to join; None takes RAY_ADDRESS from the environment, or else starts one here.

    Returns:
        The audit, its `outcome` that of this run.

    Raises:
        ConfigError: no such executor or stage.
        ClusterError: no cluster answers, or it lacks what the config requires.
        CannotFit: every model would need more memory in a worker than `run.memory_per_worker`.
        RootError: the root is not one, or its store lets two writers overwrite each other.
        LockHeld: another process runs an audit in this root.
        StorageError: the root is full, read-only or does not answer; what is done is kept.
    """
    if until not in STAGES:
        raise ConfigError(f"there is no stage {until!r}; stages: {', '.join(STAGES)}")
    plan, resources = plan.fitting(), resources_of(plan.config, executor)
    with open_executor(executor, address, resources) as opened:
        runner = StepRunner({}, opened, resources, listener, known=plan.receipts)
        return _run(plan, runner, STAGES[: STAGES.index(until) + 1])


def run_audit_until(
    plan: AuditPlan,
    passed: Callable[[], bool],
    executor: str = "serial",
    listener: Listener = ignore,
    address: str | None = None,
) -> Audit:
    """Run a plan until a deadline, and open the result: only models that are complete by then are published.

    The order of models: those that no run has completed, those that changed, then those whose latest completed run is
    oldest. Tasks that have started at the deadline end, so a run outlasts it by a task or two of each worker, and by
    publication. What is done is kept.

    Args:
        plan: from `plan_audit`.
        passed: whether no further task should be started, such as `Deadline(seconds).passed`.
        executor: as in `run_audit`.
        listener: as in `run_audit`.
        address: as in `run_audit`.

    Returns:
        The audit; models that were not reached are its outcome's `unreached`, in order of priority.

    Raises:
        ConfigError, ClusterError, CannotFit, RootError, LockHeld, StorageError: as `run_audit`.
    """
    plan, resources = plan.fitting(), resources_of(plan.config, executor)
    with open_executor(executor, address, resources) as opened:
        runner = StepRunner({}, opened, resources, listener, passed, plan.receipts)
        return _run_in_waves(plan, runner, 1 if executor == "serial" else resources.workers)


def _run(plan: AuditPlan, runner: StepRunner, stages: Sequence[str]) -> Audit:
    root = Storage(plan.config.root)
    claim_root(root)
    with root_lock(root) as lock:
        storage = lock.guarded()
        shown = finish_interrupted_publication(storage)
        plan = with_contents(plan, runner.notify)
        runner = replace(runner, models=_model_runs(plan, last_audits(storage, plan, shown), runner.notify))
        run_id = begin(storage, plan)
        _publish_probes(storage, runner.models)
        run_stages(StageInputs(plan.config, storage, runner), stages, lock.check)
        outcome = publish(storage, run_id, plan, list(runner.models.values()), complete=stages[-1] == STAGES[-1])
    return _opened(plan, root, outcome, runner.notify)


def _run_in_waves(plan: AuditPlan, runner: StepRunner, workers: int) -> Audit:
    root = Storage(plan.config.root)
    claim_root(root)
    with root_lock(root) as lock:
        storage = lock.guarded()
        audits = last_audits(storage, plan, finish_interrupted_publication(storage))
        plan = with_contents(in_order(plan, audits), runner.notify)
        models = _model_runs(plan, audits, runner.notify)
        run_id = begin(storage, plan)
        _publish_probes(storage, models)
        totals = StageTotals(runner.notify)
        for wave in waves(plan.models, workers):
            if runner.deadline_passed():
                break
            of_wave = replace(runner, models={model.name: models[model.name] for model in wave}, notify=totals)
            run_stages(StageInputs(plan.config, storage, of_wave), STAGES, lock.check)
            complete = sum(model.report is not None for model in models.values())
            runner.notify(Notice(f"{complete} of {len(models)} models are complete"))
        totals.notify()
        outcome = publish(storage, run_id, plan, list(models.values()), complete=True)
    return _opened(plan, root, outcome, runner.notify)


class StageTotals:
    """Passes events on, except the ends of stages, whose seconds it adds up over waves."""

    def __init__(self, listener: Listener):
        """Pass events on to this listener."""
        self._listener, self._seconds = listener, dict[str, float]()

    def __call__(self, event: Event) -> None:
        """Hear an event."""
        if isinstance(event, StageEnded):
            self._seconds[event.stage] = self._seconds.get(event.stage, 0.0) + event.seconds
        else:
            self._listener(event)

    def notify(self) -> None:
        """Report the end of each stage, once, with its total."""
        for stage, total in self._seconds.items():
            self._listener(StageEnded(stage, total))


def _opened(plan: AuditPlan, storage: Storage, outcome: RunOutcome, listener: Listener) -> Audit:
    """The audit of a run that has ended, after its verdicts were delivered."""
    if plan.config.on_verdict is not None:
        controls = {model.name for model in plan.config.models if model.untrained}
        told = {name: summary for name, summary in outcome.summaries.items() if name not in controls}
        notify(plan.config.on_verdict, plan.config.folder, storage.url, told, listener)
    return Audit(storage, outcome)


def _publish_probes(storage: Storage, models: Mapping[str, ModelRun]) -> None:
    """Publish what planning found out about models, which it held back until the root was claimed.

    What `mad gc` removed since then, because no kept run referred to it, is named no more.
    """
    for name, run in models.items():
        probe = run.plan.probe
        if probe is None:
            continue
        path = probe.publish(storage, name)
        if not probe.is_published or path in run.published.values() or storage.exists(path):
            run.manifests[PROBE] = [path]


def _model_runs(plan: AuditPlan, audits: Mapping[str, LastAudit], listener: Listener) -> dict[str, ModelRun]:
    """All models at the start of a run; notices say which rows are computed again, and which files are gone."""
    runs = {model.name: _model_run(plan, model, audits.get(model.name)) for model in plan.models}
    for name, run in runs.items():
        if run.plan.recomputed:
            listener(Notice(f"model {name}: all rows are computed again, once: {run.plan.recomputed}"))
        if run.gone:
            files = ", ".join(run.gone)
            line = "files that its latest run audited and that no glob finds any more"
            listener(Notice(f"model {name}: {line}: {files}"))
    return runs


def _model_run(plan: AuditPlan, model: ModelPlan, last: LastAudit | None) -> ModelRun:
    latest = last.summary if last is not None else None
    return ModelRun(model, gone_files(model, last), plan.costs.get(model.name), latest=latest)
