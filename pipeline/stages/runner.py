"""Runs jobs: what is done is reused, the rest is executed, and every job ends with a receipt or a reason."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from infra.commits import CommitLog, Receipt
from infra.errors import NotCommitted, StorageError
from infra.events import Listener, StageStarted, TaskEnded
from infra.execution.contract import MOST_TASKS_AT_ONCE, Executor, Resources, TaskOutcome, never
from infra.storage.storage import Storage
from pipeline.config.audit_config import AuditConfig
from pipeline.errors import StageError
from pipeline.planning.plan import ModelPlan
from pipeline.root.logs import Receipts, read_receipts
from pipeline.stages.progress import ModelRun


class AbsentRows:
    """The worker of rows that are used as they are stored: it computes none."""

    def __call__(self, task: object) -> Receipt:
        """Refuse.

        Raises:
            StageError: always.
        """
        raise StageError(
            "these rows are not stored, and `mad rescore` computes none; `mad run` does, with the model and the data"
        )


class ModelTask(Protocol):
    """A task knows the name of its model, and its own in its commit log."""

    @property
    def model(self) -> str:
        """The model's name."""

    @property
    def name(self) -> str:
        """The name under which it is committed."""


Task = TypeVar("Task", bound=ModelTask)

Worker = Callable[[Task], Receipt]

Place = tuple[str, str]  # a log's folder, and a task's name in it

GPU_STAGE = "gradients"

SHORT_TASK_STAGE = "scoring"  # one more task reads ahead, while one computes and one writes


@dataclass(frozen=True)
class Job(Generic[Task]):
    """A task, the log it is committed to, and how it is tried again where rows of it were unreadable."""

    log: CommitLog
    task: Task
    retry: Callable[[Receipt], Task] | None = None

    @property
    def place(self) -> Place:
        """What identifies the job among those of all logs."""
        return self.log.folder, self.task.name


@dataclass(frozen=True)
class Failure:
    """Why the task of a job failed for good."""

    reason: str


@dataclass(frozen=True)
class StepRunner:
    """Runs steps on an executor and tracks the progress of each model. Once `deadline_passed`, no task is started.

    `known`: receipts that were read before.
    """

    models: Mapping[str, ModelRun]
    executor: Executor
    resources: Resources
    notify: Listener
    deadline_passed: Callable[[], bool] = never
    known: Receipts = field(default_factory=dict)

    @property
    def runnable(self) -> list[ModelRun]:
        """Models that have not failed, and whose tasks have all been started before the deadline."""
        return [model for model in self.models.values() if model.runnable]

    def run(
        self, stage: str, factory: Callable[[], Worker[Task]], jobs: Mapping[str, Sequence[Job[Task]]]
    ) -> dict[str, list[Receipt | Failure]]:
        """Run the jobs of several models together.

        Returns:
            Results by model, in the order of its jobs. A model whose receipts cannot be read has failed and is left
            out, and so is one with a job that was not started.

        Raises:
            NotCommitted: the root does not accept what a task made.
        """
        results: dict[Place, Receipt | Failure] = {}
        pending: list[Job[Task]] = []
        for model, own in jobs.items():
            try:
                pending += self._pending(stage, model, own, results)
            except StorageError as error:
                self.models[model].failure = str(error)
        jobs = {model: own for model, own in jobs.items() if not self.models[model].failure}
        total = sum(map(len, jobs.values()))
        self.notify(StageStarted(stage, total, total - len(pending)))
        self._execute(stage, factory, pending, results)
        return {
            model: [results[job.place] for job in own] for model, own in jobs.items() if self.models[model].runnable
        }

    def receipts_of_complete(self, results: Mapping[str, Sequence[Receipt | Failure]]) -> dict[str, list[Receipt]]:
        """The receipts of models all of whose jobs are done; the others are marked as failed."""
        for name, own in results.items():
            reasons = [result.reason for result in own if isinstance(result, Failure)]
            if reasons:
                self.models[name].failure = reasons[0]
        return {
            name: [result for result in own if isinstance(result, Receipt)]
            for name, own in results.items()
            if not self.models[name].failure
        }

    def _pending(
        self, stage: str, model: str, jobs: Sequence[Job[Task]], results: dict[Place, Receipt | Failure]
    ) -> list[Job[Task]]:
        """The jobs still to do; receipts of the others, and of those to be tried again, go to `results`."""
        receipts = self._receipts(self.models[model], jobs)
        pending = []
        for job in jobs:
            receipt = receipts[job.log.folder].get(job.task.name)
            if receipt is None:
                pending.append(job)
                continue
            results[job.place] = receipt
            if job.retry is not None and receipt.measures.unreadable:
                pending.append(replace(job, task=job.retry(receipt)))
            else:
                self.models[model].stages[stage].tasks_reused += 1
        return pending

    def _receipts(self, model: ModelRun, jobs: Sequence[Job[Task]]) -> Receipts:
        """The receipts of each job's log, by folder: those that a manifest lists, where it lists those of all jobs."""
        logs = {job.log.folder: job.log for job in jobs}
        listed = {folder: model.listed(log) for folder, log in logs.items()}
        open_logs = {job.log.folder: job.log for job in jobs if job.task.name not in listed[job.log.folder]}
        return {**listed, **(read_receipts(open_logs, self.known) if open_logs else {})}

    def _execute(
        self,
        stage: str,
        factory: Callable[[], Worker[Task]],
        jobs: Sequence[Job[Task]],
        results: dict[Place, Receipt | Failure],
    ) -> None:
        """Execute jobs, and add their results; a job tried again in vain keeps its earlier receipt."""
        places = {job.task: job.place for job in jobs}
        for outcome in self.executor.map_unordered(factory, list(places), self._resources(stage), self.deadline_passed):
            if outcome.stops:
                raise NotCommitted(
                    f"{outcome.error}; nothing was published, what is done is kept, and `mad run` resumes from it"
                )
            place = places[outcome.task]
            self._account(stage, outcome, earlier=results.get(place))
            if outcome.result is not None:
                results[place] = outcome.result
            else:
                results.setdefault(place, Failure(str(outcome.error)))
        for job in jobs:
            self.models[job.task.model].unreached |= job.place not in results

    def _resources(self, stage: str) -> Resources:
        """What the workers of a stage are given."""
        resources = self.resources if stage == GPU_STAGE else replace(self.resources, gpus_per_worker=0)
        return replace(resources, tasks_at_once=MOST_TASKS_AT_ONCE) if stage == SHORT_TASK_STAGE else resources

    def _account(self, stage: str, outcome: TaskOutcome[Task, Receipt], earlier: Receipt | Failure | None) -> None:
        """Add the cost of a task; one tried again with the same result has cost next to nothing this time."""
        model, receipt = self.models[outcome.task.model], outcome.result
        model.stages[stage].tasks_run += 1
        if receipt is None:
            model.failed_tasks.append(f"{stage}: {outcome.error}")
        elif receipt != earlier:
            model.stages[stage].seconds += receipt.measures.seconds
            model.stages[stage].computing_seconds += receipt.measures.computing_seconds
            model.stages[stage].bytes_stored += sum(file.bytes for file in receipt.files)
        rows = receipt.measures.rows if receipt else 0
        self.notify(TaskEnded(stage, model.plan.name, rows, outcome.error, outcome.trace))


@dataclass(frozen=True)
class StageInputs:
    """What every stage is given: the config, the root's storage, and the runner with the models of this pass."""

    config: AuditConfig
    storage: Storage
    runner: StepRunner

    @property
    def plans(self) -> dict[str, ModelPlan]:
        """The plans of the runner's models, by name."""
        return {name: model.plan for name, model in self.runner.models.items()}
