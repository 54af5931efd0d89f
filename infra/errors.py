"""The errors of the outside world: each names the place and says what to do."""

REPAIR = "`mad verify ROOT` names all that is damaged, `mad run CONFIG --repair` computes it anew"


class StorageError(OSError):
    """A place cannot be read or written as needed."""


class AlreadyExists(StorageError, FileExistsError):
    """An exclusive create lost: something is already there."""


class Missing(StorageError, FileNotFoundError):
    """Nothing is there."""


class Corrupt(StorageError, ValueError):
    """What is there is not what was written, or not what this version can read."""


class Unwritable(StorageError):
    """A place takes no more: it is full, read-only, or not this user's."""


class NotCommitted(StorageError):
    """What a task made could not be written. That is no fault of its samples, and no other task would fare better."""


class LockHeld(StorageError):
    """Another process is at work here."""


class ClusterError(RuntimeError):
    """The cluster does not answer, or cannot run what is asked of it."""


class ClusterLost(ClusterError):
    """The cluster was lost, or has no room left, after tasks had begun; what is done is kept.

    A process that goes on after it should not use Ray again, and waits for Ray for minutes when it ends, unless by `os._exit`.
    """


class NotDelivered(RuntimeError):
    """Somebody outside did not take what was handed to them."""
