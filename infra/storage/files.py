"""Input files, on disk or in a store: found by path or glob, identified by size and version, opened for reading."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

from infra.errors import Missing, StorageError
from infra.storage.storage import resolve
from infra.storage.system_errors import translated_errors

Info = Mapping[str, object]


@dataclass(frozen=True)
class InputFile:
    """A file as it is now: `name` as configured, `version` its etag or modification time."""

    name: str
    url: str
    size: int
    version: str


def is_pattern(path: str) -> bool:
    """Whether a path is a glob."""
    return any(c in path for c in "*?[")


def find(name: str, url: str) -> list[InputFile]:
    """The file at a URL, or the files that a glob matches, sorted; empty where a glob matches none.

    Args:
        name: the path or glob as configured; the files' names are derived from it.
        url: its location.

    Raises:
        Missing: a path that is not a glob has no file.
    """
    filesystem, path = resolve(url)
    with translated_errors(name):
        filesystem.invalidate_cache()
        globbed = is_pattern(path) and not filesystem.exists(path)
        try:
            infos: dict[str, Info] = filesystem.glob(path, detail=True) if globbed else {path: filesystem.info(path)}
        except FileNotFoundError as error:
            raise Missing(f"{name}: no such file ({path})") from error
    return [
        _described(_named_like(name, path, match), filesystem.unstrip_protocol(match), info)
        for match, info in sorted(infos.items())
    ]


def _named_like(name: str, pattern: str, match: str) -> str:
    """The match in the configured spelling: `inputs/*.parquet` and `/data/inputs/a.parquet` give `inputs/a.parquet`."""
    fixed = 0
    while fixed < min(len(name), len(pattern)) and name[-1 - fixed] == pattern[-1 - fixed]:
        fixed += 1
    lead, prefix = name[: len(name) - fixed], pattern[: len(pattern) - fixed]
    return lead + match[len(prefix) :] if match.startswith(prefix) else match


def _described(name: str, url: str, info: Info) -> InputFile:
    if info["type"] != "file":
        raise StorageError(
            f"{name}: is a folder, not a file; name the files, or a glob such as {name.rstrip('/')}/*.parquet"
        )
    fields = ("ETag", "etag", "mtime", "LastModified", "created")
    version = next((info[field] for field in fields if info.get(field)), info.get(fields[-1]))
    return InputFile(name, str(url), int(str(info["size"])), str(version).strip('"'))


def open_input(url: str) -> IO[bytes]:
    """A file for ranged reads.

    Raises:
        Missing: there is none.
        StorageError: it cannot be opened.
    """
    filesystem, path = resolve(url)
    with translated_errors(url):
        file: IO[bytes] = filesystem.open(path, "rb")
    return file


def size_of(url: str) -> int:
    """Bytes of a file; raises as `open_input`."""
    filesystem, path = resolve(url)
    with translated_errors(url):
        return int(filesystem.info(path)["size"])


def read_input(url: str) -> bytes:
    """All bytes of a file; raises as `open_input`."""
    filesystem, path = resolve(url)
    with translated_errors(url):
        return bytes(filesystem.cat_file(path))


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal, the digest of receipts and keys."""
    return hashlib.sha256(data).hexdigest()
