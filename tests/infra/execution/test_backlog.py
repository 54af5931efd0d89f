"""Which task a worker takes next, and what happens to the tasks of lost workers."""

from collections import Counter
from dataclasses import dataclass
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from infra.execution.backlog import Backlog


@dataclass(frozen=True)
class Job:
    """A task of a model."""

    model: str
    number: int


def jobs(**counts: int) -> list[Job]:
    return [Job(model, number) for model, count in counts.items() for number in range(count)]


def test_a_worker_keeps_to_its_model_while_that_has_tasks() -> None:
    backlog = Backlog(jobs(a=2, b=9))
    taken = [backlog.take("a", Counter({"a": 1})) for _ in range(3)]
    assert taken == [Job("a", 0), Job("a", 1), Job("b", 0)]


def test_a_free_worker_goes_where_the_queue_for_each_worker_is_longest() -> None:
    backlog = Backlog(jobs(a=10, b=4))
    assert backlog.take("", Counter()) == Job("a", 0)
    assert backlog.take("", Counter(a=1)) == Job("a", 1)
    assert backlog.take("", Counter(a=2)) == Job("b", 0)


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 5)), st.integers(1, 4), st.randoms(use_true_random=False)
)
def test_in_any_order_every_task_is_given_once_and_no_worker_idles_before_the_last(
    counts: dict[str, int], workers: int, order: Random
) -> None:
    backlog, models, given = Backlog(jobs(**counts)), [""] * workers, []
    while len(backlog):
        worker = order.randrange(workers)
        task = backlog.take(models[worker], Counter(models))
        assert task is not None
        models[worker] = task.model
        given.append(task)
    assert sorted(given, key=lambda job: (job.model, job.number)) == sorted(
        jobs(**counts), key=lambda job: (job.model, job.number)
    )
    assert backlog.take("", Counter()) is None


def test_lost_tasks_are_kept_apart_and_counted() -> None:
    backlog = Backlog(jobs(a=2))
    first = backlog.take("", Counter())
    assert first is not None and not backlog.suspect(first)
    assert [backlog.take_back(first), len(backlog), backlog.suspect(first)] == [1, 2, True]
    assert backlog.lost.popleft() == first
    assert backlog.take_back(first) == 2
    assert backlog.take("", Counter()) == Job("a", 1)


def test_once_closed_nothing_is_left_not_even_lost_tasks() -> None:
    closed = False
    backlog = Backlog(jobs(a=3), lambda: closed)
    first = backlog.take("", Counter())
    assert first is not None
    backlog.take_back(first)
    assert backlog.left() == 3
    closed = True
    assert (backlog.left(), len(backlog.lost), backlog.take("", Counter())) == (0, 0, None)
