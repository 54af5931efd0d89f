"""The threads of a process that compute."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from infra.execution.threads import AHEAD, map_in_threads, run_in_compute_thread


def test_all_is_computed_in_one_thread_one_after_the_other() -> None:
    inside, overlaps, threads = threading.Lock(), [], set()

    def call(number: int) -> int:
        overlaps.append(not inside.acquire(blocking=False))
        threads.add(threading.get_ident())
        threading.Event().wait(0.001)
        inside.release()
        return number

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda number: run_in_compute_thread(call, number), range(40))) == list(range(40))
    assert overlaps == [False] * 40
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_what_a_call_raises_reaches_the_caller_and_the_next_call_runs() -> None:
    def fail(text: str) -> None:
        raise ValueError(text)

    with pytest.raises(ValueError, match="no such layer"):
        run_in_compute_thread(fail, text="no such layer")
    assert run_in_compute_thread(len, "abc") == 3


def test_the_number_of_threads_is_that_of_the_caller() -> None:
    before = torch.get_num_threads()
    try:
        for threads in (2, 1, 3):
            torch.set_num_threads(threads)
            assert run_in_compute_thread(torch.get_num_threads) == threads
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_calls_for_each_item_are_made_two_at_once_with_a_thread_each_and_answer_in_order() -> None:
    together = threading.Barrier(2, timeout=30)

    def call(number: int) -> tuple[int, int]:
        together.wait()
        return number, torch.get_num_threads()

    assert list(map_in_threads(call, range(40))) == [(number, 1) for number in range(40)]
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 2
    assert run_in_compute_thread(torch.get_num_threads) == 2


@pytest.mark.usefixtures("two_threads")
def test_no_more_items_are_taken_than_threads_and_a_few() -> None:
    asked = list[int]()

    def items() -> Iterator[int]:
        for number in range(100):
            asked.append(number)
            yield number

    results = map_in_threads(abs, items())
    assert [next(results), next(results)] == [0, 1]
    assert asked == list(range(2 + AHEAD + 1))


@pytest.mark.usefixtures("two_threads")
def test_what_one_of_many_calls_raises_reaches_the_caller_after_the_results_before_it() -> None:
    results = map_in_threads(lambda number: 6 // number, (3, 2, 0, 1))
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(map_in_threads(abs, (-1,))) == [1]


@pytest.mark.usefixtures("two_threads")
def test_the_bits_of_a_block_do_not_depend_on_the_number_of_threads() -> None:
    rows, others = torch.randn(512, 832), torch.randn(1178, 832)
    (two,) = map_in_threads(lambda block: block @ others.T, [rows])
    torch.set_num_threads(1)
    (one,) = map_in_threads(lambda block: block @ others.T, [rows])
    assert torch.equal(one, two)
