"""What a cluster adds: workers that die, tasks that kill workers, clusters that do not answer or are too small."""

import ctypes
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from infra.errors import ClusterError
from infra.execution.contract import Resources, TaskOutcome
from infra.execution.on_ray import TRIES, RayExecutor

TWO = Resources(workers=2)
LONG = pytest.mark.faults


@dataclass(frozen=True)
class Task:
    """A number, and how many processes that work on it end before one succeeds, and how they end."""

    number: int
    deaths: int = 0
    model: str = "a"
    end: str = "killed"


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def read_nothing() -> None:
    """A segmentation fault."""
    ctypes.string_at(0)


def allow(extra: int) -> None:
    """Limit the memory of this process to `extra` bytes more than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + extra,) * 2)


def fill_memory() -> None:
    allow(64 << 20)
    bytearray(1 << 30)


def fill_memory_with_a_tensor() -> None:
    import torch  # noqa: PLC0415 - every worker imports this module, and only these need torch

    allow(64 << 20)
    torch.empty(1 << 30)


ENDS_ALIKE = ("segfault", "tensor")
ENDS = {"killed": be_killed, "segfault": read_nothing, "memory": fill_memory, "tensor": fill_memory_with_a_tensor}


class Doubler:
    """Doubles numbers; a task that ends its process leaves a mark each time, by which the next try counts."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / f"worker-{os.getpid()}").touch()

    def __call__(self, task: Task) -> int:
        """Twice the number."""
        died = len(list(self.folder.glob(f"died-{task.number}-*")))
        if died < task.deaths:
            (self.folder / f"died-{task.number}-{died}").touch()
            ENDS[task.end]()
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


OUT_OF_MEMORY = r", as memory ran out; raise run\.memory_per_worker or lower run\.batch_size$"

GIVEN_UP = {
    "killed": r"^given up after 3 workers were lost with it, the last with ActorDiedError",
    "segfault": r"^given up after 3 workers were lost with it, the last with ActorDiedError",
    "memory": rf"the last with MemoryError{OUT_OF_MEMORY}",
    "tensor": rf"the last with RuntimeError: .*can't allocate memory.*{OUT_OF_MEMORY}",
}


@pytest.mark.parametrize("end", ["killed", "memory", *(pytest.param(end, marks=LONG) for end in ENDS_ALIKE)])
def test_a_task_that_ends_its_workers_is_given_up_and_no_other(run: Run, tmp_path: Path, end: str) -> None:
    tasks = [Task(number, deaths=100 if number == 3 else 0, end=end) for number in range(8)]
    outcomes = {outcome.task.number: outcome for outcome in run(tasks)}
    assert len(outcomes) == len(tasks)
    assert {number: outcome.result for number, outcome in outcomes.items() if number != 3} == {
        number: 2 * number for number in range(8) if number != 3
    }
    assert re.search(GIVEN_UP[end], str(outcomes[3].error)), outcomes[3].error
    assert len(list(tmp_path.glob("died-3-*"))) == TRIES


@pytest.mark.parametrize("end", ["memory", pytest.param("tensor", marks=pytest.mark.faults)])
def test_a_task_for_which_memory_ran_out_once_is_done_in_another_process(run: Run, tmp_path: Path, end: str) -> None:
    tasks = [Task(number, deaths=1 if number == 3 else 0, end=end) for number in range(8)]
    assert {outcome.task: outcome.result for outcome in run(tasks)} == {task: 2 * task.number for task in tasks}
    assert len(list(tmp_path.glob("died-3-*"))) == 1


def processes(executor: RayExecutor, folder: Path, resources: Resources) -> set[str]:
    """The processes that make workers for a call."""
    folder.mkdir()
    assert [
        outcome.error
        for outcome in executor.map_unordered(lambda: Doubler(folder), [Task(number) for number in range(8)], resources)
    ] == [None] * 8
    return {mark.name for mark in folder.glob("worker-*")}


@pytest.mark.usefixtures("ray_cluster")
def test_processes_stay_for_the_next_call_that_asks_for_the_same_and_end_with_the_executor(tmp_path: Path) -> None:
    with RayExecutor(None, TWO) as executor:
        calls = [processes(executor, tmp_path / str(number), TWO) for number in range(3)]
        same = set().union(*calls)
        assert 1 <= len(same) <= TWO.workers  # one may do the tasks of a call alone while the other starts
        other = processes(executor, tmp_path / "other", Resources(workers=2, memory_per_worker_bytes=1 << 20))
        assert other.isdisjoint(same)
    deadline = time.monotonic() + 30
    while any(Path("/proc", mark.removeprefix("worker-")).exists() for mark in same | other):
        assert time.monotonic() < deadline, "workers outlive their executor"
        time.sleep(0.1)


def test_many_processes_that_die_between_two_calls_are_replaced(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their death does not mean that no worker can start."""
    monkeypatch.setattr("infra.execution.on_ray.FAILED_STARTS", 1)
    with RayExecutor(None, TWO) as executor:
        for mark in processes(executor, tmp_path / "first", TWO):
            os.kill(int(mark.removeprefix("worker-")), 9)
        assert processes(executor, tmp_path / "second", TWO)


class Holder:
    """Occupies the cluster."""

    def there(self) -> None:
        """Return once it runs."""


@pytest.mark.usefixtures("ray_cluster")
def test_a_call_without_room_on_the_cluster_ends_after_a_while(tmp_path: Path) -> None:
    holder = ray.remote(Holder).options(num_cpus=2).remote()
    ray.get(holder.there.remote())
    try:
        expected = (
            r"no worker has run for \d s: no node .* has room for one, which needs 1 CPU and 0\.00 GiB of memory;"
        )
        with RayExecutor(None, TWO, patience=2) as executor, pytest.raises(ClusterError, match=expected):
            list(executor.map_unordered(lambda: Doubler(tmp_path), [Task(1)], TWO))
    finally:
        ray.kill(holder)


REFUSED = {
    "gpus": (
        Resources(workers=2, gpus_per_worker=0.5),
        r"2 workers with 0\.5 GPUs each need 1 GPUs, the cluster has 0; lower run\.workers",
    ),
    "memory": (
        Resources(memory_per_worker_bytes=1 << 50),
        r"a worker needs 1048576\.00 GiB, the largest node of the cluster offers [\d.]+ GiB; lower run\.mem",
    ),
}


@pytest.mark.parametrize(("resources", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_the_cluster_can_never_give_is_refused_with_what_it_has(
    run: Run, resources: Resources, message: str
) -> None:
    with pytest.raises(ClusterError, match=message):
        run([Task(1)], resources)


ADDRESSES = {
    "nobody there": (
        "127.0.0.1:9",
        r"no Ray cluster answers at 127\.0\.0\.1:9 \(waited 1 s: .*refused\); is `ray start --head` running there\?",
    ),
    "no address": ("somewhere", r"'somewhere' is no address of a Ray cluster; expected HOST:PORT"),
}


@pytest.mark.parametrize(("address", "message"), ADDRESSES.values(), ids=ADDRESSES.keys())
def test_an_address_where_no_cluster_answers(address: str, message: str) -> None:
    executor = RayExecutor(address, TWO, connect_seconds=1)
    with pytest.raises(ClusterError, match=message):
        executor.connect()
