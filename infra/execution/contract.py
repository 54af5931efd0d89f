"""The contract of executors: a factory of workers, tasks and resources in, one outcome per task out, in any order."""

import errno
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from infra.errors import NotCommitted

TASKS_AT_ONCE, MOST_TASKS_AT_ONCE = 2, 3
OWN_PACKAGES = ("infra", "madcore", "pipeline")

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Resources:
    """What one worker needs, and how many workers there may be.

    `tasks_at_once` is how many tasks a worker has at a time, at most MOST_TASKS_AT_ONCE. It does not affect the
    workers' processes, so comparisons leave it out.
    """

    workers: int = 1
    gpus_per_worker: float = 0
    memory_per_worker_bytes: int = 0
    tasks_at_once: int = field(default=TASKS_AT_ONCE, compare=False)


@dataclass(frozen=True)
class TaskOutcome(Generic[Task, Result]):
    """A task with its result, or with the error that ended it, as one line, and its traceback.

    `stops`: the remaining tasks need not be tried. `starved`: memory ran out.
    """

    task: Task
    result: Result | None = None
    error: str | None = None
    trace: str = ""
    stops: bool = False
    starved: bool = False


def never() -> bool:
    """The default of `closed`: tasks are started as long as there are any."""
    return False


class Executor(Protocol):
    """Runs tasks on workers and yields outcomes as they come, in any order."""

    def map_unordered(
        self,
        worker_factory: Callable[[], Callable[[Task], Result]],
        tasks: Iterable[Task],
        resources: Resources,
        closed: Callable[[], bool] = never,
    ) -> Iterator[TaskOutcome[Task, Result]]:
        """One outcome per task. A task that raises yields an outcome with an error; the others continue.

        Once `closed` returns true, no further task starts. Tasks that have started run to their end and yield outcomes;
        the others yield none.
        """


def attempt(worker: Callable[[Task], Result], task: Task) -> TaskOutcome[Task, Result]:
    """Call a worker with a task; an error becomes part of the outcome."""
    try:
        return TaskOutcome(task, result=worker(task))
    except NotCommitted as error:
        return TaskOutcome(task, error=str(error), trace=traceback.format_exc(), stops=True)
    except Exception as error:  # noqa: BLE001 - a task runs the user's model, which may raise anything; it fails alone
        return TaskOutcome(task, error=describe(error), trace=traceback.format_exc(), starved=is_starvation(error))


def is_starvation(error: BaseException | None) -> bool:
    """Whether an error or one of its causes says that memory ran out: in Python, in the system, or in torch."""
    while error is not None:
        out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        if out_of_memory or "can't allocate memory" in str(error):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        error = error.__cause__
    return False


def describe(error: BaseException) -> str:
    """An error as one line: its type and message; of this project's own errors, which need no type, the message."""
    lines = str(error).strip().splitlines()
    if lines and type(error).__module__.partition(".")[0] in OWN_PACKAGES:
        return lines[0]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
