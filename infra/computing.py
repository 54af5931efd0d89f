"""The one thread of a process that computes.

OpenMP keeps a pool of threads for each thread that calls it. Where the pools together have more threads than there are cores, GNU's
lets them sleep between two parallel loops instead of waiting a moment; a network with thousands of short loops a second then took
12 % longer (2 cores). So a plan's passes, the rows of all tasks and their scores are computed in this thread.

How many threads OpenMP uses is a thread's own setting too: what `torch.set_num_threads` said where a call comes from holds for it.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import torch

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")
_thread = ThreadPoolExecutor(1, "computing")


def compute(call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
    """What the call returns, or raises, made in the computing thread after all that was handed to it before.

    Never from within a call that this runs: it would wait for itself. Who is interrupted leaves a call that has begun to its end; one
    that has not is not made.
    """
    threads = torch.get_num_threads()

    def run() -> Result:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        return call(*args, **kwargs)

    future = _thread.submit(run)
    try:
        return future.result()
    finally:
        future.cancel()  # where who asked is interrupted
