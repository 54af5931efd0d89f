"""Input files, on disk or in a store: found by path or glob, identified (see `infra.storage.identity`), and opened."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from infra.errors import IsFolder, Missing, StorageError
from infra.storage.globs import DiskGlob, glob_store, is_pattern
from infra.storage.identity import InputFile, sighting, size_in, version_of
from infra.storage.storage import S3_SCHEMES, resolve
from infra.storage.system_errors import translated_errors

Info = Mapping[str, object]


@dataclass(frozen=True)
class Found:
    """The files that a path or glob names, sorted; and for each entry that a glob matches and that is no file, why."""

    files: tuple[InputFile, ...]
    faults: Mapping[str, str]


def find(name: str, url: str) -> Found:
    """The file at a URL, or the files that a glob matches; none where a glob matches none.

    A path that exists as it is written is that file, whatever characters it holds. Links are followed: size and version
    are those of the file that a link leads to.

    Args:
        name: the path or glob as configured; the files' names are derived from it.
        url: its location.

    Raises:
        Missing: a path that is not a glob has no file.
        IsFolder: it is a folder.
        StorageError: it is no file, or the store cannot be read.
    """
    filesystem, path = resolve(url)
    with translated_errors(name):
        filesystem.invalidate_cache()
        if not is_pattern(name) or filesystem.exists(path):
            return Found((_inspect(filesystem, name, url, path, None),), {})
        infos, unlisted = _glob(filesystem, path)
    files, faults = list[InputFile](), dict[str, str]()
    for match, info in infos.items():
        own = _named_like(name, path, match)
        try:
            files.append(_inspect(filesystem, own, url, match, info))
        except StorageError as error:
            faults[as_text(own)] = str(error)
    for folder, reason in unlisted.items():
        own = as_text(_named_like(name, path, folder))
        faults[own] = f"{own}: this folder cannot be listed ({reason.strerror}); give this user the right to read it"
    return Found(tuple(files), faults)


def _glob(filesystem: AbstractFileSystem, pattern: str) -> tuple[Mapping[str, Info | None], Mapping[str, OSError]]:
    """The entries that match, with what the store says of each, if it did; and the folders that cannot be listed."""
    if not isinstance(filesystem, LocalFileSystem):
        return glob_store(filesystem, pattern), {}
    glob = DiskGlob(pattern)
    return dict.fromkeys(glob.paths()), glob.faults


def _inspect(filesystem: AbstractFileSystem, name: str, url: str, path: str, info: Info | None) -> InputFile:
    """The file at a path of the filesystem that a URL or glob names; raises as `find`."""
    shown = as_text(name)
    if shown != name:
        raise StorageError(f"{shown}: its name is not valid UTF-8; rename it")
    with translated_errors(name):
        try:
            info = filesystem.info(path) if info is None else info
        except FileNotFoundError as error:
            _refuse_dangling(filesystem, name, path)
            raise Missing(f"{name}: no such file ({path})") from error
        _refuse_others(name, info, f"name the files, or a glob such as {name.rstrip('/')}/*.parquet")
        place = _url_of(filesystem, url, path)
        if not isinstance(filesystem, LocalFileSystem):
            return InputFile(name, place, size_in(info, name), version_of(info))
        status = os.stat(path)
    return InputFile(name, place, status.st_size, str(status.st_mtime), sighting(status))


def _refuse_dangling(filesystem: AbstractFileSystem, name: str, path: str) -> None:
    """Say of a missing file that it is a link to nothing."""
    if isinstance(filesystem, LocalFileSystem) and os.path.islink(path):
        raise Missing(f"{name}: is a link to {as_text(os.readlink(path))}, which is not there")


def _url_of(filesystem: AbstractFileSystem, url: str, path: str) -> str:
    """The URL of a path; in a chain such as `simplecache::https://server/*.parquet`, with the rest of the chain."""
    links = url.split("::")
    if len(links) == 1 or isinstance(filesystem, LocalFileSystem) or url.startswith(S3_SCHEMES):
        return str(filesystem.unstrip_protocol(path))
    place = next((number for number, link in enumerate(links) if "://" in link), 0)
    own = path if "://" in path else f"{links[place].partition('://')[0]}://{path}"
    return "::".join([*links[:place], own, *links[place + 1 :]])


def as_text(name: str) -> str:
    """A name with `?` for bytes that are not UTF-8, which no table or document can hold."""
    return name.encode(errors="replace").decode()


def _named_like(name: str, pattern: str, match: str) -> str:
    """The match in the configured spelling: `inputs/*.parquet` and `/data/inputs/a.parquet` give `inputs/a.parquet`."""
    fixed = 0
    while fixed < min(len(name), len(pattern)) and name[-1 - fixed] == pattern[-1 - fixed]:
        fixed += 1
    lead, prefix = name[: len(name) - fixed], pattern[: len(pattern) - fixed]
    return lead + match[len(prefix) :] if match.startswith(prefix) else match


def _refuse_others(name: str, info: Info, instead: str) -> None:
    """Refuse what is no file; reading a pipe would wait for ever."""
    if info["type"] == "directory":
        raise IsFolder(f"{name}: is a folder, not a file; {instead}")
    if info["type"] != "file":
        raise StorageError(f"{name}: is a pipe, a socket or a device, not a file; name a file")


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
        if not filesystem.exists(path):
            _refuse_dangling(filesystem, url, path)
        info: Info = filesystem.info(path)
    _refuse_others(url, info, "name a file in it")
    return size_in(info, url)


def read_input(url: str) -> bytes:
    """All bytes of a file; raises as `open_input`."""
    filesystem, path = resolve(url)
    with translated_errors(url):
        return bytes(filesystem.cat_file(path))


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal, the digest of receipts and keys."""
    return hashlib.sha256(data).hexdigest()
