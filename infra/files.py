"""Input files, wherever they are: found by path or glob, told apart by size and modification, opened for ranged reads."""

import hashlib
from dataclasses import dataclass
from typing import IO

from infra.errors import Missing, StorageError
from infra.storage import resolve


@dataclass(frozen=True)
class InputFile:
    """A file as it is now. `name` is as configured, `version` its etag or modification time."""

    name: str
    url: str
    size: int
    version: str


def is_pattern(path: str) -> bool:
    """Whether a path is a glob."""
    return any(c in path for c in "*?[")


def find(name: str, url: str) -> list[InputFile]:
    """The file at a URL, or the files a glob matches, sorted; none where a glob matches none.

    Args:
        name: the path or glob as configured; the files' names are made from it.
        url: where that is.

    Raises:
        Missing: a path that is no glob has no file.
    """
    filesystem, path = resolve(url)
    globbed = is_pattern(path) and not filesystem.exists(path)
    paths = sorted(str(match) for match in filesystem.glob(path)) if globbed else [path]
    return [_inspect(_named_like(name, path, match), url, match) for match in paths]


def _named_like(name: str, pattern: str, match: str) -> str:
    """The match in the configured spelling: `inputs/*.parquet` and `/data/inputs/a.parquet` give `inputs/a.parquet`."""
    fixed = 0
    while fixed < min(len(name), len(pattern)) and name[-1 - fixed] == pattern[-1 - fixed]:
        fixed += 1
    lead, prefix = name[: len(name) - fixed], pattern[: len(pattern) - fixed]
    return lead + match[len(prefix) :] if match.startswith(prefix) else match


def _inspect(name: str, url: str, path: str) -> InputFile:
    filesystem, _ = resolve(url)
    try:
        info = filesystem.info(path)
    except FileNotFoundError as error:
        raise Missing(f"{name}: no such file ({path})") from error
    except PermissionError as error:
        raise StorageError(f"{name}: permission denied ({path})") from error
    if info["type"] != "file":
        raise StorageError(f"{name}: is a folder, not a file; name the files, or a glob such as {name.rstrip('/')}/*.parquet")
    version = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or info.get("created")
    return InputFile(name, str(filesystem.unstrip_protocol(path)), int(info["size"]), str(version).strip('"'))


def open_input(url: str) -> IO[bytes]:
    """A file for ranged reads.

    Raises:
        Missing: there is none.
        StorageError: it cannot be opened.
    """
    filesystem, path = resolve(url)
    try:
        file: IO[bytes] = filesystem.open(path, "rb")
    except FileNotFoundError as error:
        raise Missing(f"{url}: no such file") from error
    except OSError as error:
        raise StorageError(f"{url}: {error.strerror or error}") from error
    return file


def read_input(url: str) -> bytes:
    """All bytes of a file; raises as `open_input`."""
    with open_input(url) as file:
        return file.read()


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal, the digest that receipts and keys are made of."""
    return hashlib.sha256(data).hexdigest()
