"""Lists stored files with their sizes and ages, and removes in batches those that nothing refers to any longer."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from infra.errors import Missing
from infra.storage.storage import S3_SCHEMES, Storage
from infra.storage.system_errors import translated_errors

BATCH = 1000  # what one request to S3 removes


@dataclass(frozen=True)
class Entry:
    """A stored file: its path below the root, its size in bytes, and when it was last written.

    `modified` is in seconds since 1970 on the store's clock.
    """

    path: str
    bytes: int
    modified: float


def entries(storage: Storage, folder: str) -> Iterator[Entry]:
    """All files below a folder, sorted by path; none where there is no folder."""
    with translated_errors(storage.locate(folder)):
        storage.filesystem.invalidate_cache()
        found: dict[str, Mapping[str, object]] = storage.filesystem.find(storage.full(folder), detail=True)
    start = len(storage.root.rstrip("/")) + 1
    for path, info in sorted(found.items()):
        if not path.endswith("/"):
            yield Entry(path[start:], int(str(info["size"])), _modified(info))


def removed_at_once(storage: Storage) -> int:
    """How many files one change of the store removes."""
    return BATCH if storage.url.startswith(S3_SCHEMES) else 1


def remove_all(storage: Storage, paths: Sequence[str]) -> None:
    """Remove files, at most BATCH of them; on S3 in one request. Files that are already gone are no error.

    Raises:
        StorageError: the store refuses to remove them.
    """
    if storage.url.startswith(S3_SCHEMES):
        with translated_errors(storage.url):
            storage.before_change()
            storage.filesystem.remove_keys([storage.full(path) for path in paths])
        return
    for path in paths:
        with suppress(Missing):
            storage.remove(path)


def prune(storage: Storage, folder: str) -> None:
    """Remove the empty folders below and at a folder, on a disk; an object store has none."""
    if isinstance(storage.filesystem, LocalFileSystem):
        for place, _, _ in os.walk(storage.full(folder), topdown=False):
            storage.before_change()
            with suppress(OSError):  # not empty
                Path(place).rmdir()


def _modified(info: Mapping[str, object]) -> float:
    value = info.get("mtime") or info.get("LastModified") or info["created"]
    return value.timestamp() if isinstance(value, datetime) else float(str(value))
