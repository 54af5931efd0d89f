"""What tells a file's contents from earlier ones without reading it.

On a disk that is its size, both times of change, and the file's number there: whoever changes contents, or puts another
file in the place, changes one of these, even where size and modification time are restored. In a store it is what the
store itself gives every upload, such as an ETag.
"""

import os
from pathlib import Path

from infra.storage.files import find
from infra.storage.identity import NO_VERSION
from infra.storage.urls import path_on_disk


def version_of(name: str, url: str) -> str | None:
    """The version of a file; None where its store does not tell one.

    Raises:
        StorageError: there is none, or it cannot be read.
        OSError: the same, on a disk.
    """
    local = path_on_disk(url)
    if local is not None:
        return version_on_disk(Path(local))
    (file,) = find(name, url).files
    return None if file.version in NO_VERSION else f"{file.url} {file.size} {file.version}"


def version_on_disk(path: Path) -> str:
    """The version of a file of this machine; raises OSError where there is none."""
    found = os.stat(path)
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"
