"""What is stored, with sizes and ages, and how it is removed in batches: for what nothing refers to any more."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from infra.errors import Missing
from infra.storage.storage import S3_SCHEMES, Storage, translated_errors

BATCH = 1000  # what one request to S3 removes


@dataclass(frozen=True)
class Entry:
    """A stored file: its path below the root, its bytes, and when it was last written, in seconds since 1970 on the store's clock."""

    path: str
    bytes: int
    modified: float


def entries(storage: Storage, folder: str) -> Iterator[Entry]:
    """All files below a folder, in the order of their paths; none where there is no folder."""
    with translated_errors(storage.locate(folder)):
        storage.filesystem.invalidate_cache()
        found: dict[str, Mapping[str, object]] = storage.filesystem.find(storage.full(folder), detail=True)
    start = len(storage.root.rstrip("/")) + 1
    for path, info in sorted(found.items()):
        if not path.endswith("/"):
            yield Entry(path[start:], int(str(info["size"])), _modified(info))


def remove_all(storage: Storage, paths: Sequence[str]) -> None:
    """Removes files, at most BATCH of them; on S3 in one request. Those that are gone already are no error.

    Raises:
        StorageError: the store does not let them go.
    """
    if storage.url.startswith(S3_SCHEMES):
        with translated_errors(storage.url):
            storage.filesystem.remove_keys([storage.full(path) for path in paths])
        return
    for path in paths:
        with suppress(Missing):
            storage.remove(path)


def prune(storage: Storage, folder: str) -> None:
    """Removes the empty folders below and at a folder, on a disk; an object store has none."""
    if isinstance(storage.filesystem, LocalFileSystem):
        for place, _, _ in os.walk(storage.full(folder), topdown=False):
            with suppress(OSError):  # not empty
                Path(place).rmdir()


def _modified(info: Mapping[str, object]) -> float:
    value = info.get("mtime") or info.get("LastModified") or info["created"]
    return value.timestamp() if isinstance(value, datetime) else float(str(value))
