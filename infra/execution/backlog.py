"""The tasks that wait for a worker, and which one a worker takes next."""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from infra.execution.contract import never

Task = TypeVar("Task")


class Backlog(Generic[Task]):
    """A queue of tasks per model, and the tasks whose worker was lost.

    A worker stays with its model while that has tasks, because loading another costs time. Otherwise it takes a task of
    the model with the most tasks per worker already on it, so that no worker idles while another has a queue.
    """

    def __init__(self, tasks: Iterable[Task], closed: Callable[[], bool] = never):
        """Queue these tasks.

        Args:
            tasks: a task's model is its attribute `model`; tasks without one all belong to one model.
            closed: whether no further task may be taken.
        """
        self._closed = closed
        self._queues: dict[str, deque[Task]] = {}
        self.lost: deque[Task] = deque()
        self._losses: Counter[Task] = Counter()
        for task in tasks:
            self._queues.setdefault(model_of(task), deque()).append(task)

    def __len__(self) -> int:
        return sum(map(len, self._queues.values())) + len(self.lost)

    def left(self) -> int:
        """How many tasks wait; 0 once it is closed, lost tasks included."""
        if self._closed():
            self._queues.clear()
            self.lost.clear()
        return len(self)

    def take(self, model: str, workers: Counter[str]) -> Task | None:
        """The next task for a worker that has `model` loaded; `workers`: how many there are on each model."""
        waiting = [name for name, queue in self._queues.items() if queue]
        if not waiting:
            return None
        if model not in waiting:
            model = max(waiting, key=lambda name: len(self._queues[name]) / (1 + workers[name]))
        return self._queues[model].popleft()

    def take_back(self, task: Task) -> int:
        """Take back a task whose worker was lost, to retry it alone; returns how often that happened to it."""
        self._losses[task] += 1
        self.lost.append(task)
        return self._losses[task]

    def suspect(self, task: Task) -> bool:
        """Whether a worker was lost with this task before."""
        return self._losses[task] > 0


def model_of(task: object) -> str:
    """The name of the model that a task is for."""
    return str(getattr(task, "model", ""))
