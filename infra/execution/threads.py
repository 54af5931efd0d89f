"""The threads of a process that compute: one for what is one long computation, one a core for what is many apart.

OpenMP keeps a pool of threads for each thread that calls it. Where the pools together have more threads than there are cores, GNU's
lets them sleep between two parallel loops instead of waiting a moment; a network with thousands of short loops a second then took
12 % longer (2 cores). So a plan's passes and the rows of all tasks are computed in one thread (`run_in_compute_thread`). Blocks of rows that are
scored do not need each other: each is computed by one thread alone (`map_in_threads`), none of which ever waits for another at the end
of a loop. That also makes their bits the same however many threads there are.

How many threads OpenMP uses is a thread's own setting too: what `torch.set_num_threads` said where a call comes from holds for it.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import torch

Result = TypeVar("Result")


Item = TypeVar("Item")


Arguments = ParamSpec("Arguments")


AT_ONCE, AHEAD = 8, 3


_thread = ThreadPoolExecutor(1, "computing")


_pools: dict[int, ThreadPoolExecutor] = {}


_settings = threading.Lock()


def run_in_compute_thread(
    call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """What the call returns, or raises, made in the computing thread after all that was handed to it before.

    Never from within a call that this runs: it would wait for itself. Who is interrupted leaves a call that has begun to its end; one
    that has not is not made.
    """
    threads = _own_threads()

    def run() -> Result:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        return call(*args, **kwargs)

    future = _thread.submit(run)
    try:
        return future.result()
    finally:
        future.cancel()  # where who asked is interrupted


def map_in_threads(call: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """What the call returns for each item, in order, or the first error that it raises.

    As many calls are made at once as `compute_threads` says; each of them has one OpenMP thread. AHEAD more items than that are asked
    for, so that no thread waits for who asks. Who stops asking leaves calls that have begun to their ends.
    """
    threads = compute_threads()
    pool, ahead = _pool(threads), deque[Future[Result]]()
    try:
        for item in items:
            ahead.append(pool.submit(call, item))
            if len(ahead) == threads + AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for future in ahead:
            future.cancel()


def compute_threads() -> int:
    """How many calls `map_in_threads` makes at once: one for each OpenMP thread that the calling thread has, 8 at most, since each needs memory."""
    return min(_own_threads(), AT_ONCE)


def _own_threads() -> int:
    with _settings:
        return torch.get_num_threads()


def _pool(threads: int) -> ThreadPoolExecutor:
    """The threads that have one OpenMP thread each.

    What a thread sets becomes the default of threads that compute for the first time later; so the default is set back before anyone
    asks for it.
    """
    with _settings:
        if threads not in _pools:
            before, together = torch.get_num_threads(), threading.Barrier(threads)
            pool = ThreadPoolExecutor(threads, "computing-each")
            for started in [pool.submit(_alone, together) for _ in range(threads)]:
                started.result()
            torch.set_num_threads(before)
            _pools[threads] = pool
        return _pools[threads]


def _alone(together: threading.Barrier) -> None:
    torch.get_num_threads()  # a thread takes the default when torch is first called in it, which would undo what is set before
    torch.set_num_threads(1)
    together.wait()  # so that no thread does this twice
