"""Tasks that wait for a worker, and which one a worker should take next."""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from infra.execution.contract import never

Task = TypeVar("Task")


class Backlog(Generic[Task]):
    """A queue of tasks per model, and the tasks that a lost worker took along.

    A worker keeps to its model while that has tasks, because loading another costs; otherwise it takes from the model with the
    most tasks for each worker already on it, so that no worker idles while another has a queue.
    """

    def __init__(self, tasks: Iterable[Task], closed: Callable[[], bool] = never):
        """A task's model is its attribute `model`; tasks without one are of one model. `closed`: whether none should be taken any more."""
        self._closed = closed
        self._queues: dict[str, deque[Task]] = {}
        self.lost: deque[Task] = deque()
        self._losses: Counter[Task] = Counter()
        for task in tasks:
            self._queues.setdefault(model_of(task), deque()).append(task)

    def __len__(self) -> int:
        return sum(map(len, self._queues.values())) + len(self.lost)

    def left(self) -> int:
        """How many tasks wait; none, those that were lost included, once it is closed."""
        if self._closed():
            self._queues.clear()
            self.lost.clear()
        return len(self)

    def take(self, model: str, workers: Counter[str]) -> Task | None:
        """The next task for a worker that has `model` loaded; `workers`: how many there are on each model."""
        waiting = [name for name, queue in self._queues.items() if queue]
        if not waiting:
            return None
        chosen = (
            model if model in waiting else max(waiting, key=lambda name: len(self._queues[name]) / (1 + workers[name]))
        )
        return self._queues[chosen].popleft()

    def take_back(self, task: Task) -> int:
        """Takes back a task whose worker was lost, to be tried again alone; returns how often that happened to it."""
        self._losses[task] += 1
        self.lost.append(task)
        return self._losses[task]

    def suspect(self, task: Task) -> bool:
        """Whether a worker was lost with this task before."""
        return self._losses[task] > 0


def model_of(task: object) -> str:
    """The name of the model that a task is for."""
    return str(getattr(task, "model", ""))
