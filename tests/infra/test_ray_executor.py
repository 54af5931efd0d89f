"""What a cluster adds: workers that die, tasks that kill, clusters that do not answer or have too little."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.errors import ClusterError
from infra.executors import Resources, TaskOutcome
from infra.ray_executor import TRIES, RayExecutor

TWO = Resources(workers=2)


@dataclass(frozen=True)
class Task:
    """A number, and how often the process that works on it dies first."""

    number: int
    deaths: int = 0
    model: str = "a"


class Doubler:
    """Doubles numbers; a task that is to die leaves a mark each time, so that the next try knows."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / f"worker-{os.getpid()}").touch()

    def __call__(self, task: Task) -> int:
        """Twice the number."""
        died = len(list(self.folder.glob(f"died-{task.number}-*")))
        if died < task.deaths:
            (self.folder / f"died-{task.number}-{died}").touch()
            os.kill(os.getpid(), 9)
        time.sleep(0.02)
        return 2 * task.number


@pytest.fixture
def run(ray_cluster: None, tmp_path: Path) -> Callable[..., list[TaskOutcome[Task, int]]]:
    """Runs tasks on two workers of the cluster."""

    def on_cluster(tasks: list[Task], resources: Resources = TWO) -> list[TaskOutcome[Task, int]]:
        with RayExecutor(None, resources) as executor:
            return list(executor.map_unordered(lambda: Doubler(tmp_path), tasks, resources))

    return on_cluster


Run = Callable[..., list[TaskOutcome[Task, int]]]


def test_tasks_of_many_models_are_all_done(run: Run) -> None:
    tasks = [Task(number, model="abc"[number % 3]) for number in range(30)]
    assert {outcome.task: outcome.result for outcome in run(tasks)} == {task: 2 * task.number for task in tasks}


def test_a_task_whose_worker_dies_is_tried_again_and_the_others_with_it(run: Run, tmp_path: Path) -> None:
    tasks = [Task(number, deaths=1 if number == 3 else 0) for number in range(8)]
    assert {outcome.task: outcome.result for outcome in run(tasks)} == {task: 2 * task.number for task in tasks}
    assert len(list(tmp_path.glob("died-3-*"))) == 1


def test_a_task_that_kills_its_workers_is_given_up_and_no_other(run: Run, tmp_path: Path) -> None:
    tasks = [Task(number, deaths=100 if number == 3 else 0) for number in range(8)]
    outcomes = {outcome.task.number: outcome for outcome in run(tasks)}
    assert len(outcomes) == len(tasks)
    assert {number: outcome.result for number, outcome in outcomes.items() if number != 3} == {number: 2 * number for number in range(8) if number != 3}
    assert outcomes[3].error is not None and f"given up, because {TRIES} workers were lost with it" in outcomes[3].error
    assert len(list(tmp_path.glob("died-3-*"))) == TRIES


def processes(executor: RayExecutor, folder: Path, resources: Resources) -> set[str]:
    """The processes that make workers for a call."""
    folder.mkdir()
    assert [outcome.error for outcome in executor.map_unordered(lambda: Doubler(folder), [Task(number) for number in range(8)], resources)] == [None] * 8
    return {mark.name for mark in folder.glob("worker-*")}


@pytest.mark.usefixtures("ray_cluster")
def test_processes_stay_for_the_next_call_that_asks_for_the_same_and_end_with_the_executor(tmp_path: Path) -> None:
    with RayExecutor(None, TWO) as executor:
        first, second = (processes(executor, tmp_path / name, TWO) for name in ("first", "second"))
        assert second <= first and len(first) <= 2
        other = processes(executor, tmp_path / "other", Resources(workers=2, memory_per_worker_bytes=1 << 20))
        assert other.isdisjoint(first)
    deadline = time.monotonic() + 30
    while any(Path("/proc", mark.removeprefix("worker-")).exists() for mark in first | other):
        assert time.monotonic() < deadline, "workers outlive their executor"
        time.sleep(0.1)


def test_many_processes_that_die_between_two_calls_are_replaced(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no sign that none can start."""
    monkeypatch.setattr("infra.ray_executor.FAILED_STARTS", 1)
    with RayExecutor(None, TWO) as executor:
        for mark in processes(executor, tmp_path / "first", TWO):
            os.kill(int(mark.removeprefix("worker-")), 9)
        assert processes(executor, tmp_path / "second", TWO)


REFUSED = {
    "gpus": (Resources(workers=2, gpus_per_worker=0.5), r"2 workers with 0\.5 GPUs each need 1 GPUs, the cluster has 0; lower run\.workers"),
    "memory": (
        Resources(memory_per_worker_bytes=1 << 50),
        r"a worker is granted 1048576\.00 GiB, the largest node of the cluster offers [\d.]+ GiB; lower run\.mem",
    ),
}


@pytest.mark.parametrize(("resources", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_the_cluster_can_never_give_is_refused_with_what_it_has(run: Run, resources: Resources, message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        run([Task(1)], resources)


ADDRESSES = {
    "nobody there": ("127.0.0.1:9", r"no Ray cluster answers at 127\.0\.0\.1:9 \(waited 1 s: .*refused\); is `ray start --head` running there\?"),
    "no address": ("somewhere", r"'somewhere' is no address of a Ray cluster; expected HOST:PORT"),
}


@pytest.mark.parametrize(("address", "message"), ADDRESSES.values(), ids=ADDRESSES.keys())
def test_an_address_where_no_cluster_answers(address: str, message: str) -> None:
    executor = RayExecutor(address, TWO, connect_seconds=1)
    with pytest.raises(ClusterError, match=message):
        executor.connect()
