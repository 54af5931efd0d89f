"""Every executor yields one outcome per task, lets a task fail alone, and makes a worker once."""

import time
from collections.abc import Callable, Generator, Iterator
from threading import Barrier, Event

import pytest

from infra.execution.choose import EXECUTORS, open_executor
from infra.execution.contract import Executor, Resources, TaskOutcome, describe
from infra.execution.serial import SerialExecutor


class Halver:
    """A worker that halves even numbers, and says when it was made."""

    def __init__(self, made: list[str]):
        """`made` is told."""
        made.append("worker")

    def __call__(self, task: int) -> int:
        """Half of an even number."""
        if task % 2:
            raise ArithmeticError(f"{task} is odd\nsecond line")
        return task // 2


class Meeting:
    """A worker whose task ends when another is there with it."""

    def __init__(self) -> None:
        self._both = Barrier(2)

    def __call__(self, task: str) -> None:
        """Waits for the other."""
        self._both.wait(60)


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """Each executor."""
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
    with open_executor(request.param, None, Resources()) as opened:
        yield opened


def test_one_outcome_per_task_and_failures_stay_alone(executor: Executor) -> None:
    outcomes = list(executor.map_unordered(lambda: Halver([]), [4, 3, 0, 8], Resources()))
    ended = {outcome.task: (outcome.result, outcome.error) for outcome in outcomes}
    assert len(outcomes) == 4
    assert ended == {4: (2, None), 3: (None, "ArithmeticError: 3 is odd"), 0: (0, None), 8: (4, None)}
    assert {outcome.task for outcome in outcomes if "in __call__" in outcome.trace} == {3}


def test_serial_keeps_the_order() -> None:
    assert [
        outcome.task for outcome in SerialExecutor().map_unordered(lambda: Halver([]), [4, 3, 0, 8], Resources())
    ] == [4, 3, 0, 8]


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


def test_once_closed_what_has_begun_ends_and_no_other_task_begins(executor: Executor) -> None:
    ended: list[int] = []
    for outcome in executor.map_unordered(
        lambda: Halver([]), range(0, 80, 2), Resources(workers=1), lambda: bool(ended)
    ):
        assert outcome.error is None
        ended.append(outcome.task)
    assert 1 <= len(ended) < 40
    assert list(executor.map_unordered(lambda: Halver([]), [2, 4], Resources(workers=1), lambda: True)) == []


def test_one_task_may_wait_while_the_next_one_runs(executor: Executor) -> None:
    assert [outcome.error for outcome in executor.map_unordered(Meeting, ["one", "other"], Resources())] == [None, None]


def test_whoever_stops_asking_does_not_wait_for_what_still_runs() -> None:
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


ERRORS = {
    "a line": (ValueError("too few rows"), "ValueError: too few rows"),
    "several lines": (RuntimeError("\n out of memory\ntried 4 GiB"), "RuntimeError: out of memory"),
    "nothing": (KeyError(), "KeyError"),
}


@pytest.mark.parametrize(("error", "line"), ERRORS.values(), ids=ERRORS.keys())
def test_an_error_is_told_in_one_line(error: Exception, line: str) -> None:
    assert describe(error) == line
