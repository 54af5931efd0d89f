"""The serial executor: tasks run in this process. It is the default, and the reference for every other executor.

A worker is an ordinary callable made by a factory: made once where it runs (it loads a model, opens storage), called
once per task. An executor calls one worker with a few tasks at a time, each in a thread, so that one reads or writes
while another computes; what a worker must not do twice at once it hands to `infra.execution.threads`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import takewhile

from infra.execution.contract import Resources, Result, Task, TaskOutcome, attempt, never


class SerialExecutor:
    """Runs tasks in this process, on one worker."""

    def map_unordered(
        self,
        worker_factory: Callable[[], Callable[[Task], Result]],
        tasks: Iterable[Task],
        resources: Resources,
        closed: Callable[[], bool] = never,
    ) -> Iterator[TaskOutcome[Task, Result]]:
        """One outcome per task that begins before `closed` returns true, in order.

        Abandoning the iterator does not wait for the tasks that are still running.
        """
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
