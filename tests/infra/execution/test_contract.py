"""The contract, for every executor: one outcome per task, a task fails alone, nothing begins once closed."""

import errno
from collections.abc import Iterator

import pytest

from infra.errors import ClusterError, NotCommitted
from infra.execution.choose import EXECUTORS, open_executor
from infra.execution.contract import Executor, Resources, TaskOutcome, attempt, describe, is_starvation
from tests.infra.execution.workers import Halver, Meeting


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


ERRORS = {
    "a line": (ValueError("too few rows"), "ValueError: too few rows"),
    "several lines": (RuntimeError("\n out of memory\ntried 4 GiB"), "RuntimeError: out of memory"),
    "nothing": (KeyError(), "KeyError"),
    "of this project": (ClusterError("no cluster answers\nat all"), "no cluster answers"),
    "of this project, nothing": (ClusterError(), "ClusterError"),
}


@pytest.mark.parametrize(("error", "line"), ERRORS.values(), ids=ERRORS.keys())
def test_an_error_is_described_in_one_line(error: Exception, line: str) -> None:
    assert describe(error) == line


def caused_by(cause: Exception) -> Exception:
    error = ValueError("the model failed")
    error.__cause__ = cause
    return error


STARVATION = {
    "Python": (MemoryError(), True),
    "the system": (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
    "torch on a CPU": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 4 bytes"), True),
    "torch on a GPU": (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), True),
    "a cause": (caused_by(caused_by(MemoryError())), True),
    "a full disk": (OSError(errno.ENOSPC, "No space left on device"), False),
    "another error": (caused_by(ValueError("bad input")), False),
    "no error": (None, False),
}


@pytest.mark.parametrize(("error", "starved"), STARVATION.values(), ids=STARVATION.keys())
def test_memory_that_ran_out_is_recognised(error: BaseException | None, starved: bool) -> None:
    assert is_starvation(error) == starved


def raising(error: Exception) -> TaskOutcome[str, str]:
    """The outcome of a task on a worker that raises this error."""

    def worker(task: str) -> str:
        raise error

    return attempt(worker, "000")


def test_an_attempt_returns_its_result() -> None:
    assert attempt(str.upper, "abc") == TaskOutcome("abc", result="ABC")


def test_an_attempt_whose_output_cannot_be_stored_stops_the_others_and_keeps_its_whole_message() -> None:
    outcome = raising(NotCommitted("the disk is full\nmake room"))
    assert (outcome.error, outcome.stops, outcome.starved) == ("the disk is full\nmake room", True, False)
    assert "NotCommitted: the disk is full" in outcome.trace


def test_an_attempt_without_memory_is_starved_and_any_other_error_is_not() -> None:
    starved, failed = raising(MemoryError()), raising(ZeroDivisionError("division by zero"))
    assert (starved.error, starved.stops, starved.starved) == ("MemoryError", False, True)
    assert (failed.error, failed.stops, failed.starved) == ("ZeroDivisionError: division by zero", False, False)


def test_resources_that_differ_in_tasks_at_once_are_the_same() -> None:
    assert Resources(workers=2, tasks_at_once=3) == Resources(workers=2)
    assert Resources(workers=2, gpus_per_worker=1) != Resources(workers=2)
