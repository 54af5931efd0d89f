"""A storage for the owner of a lock: each change is refused where the lock has been lost."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from infra.errors import LockHeld
from infra.storage.storage import Storage


class GuardedStorage(Storage):
    """A storage that asks right before each change whether it may be made. Pickled as a plain one."""

    def __init__(self, url: str, permit: Callable[[], None]):
        """Opens nothing and writes nothing yet; `permit` raises LockHeld where nothing may be changed any more."""
        super().__init__(url)
        self._permit = permit

    def before_change(self) -> None:
        """Raise what `permit` raises."""
        self._permit()


@contextmanager
def undoing(storage: Storage, undo: Callable[[Storage], object]) -> Iterator[None]:
    """One change of a guarded storage, and what to do where it was made although the lock had been lost.

    That happens to a process which is suspended after it was permitted the change and before it made it, or that
    repeats a request. So after the change it asks again.

    Args:
        storage: where the block makes its change, a single one; a plain storage permits all.
        undo: is given a plain storage, before LockHeld is raised. A change that was refused needs none.

    Raises:
        LockHeld: the lock is lost.
    """
    try:
        yield
    except LockHeld:
        raise
    except BaseException:
        _undo_if_lost(storage, undo)
        raise
    _undo_if_lost(storage, undo)


def _undo_if_lost(storage: Storage, undo: Callable[[Storage], object]) -> None:
    try:
        storage.before_change()
    except LockHeld:
        undo(Storage(storage.url))
        raise
