"""The threads of a process that compute: one for a single long computation, one per core for many independent ones.

OpenMP keeps a pool of threads for each thread that calls it. Where the pools together have more threads than there are
cores, GNU's implementation lets them sleep between two parallel loops instead of spinning briefly; a network with
thousands of short loops a second then took 12 % longer (2 cores). So a plan's passes and the rows of all tasks are
computed in one thread (`run_in_compute_thread`). Blocks of rows that are scored are independent: each is computed by a
thread of its own with one OpenMP thread (`map_in_threads`), so that none ever waits for another at the end of a loop.
That also makes their bits the same however many threads there are.

How many threads OpenMP uses is a setting of each thread: a call runs with what `torch.set_num_threads` set in the
thread that makes the call.
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

MOST_THREADS, AHEAD = 8, 3

_thread = ThreadPoolExecutor(1, "computing")
_pools: dict[int, ThreadPoolExecutor] = {}
_settings = threading.Lock()


def run_in_compute_thread(
    call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """What the call returns or raises, run in the compute thread after everything submitted before it.

    Never use it within a call that it runs: that call would wait for itself. If the caller is interrupted, a call that
    has started runs to its end, and one that has not is cancelled.
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
        future.cancel()  # where the caller is interrupted


def map_in_threads(call: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """What the call returns for each item, in order, or the first error that it raises.

    `compute_threads` calls run at a time, each with one OpenMP thread. AHEAD more items than that are taken in advance,
    so that no thread waits for the consumer. Abandoning the iterator lets calls that have started run to their end.
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
    """How many calls `map_in_threads` runs at a time: one per OpenMP thread of the calling thread.

    At most MOST_THREADS, since each of them needs memory.
    """
    return min(_own_threads(), MOST_THREADS)


def _own_threads() -> int:
    with _settings:
        return torch.get_num_threads()


def _pool(threads: int) -> ThreadPoolExecutor:
    """The threads that have one OpenMP thread each.

    What a thread sets becomes the default of threads that compute for the first time later. So the default is restored
    before any other thread reads it.
    """
    with _settings:
        if threads not in _pools:
            before, together = torch.get_num_threads(), threading.Barrier(threads)
            pool = ThreadPoolExecutor(threads, "computing-each")
            for started in [pool.submit(_use_one_thread, together) for _ in range(threads)]:
                started.result()
            torch.set_num_threads(before)
            _pools[threads] = pool
        return _pools[threads]


def _use_one_thread(together: threading.Barrier) -> None:
    torch.get_num_threads()  # torch's first call in a thread takes the default, which would undo an earlier setting
    torch.set_num_threads(1)
    together.wait()  # so that no thread does this twice
