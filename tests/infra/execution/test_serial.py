"""The serial executor: in order, on one worker that is made once, with a few tasks at a time."""

import time
from collections.abc import Callable, Generator, Iterator
from threading import Event

import pytest

from infra.execution.contract import Resources, TaskOutcome
from infra.execution.serial import SerialExecutor
from tests.infra.execution.workers import Halver


def test_serial_keeps_the_order() -> None:
    outcomes = SerialExecutor().map_unordered(lambda: Halver([]), [4, 3, 0, 8], Resources())
    assert [outcome.task for outcome in outcomes] == [4, 3, 0, 8]


def test_the_worker_is_made_once_however_many_tasks_fail() -> None:
    made: list[str] = []
    list(SerialExecutor().map_unordered(lambda: Halver(made), [1, 3, 2, 5], Resources()))
    assert made == ["worker"]


def test_without_tasks_no_worker_is_made() -> None:
    made: list[str] = []
    assert list(SerialExecutor().map_unordered(lambda: Halver(made), [], Resources())) == []
    assert made == []


def test_a_worker_that_is_empty_is_made_once_too() -> None:
    made: list[str] = []

    class Cache(dict[int, int]):
        """A worker that is an empty mapping."""

        def __call__(self, task: int) -> int:
            """The task."""
            return task

    def factory() -> Callable[[int], int]:
        made.append("worker")
        return Cache()

    list(SerialExecutor().map_unordered(factory, [1, 2, 3], Resources()))
    assert made == ["worker"]


@pytest.mark.parametrize("at_once", [2, 3])
def test_serial_takes_a_task_when_it_has_room_for_it(at_once: int) -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for task in (2, 4, 6, 8):
            taken.append(task)
            yield task

    outcomes = SerialExecutor().map_unordered(lambda: Halver([]), tasks(), Resources(tasks_at_once=at_once))
    assert taken == []
    assert next(outcomes) == TaskOutcome(2, 1)
    assert taken == [2, 4, 6][:at_once]
    assert next(outcomes) == TaskOutcome(4, 2)
    assert taken == [2, 4, 6, 8][: at_once + 1]


def test_abandoning_the_outcomes_does_not_wait_for_what_still_runs() -> None:
    ends = Event()

    def worker(task: int) -> bool:
        return task == 0 or ends.wait(60)

    outcomes = SerialExecutor().map_unordered(lambda: worker, [0, 1, 2], Resources())
    assert next(outcomes).result
    assert isinstance(outcomes, Generator)
    start = time.monotonic()
    outcomes.close()
    assert time.monotonic() - start < 30
    ends.set()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_person_can_stop_it(stop: type[BaseException]) -> None:
    def worker(task: int) -> int:
        raise stop

    with pytest.raises(stop):
        list(SerialExecutor().map_unordered(lambda: worker, [1, 2], Resources()))
