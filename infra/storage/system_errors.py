"""Errors of the operating system and of filesystems, as this project's errors: the place, the reason, the remedy."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from infra.errors import AlreadyExists, Missing, StorageError, Unwritable

FULL = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room, or raise this user's quota",
    errno.EFBIG: "raise the largest file that this process may write (`ulimit -f`)",
    errno.EROFS: "mount that disk for writing, or choose another root",
}


LONGEST = 200  # characters of a library's message


@contextmanager
def translated_errors(place: str) -> Iterator[None]:
    """Raise errors of the system and of filesystems as StorageError, with the place and the remedy.

    Libraries behind other protocols (hubs, archives, web servers) have error classes of their own.
    """
    try:
        yield
    except StorageError:
        raise
    except FileExistsError as error:
        raise AlreadyExists(f"{place}: already exists") from error
    except FileNotFoundError as error:
        raise Missing(f"{place}: no such file") from error
    except PermissionError as error:
        raise Unwritable(f"{place}: permission denied; give this user the right to read and write there") from error
    except NotADirectoryError as error:
        raise StorageError(f"{place}: a part of this path is a file, not a folder") from error
    except OSError as error:
        if error.errno in FULL:
            raise Unwritable(
                f"{place}: {error.strerror}; {FULL[error.errno]}, then run again; what is done is kept"
            ) from error
        raise StorageError(f"{place}: {error.strerror or error}") from error
    except Exception as error:
        if type(error).__module__ == "builtins":  # a fault of the code, such as a TypeError
            raise
        first = " ".join(str(error).split())[:LONGEST]
        raise StorageError(
            f"{place}: {type(error).__name__}: {first}; check that it is there and can be reached"
        ) from error
