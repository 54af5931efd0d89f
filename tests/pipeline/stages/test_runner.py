"""The step runner on real logs and the serial executor: what is reused, executed, tried again, failed or not begun."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from infra.commits import CommitLog, Measures, Receipt
from infra.errors import NotCommitted
from infra.events import Event, StageStarted, TaskEnded
from infra.execution.contract import Resources
from infra.execution.serial import SerialExecutor
from infra.storage.storage import Storage
from pipeline.errors import StageError
from pipeline.planning.plan import AuditPlan, ModelPlan
from pipeline.stages.progress import ModelRun
from pipeline.stages.runner import AbsentRows, Failure, Job, StageInputs, StepRunner

STAGE = "scoring"


@dataclass(frozen=True)
class Square:
    """A task that stores the square of a number."""

    model: str
    number: int
    supersedes: Receipt | None = None

    @property
    def name(self) -> str:
        return f"square-{self.number}"


@dataclass
class Squaring:
    """Its worker: numbers below 0 fail, 13 fills the disk, odd ones are unreadable at first, or for good if `lost`."""

    log: CommitLog
    lost: bool = False
    called: list[int] = field(default_factory=list)

    def __call__(self, task: Square) -> Receipt:
        self.called.append(task.number)
        if task.number < 0:
            raise ValueError("negative")
        if task.number == 13:
            raise NotCommitted("the disk is full")
        unreadable = task.number % 2 == 1 and (task.supersedes is None or self.lost)
        measures = Measures(rows=1, seconds=2.0, computing_seconds=1.0, peak_memory_bytes=1, unreadable=int(unreadable))
        content = b"unreadable" if unreadable else str(task.number**2).encode()
        return self.log.commit(task.name, {"square": content}, measures, task.supersedes)


@pytest.fixture
def log(tmp_path: Path) -> CommitLog:
    return CommitLog(Storage(str(tmp_path)), "digits/squares/key")


def runner_of(plan: ModelPlan, events: list[Event], passed: Callable[[], bool] = lambda: False) -> StepRunner:
    return StepRunner({"digits": ModelRun(plan)}, SerialExecutor(), Resources(tasks_at_once=1), events.append, passed)


def jobs(log: CommitLog, *numbers: int) -> dict[str, list[Job[Square]]]:
    return {"digits": [Job(log, Square("digits", number)) for number in numbers]}


def squares(log: CommitLog, results: list[Receipt | Failure]) -> list[str]:
    read = []
    for result in results:
        assert isinstance(result, Receipt)
        read.append(log.storage.read(f"{log.attempt_folder(result)}/square").decode())
    return read


def test_results_come_in_the_order_of_the_jobs_and_are_reused_the_next_time(plan: ModelPlan, log: CommitLog) -> None:
    events, worker = list[Event](), Squaring(log)
    first = runner_of(plan, events)
    results = first.run(STAGE, lambda: worker, jobs(log, 4, 2, 6))
    assert squares(log, results["digits"]) == ["16", "4", "36"]
    cost = first.models["digits"].stages[STAGE]
    assert (cost.tasks_run, cost.tasks_reused, cost.seconds, cost.computing_seconds) == (3, 0, 6.0, 3.0)
    assert cost.bytes_stored == len("16") + len("4") + len("36")
    assert events[0] == StageStarted(STAGE, 3, 0)
    assert [event.rows for event in events[1:] if isinstance(event, TaskEnded)] == [1, 1, 1]

    again = runner_of(plan, events)
    assert again.run(STAGE, lambda: worker, jobs(log, 6, 2, 8)) == {
        "digits": [results["digits"][2], results["digits"][1], log.receipts()["square-8"]]
    }
    assert worker.called == [4, 2, 6, 8]
    cost = again.models["digits"].stages[STAGE]
    assert (cost.tasks_run, cost.tasks_reused, cost.seconds) == (1, 2, 2.0)


def test_a_failed_task_has_its_reason_and_leaves_its_model_incomplete(plan: ModelPlan, log: CommitLog) -> None:
    runner = runner_of(plan, [])
    results = runner.run(STAGE, lambda: Squaring(log), jobs(log, 2, -1))
    failure = results["digits"][1]
    assert isinstance(failure, Failure) and "negative" in failure.reason
    assert runner.models["digits"].failed_tasks == [f"{STAGE}: {failure.reason}"]
    assert runner.runnable, "a stage decides whether it can do without a task"
    assert runner.receipts_of_complete(results) == {}
    assert runner.models["digits"].failure == failure.reason
    assert runner.runnable == []


def test_the_receipts_of_a_complete_model_are_its_results(plan: ModelPlan, log: CommitLog) -> None:
    runner = runner_of(plan, [])
    results = runner.run(STAGE, lambda: Squaring(log), jobs(log, 2, 4))
    assert runner.receipts_of_complete(results) == results


def test_what_was_unreadable_is_tried_again_until_it_is_readable(plan: ModelPlan, log: CommitLog) -> None:
    def job(number: int) -> Job[Square]:
        return Job(log, Square("digits", number), lambda receipt: Square("digits", number, receipt))

    worker = Squaring(log)
    (first,) = runner_of(plan, []).run(STAGE, lambda: worker, {"digits": [job(3)]})["digits"]
    retrying = runner_of(plan, [])
    (second,) = retrying.run(STAGE, lambda: worker, {"digits": [job(3)]})["digits"]
    assert isinstance(first, Receipt) and isinstance(second, Receipt)
    assert (first.measures.unreadable, second.measures.unreadable) == (1, 0)
    assert worker.called == [3, 3]
    third = runner_of(plan, [])
    assert third.run(STAGE, lambda: worker, {"digits": [job(3)]}) == {"digits": [second]}
    assert worker.called == [3, 3], "now all is readable"
    assert third.models["digits"].stages[STAGE].tasks_reused == 1


def test_a_retry_to_no_other_result_costs_nothing(plan: ModelPlan, log: CommitLog) -> None:
    job = Job(log, Square("digits", 3), lambda receipt: Square("digits", 3, receipt))
    worker = Squaring(log, lost=True)
    (first,) = runner_of(plan, []).run(STAGE, lambda: worker, {"digits": [job]})["digits"]
    retrying = runner_of(plan, [])
    assert retrying.run(STAGE, lambda: worker, {"digits": [job]}) == {"digits": [first]}
    cost = retrying.models["digits"].stages[STAGE]
    assert (cost.tasks_run, cost.seconds, cost.bytes_stored) == (1, 0.0, 0)


def test_a_retry_that_fails_keeps_the_earlier_receipt(plan: ModelPlan, log: CommitLog) -> None:
    (first,) = runner_of(plan, []).run(STAGE, lambda: Squaring(log), jobs(log, 3))["digits"]

    def broken(task: Square) -> Receipt:
        raise ValueError("the file is gone")

    retrying = runner_of(plan, [])
    job = Job(log, Square("digits", 3), lambda receipt: Square("digits", 3, receipt))
    assert retrying.run(STAGE, lambda: broken, {"digits": [job]}) == {"digits": [first]}
    assert len(retrying.models["digits"].failed_tasks) == 1


def test_a_job_that_a_deadline_left_behind_makes_its_model_unreached(plan: ModelPlan, log: CommitLog) -> None:
    worker = Squaring(log)
    runner = runner_of(plan, [], lambda: len(worker.called) >= 1)
    assert runner.run(STAGE, lambda: worker, jobs(log, 2, 4, 6)) == {}
    assert worker.called == [2]
    assert runner.models["digits"].unreached and runner.runnable == []
    assert set(log.receipts()) == {"square-2"}, "what is done is kept"


def test_a_full_disk_stops_everything(plan: ModelPlan, log: CommitLog) -> None:
    with pytest.raises(NotCommitted, match=r"the disk is full; nothing was published, .* `mad run` resumes from it"):
        runner_of(plan, []).run(STAGE, lambda: Squaring(log), jobs(log, 2, 13, 4))


def test_a_model_whose_receipts_cannot_be_read_has_failed(plan: ModelPlan, log: CommitLog) -> None:
    log.storage.write(f"{log.folder}/receipts/stranger", b"{}")
    worker = Squaring(log)
    runner = runner_of(plan, [])
    assert runner.run(STAGE, lambda: worker, jobs(log, 2)) == {}
    assert "not the name of a receipt" in runner.models["digits"].failure
    assert worker.called == []


def test_absent_rows_say_which_command_computes_them(plan: ModelPlan) -> None:
    with pytest.raises(StageError, match="`mad rescore` computes none; `mad run` does"):
        AbsentRows()("any task")


def test_the_plans_of_a_stage_are_those_of_its_runners_models(audit_plan: AuditPlan, tmp_path: Path) -> None:
    (plan,) = audit_plan.models
    inputs = StageInputs(audit_plan.config, Storage(str(tmp_path)), runner_of(plan, []))
    assert inputs.plans == {"digits": plan}
