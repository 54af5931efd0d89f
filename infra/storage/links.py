"""Names on a disk: given exclusively by a hard link, or by replacing; recognised where the answer was lost.

A network file system repeats a request whose answer was lost. The server has then done it already, and says that the
name is taken, or that the scratch file is gone. The file under the name tells: it is the very file that was sent.
"""

import errno
import os
from typing import IO

from infra.errors import StorageError


def settle(file: IO[bytes]) -> None:
    """Flush to disk before the file gets its name, so that a power cut cannot leave a receipt of lost bytes."""
    file.flush()
    os.fsync(file.fileno())


def link(source: str, target: str) -> None:
    """Give a file a second name; atomic, and never replaces another file.

    Raises:
        FileExistsError: another file has the name.
        StorageError: the disk has no hard links.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        if not _is_same(os.stat(source), target):
            raise
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise StorageError(
                f"{target}: this disk cannot make hard links, which exclusive creation needs; use another disk"
            ) from error
        raise


def replace(file: IO[bytes], target: str) -> None:
    """Give an open scratch file its name, atomically, replacing the file that has it."""
    try:
        os.replace(file.name, target)
    except FileNotFoundError:
        if not _is_same(os.fstat(file.fileno()), target):
            raise


def _is_same(known: os.stat_result, path: str) -> bool:
    """Whether the file at a path, and not one that a link there leads to, is the one with this status."""
    try:
        return os.path.samestat(known, os.lstat(path))
    except FileNotFoundError:
        return False
