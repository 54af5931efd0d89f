"""Reading ahead: a thread makes the next items of an iterator while the caller works on the current one."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

Item = TypeVar("Item")

POLL_SECONDS = 0.1


class _End(Generic[Item]):
    """The last entry of the queue: the error that ended the iterator, if there was one."""

    def __init__(self, error: BaseException | None):
        self.error = error


@contextmanager
def prefetched(items: Iterable[Item], depth: int = 2) -> Iterator[Iterator[Item]]:
    """The same items in the same order, up to `depth` of them made ahead in a thread.

    An error raised while an item is made is raised where the caller takes that item. When the context ends, the thread
    has ended too, whether or not all items were taken.
    """
    queue: Queue[Item | _End[Item]] = Queue(depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, queue, stopped), name="prefetch", daemon=True)
    thread.start()
    try:
        yield _drain(queue)
    finally:
        stopped.set()
        while thread.is_alive():
            try:
                queue.get(timeout=POLL_SECONDS)
            except Empty:
                thread.join(POLL_SECONDS)


def _fill(items: Iterable[Item], queue: "Queue[Item | _End[Item]]", stopped: threading.Event) -> None:
    error: BaseException | None = None
    try:
        for item in items:
            if not _put(item, queue, stopped):
                return
    except BaseException as raised:  # noqa: BLE001 - it is raised where the item is taken
        error = raised
    _put(_End(error), queue, stopped)


def _put(item: Item | _End[Item], queue: "Queue[Item | _End[Item]]", stopped: threading.Event) -> bool:
    while not stopped.is_set():
        try:
            queue.put(item, timeout=POLL_SECONDS)
        except Full:
            continue
        return True
    return False


def _drain(queue: "Queue[Item | _End[Item]]") -> Iterator[Item]:
    while True:
        item = queue.get()
        if isinstance(item, _End):
            if item.error is not None:
                raise item.error
            return
        yield item
