"""Where tasks run. Serial, in this process, is the default and the reference for every other executor.

A worker is an ordinary callable made by a factory: made once where it runs (it loads a model, opens storage), called once a task. An
executor calls one worker with a few tasks at a time, each in a thread, so that one reads or writes while another computes;
what a worker must not do twice at once it hands to `infra.computing`.
"""

import errno
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Generic, Protocol, TypeVar

from infra.errors import ClusterError, NotCommitted

EXECUTORS = ("serial", "ray")
TASKS_AT_ONCE, MOST_TASKS_AT_ONCE = 2, 3
OWN_PACKAGES = ("infra", "madcore", "pipeline")
Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Resources:
    """What one worker needs; how many workers there may be.

    `tasks_at_once`: how many tasks a worker has at a time, MOST_TASKS_AT_ONCE at most. The processes of workers are the same whatever it is.
    """

    workers: int = 1
    gpus_per_worker: float = 0
    memory_per_worker_bytes: int = 0
    tasks_at_once: int = field(default=TASKS_AT_ONCE, compare=False)


@dataclass(frozen=True)
class TaskOutcome(Generic[Task, Result]):
    """A task with its result, or with the error that gave it up, in a line, and its traceback.

    `stops`: the others need not be tried. `starved`: memory had run out.
    """

    task: Task
    result: Result | None = None
    error: str | None = None
    trace: str = ""
    stops: bool = False
    starved: bool = False


def never() -> bool:
    """Tasks are begun as long as there are any."""
    return False


class Executor(Protocol):
    """Runs tasks on workers and yields outcomes as they come, in any order."""

    def map_unordered(
        self, worker_factory: Callable[[], Callable[[Task], Result]], tasks: Iterable[Task], resources: Resources, closed: Callable[[], bool] = never
    ) -> Iterator[TaskOutcome[Task, Result]]:
        """One outcome per task. A task that raises is an outcome with an error; the others go on.

        Once `closed` says so no task is begun. Those that have begun end, and have outcomes; the others have none.
        """


class SerialExecutor:
    """Runs tasks in this process, on one worker."""

    def map_unordered(
        self, worker_factory: Callable[[], Callable[[Task], Result]], tasks: Iterable[Task], resources: Resources, closed: Callable[[], bool] = never
    ) -> Iterator[TaskOutcome[Task, Result]]:
        """One outcome per task that is begun before `closed` says so, in order. Whoever stops asking does not wait for the tasks that are still running."""
        pool, worker = ThreadPoolExecutor(resources.tasks_at_once, "task"), None
        running: deque[Future[TaskOutcome[Task, Result]]] = deque()
        try:
            for task in takewhile(lambda _: not closed(), tasks):
                worker = worker_factory() if worker is None else worker
                running.append(pool.submit(attempt, worker, task))
                if len(running) == resources.tasks_at_once:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def open_executor(name: str, address: str | None, resources: Resources) -> AbstractContextManager[Executor]:
    """An executor, ready to run, for as long as the context lasts.

    Args:
        name: of EXECUTORS.
        address: of the Ray cluster to join; None takes the environment's RAY_ADDRESS, or else a cluster of this machine's own.
        resources: what the workers will need.

    Raises:
        ClusterError: no cluster answers, or it is not one that can run this.
    """
    if name == "serial":
        if resources.gpus_per_worker > 0 and not _sees_gpu():
            raise ClusterError(f"run.gpus_per_worker is {resources.gpus_per_worker:g}, but torch sees no CUDA device here; set it to 0 to run on the CPU")
        return nullcontext(SerialExecutor())
    from infra.ray_executor import RayExecutor  # noqa: PLC0415 - Ray takes seconds to import

    return RayExecutor(address, resources)


def _sees_gpu() -> bool:
    import torch  # noqa: PLC0415

    return torch.cuda.is_available()


def attempt(worker: Callable[[Task], Result], task: Task) -> TaskOutcome[Task, Result]:
    """Calls a worker with a task; an error becomes the outcome's."""
    try:
        return TaskOutcome(task, result=worker(task))
    except NotCommitted as error:
        return TaskOutcome(task, error=str(error), trace=traceback.format_exc(), stops=True)
    except Exception as error:  # noqa: BLE001 - a task runs the user's model, which may raise anything; it fails alone
        return TaskOutcome(task, error=describe(error), trace=traceback.format_exc(), starved=is_starvation(error))


def is_starvation(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that memory ran out: Python's, the system's, or torch's on a CPU or a GPU."""
    while error is not None:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        error = error.__cause__
    return False


def describe(error: BaseException) -> str:
    """An error as one line: its type, unless it is one of this project's, which say all themselves, and what it says."""
    lines = str(error).strip().splitlines()
    if lines and type(error).__module__.partition(".")[0] in OWN_PACKAGES:
        return lines[0]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
