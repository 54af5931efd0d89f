"""One step of a run: jobs that are done are reused, the others are executed, and every job ends with a receipt or a reason."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from infra.commits import CommitLog, Receipt
from infra.errors import NotCommitted, StorageError
from infra.events import Listener, StageStarted, TaskEnded
from infra.execution.contract import MOST_TASKS_AT_ONCE, Executor, Resources, TaskOutcome, never
from pipeline.errors import StageError
from pipeline.root.logs import Receipts, read_receipts
from pipeline.stages.progress import ModelRun


class AbsentRows:
    """The worker of rows that are used as they are stored: none is computed."""

    def __call__(self, task: object) -> Receipt:
        """Refuses.

        Raises:
            StageError: always.
        """
        raise StageError(
            "these rows are not stored, and `mad rescore` computes none; `mad run` does, with the model and the data at hand"
        )


class ModelTask(Protocol):
    """A task knows its model by name."""

    @property
    def model(self) -> str:
        """The model's name."""


Task = TypeVar("Task", bound=ModelTask)


Worker = Callable[[Task], Receipt]


Place = tuple[str, str]


GPU_STAGE = "gradients"


SHORT_TASK_STAGE = "scoring"  # where one more task reads ahead, while one computes and one writes


@dataclass(frozen=True)
class Job(Generic[Task]):
    """A task, where and under which name it is committed, and how it is tried again where rows of it were unreadable."""

    log: CommitLog
    name: str
    task: Task
    retry: Callable[[Receipt], Task] | None = None


@dataclass(frozen=True)
class Failure:
    """Why a job was given up."""

    reason: str


@dataclass(frozen=True)
class StepRunner:
    """Runs steps on an executor, keeping the books of each model. Once it is `closed` no task is begun.

    `known`: receipts that were read before.
    """

    models: Mapping[str, ModelRun]
    executor: Executor
    resources: Resources
    tell: Listener
    closed: Callable[[], bool] = never
    known: Receipts = field(default_factory=dict)

    @property
    def alive(self) -> list[ModelRun]:
        """Models that have not failed, and that a deadline has not left behind."""
        return [model for model in self.models.values() if model.alive]

    def run(
        self, stage: str, factory: Callable[[], Worker[Task]], jobs: Mapping[str, Sequence[Job[Task]]]
    ) -> dict[str, list[Receipt | Failure]]:
        """Results by model, in the order of its jobs; a model whose receipts cannot be read has failed and has none, nor has one with a job that was not begun.

        Raises:
            NotCommitted: the root does not take what a task made.
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
        self.tell(StageStarted(stage, total, total - len(pending)))
        places = {job.task: (job.log.folder, job.name) for job in pending}
        resources = self.resources if stage == GPU_STAGE else replace(self.resources, gpus_per_worker=0)
        resources = replace(resources, tasks_at_once=MOST_TASKS_AT_ONCE) if stage == SHORT_TASK_STAGE else resources
        for outcome in self.executor.map_unordered(factory, list(places), resources, self.closed):
            if outcome.stops:
                raise NotCommitted(
                    f"{outcome.error}; nothing was published, what is done is kept, and `mad run` goes on from it"
                )
            place = places[outcome.task]
            self._account(stage, outcome, earlier=results.get(place))
            if outcome.result is not None:
                results[place] = outcome.result
            else:
                results.setdefault(place, Failure(str(outcome.error)))
        for job in pending:
            self.models[job.task.model].unreached |= (job.log.folder, job.name) not in results
        return {
            model: [results[job.log.folder, job.name] for job in own]
            for model, own in jobs.items()
            if self.models[model].alive
        }

    def whole(self, results: Mapping[str, Sequence[Receipt | Failure]]) -> dict[str, list[Receipt]]:
        """The receipts of models all of whose jobs are done; the others have failed."""
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
        receipts = read_receipts({job.log.folder: job.log for job in jobs}, self.known)
        pending = []
        for job in jobs:
            receipt = receipts[job.log.folder].get(job.name)
            if receipt is None:
                pending.append(job)
                continue
            results[job.log.folder, job.name] = receipt
            if job.retry is not None and receipt.measures.unreadable:
                pending.append(replace(job, task=job.retry(receipt)))
            else:
                self.models[model].stages[stage].tasks_reused += 1
        return pending

    def _account(self, stage: str, outcome: TaskOutcome[Task, Receipt], earlier: Receipt | Failure | None) -> None:
        """A task tried again to no other result has cost next to nothing, whatever it cost the first time."""
        model, receipt = self.models[outcome.task.model], outcome.result
        model.stages[stage].tasks_run += 1
        if receipt is None:
            model.failed_tasks.append(f"{stage}: {outcome.error}")
        elif receipt != earlier:
            model.stages[stage].seconds += receipt.measures.seconds
            model.stages[stage].computing_seconds += receipt.measures.computing_seconds
            model.stages[stage].bytes_stored += sum(file.bytes for file in receipt.files)
        self.tell(
            TaskEnded(stage, model.plan.name, receipt.measures.rows if receipt else 0, outcome.error, outcome.trace)
        )
