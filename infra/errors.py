"""The errors of storage, locks, clusters and deliveries: each message names the place and the remedy."""

REPAIR = "`mad verify ROOT` lists everything that is damaged, `mad run CONFIG --repair` recomputes it"


class StorageError(OSError):
    """A place cannot be read or written as needed."""


class AlreadyExists(StorageError, FileExistsError):
    """An exclusive create failed because the file already exists."""


class Missing(StorageError, FileNotFoundError):
    """There is no such file."""


class IsFolder(StorageError, IsADirectoryError):
    """A folder is where a file was expected."""


class Changed(StorageError):
    """An input file is not the one any more that was found when the work on it was planned."""


class Corrupt(StorageError, ValueError):
    """A file does not hold what was written, or this version cannot read it."""


class Unwritable(StorageError):
    """A place is full or read-only, or this user may not write there."""


class NotCommitted(StorageError):
    """The output of a task could not be written. Its samples are not the cause, and no other task would fare better."""


class LockHeld(StorageError):
    """Another process is working here."""


class ClusterError(RuntimeError):
    """The cluster does not answer, or cannot run what it was given."""


class ClusterLost(ClusterError):
    """The cluster was lost, or has no room left, after tasks had started; what is done is kept.

    A process that continues after it must not use Ray again. When it ends, it waits for Ray for minutes unless it ends
    by `os._exit`.
    """


class NotDelivered(RuntimeError):
    """The receiver did not accept a document."""
