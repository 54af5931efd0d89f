"""The one computing thread of a process."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from infra.computing import compute


def test_all_is_computed_in_one_thread_one_after_the_other() -> None:
    inside, overlaps, threads = threading.Lock(), [], set()

    def call(number: int) -> int:
        overlaps.append(not inside.acquire(blocking=False))
        threads.add(threading.get_ident())
        threading.Event().wait(0.001)
        inside.release()
        return number

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda number: compute(call, number), range(40))) == list(range(40))
    assert overlaps == [False] * 40
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_what_a_call_raises_reaches_who_asked_and_the_next_call_runs() -> None:
    def fail(text: str) -> None:
        raise ValueError(text)

    with pytest.raises(ValueError, match="no such layer"):
        compute(fail, text="no such layer")
    assert compute(len, "abc") == 3


def test_the_number_of_threads_is_that_of_who_asks() -> None:
    before = torch.get_num_threads()
    try:
        for threads in (2, 1, 3):
            torch.set_num_threads(threads)
            assert compute(torch.get_num_threads) == threads
    finally:
        torch.set_num_threads(before)
