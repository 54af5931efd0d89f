"""Input files pinned: what is read under a file's key is that file, from the first byte to the last.

Planning notes the identity of each file. It is compared at every open, once more after the last byte was read, and
right before anything made of it is committed (`confirm`); a store with conditional reads (S3) compares it at each read.

Size and version must be those that planning saw. Inode and change time are compared where planning looked at the same
disks; elsewhere, such as on a node with a copy of its own, among the opens of one process. Where they alone differ, as
after `chmod`, the file is read and its digest decides, if a run has recorded one. A file of a store that tells no
version is copied to a scratch file, whose digest must be that of the plan.
"""

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Lock
from typing import IO

from fsspec import AbstractFileSystem
from fsspec.implementations.cached import CachingFileSystem
from fsspec.implementations.local import LocalFileSystem

from infra.errors import Changed, Missing, StorageError
from infra.storage.files import digest, open_input
from infra.storage.identity import NO_VERSION, InputFile, Sighting, sighting, size_in, version_of
from infra.storage.parts import open_part
from infra.storage.scratch import scratch_errors
from infra.storage.storage import S3_SCHEMES, resolve
from infra.storage.system_errors import translated_errors

CHUNK = 8 << 20

MOST_SEEN = 1 << 16

_SEEN: dict[tuple[InputFile, Sighting | None], Sighting] = {}  # how this process last saw a pinned file
_FETCHED: set[tuple[str, str]] = set()  # files and versions of other stores that this process has opened
_FETCHING = Lock()

Opened = tuple[IO[bytes], Callable[[], None]]


class PinnedInput:
    """A file open for ranged reads. Close it, or use it as a context.

    A plain URL is opened as it is, without a pin.
    """

    def __init__(self, place: InputFile | str):
        """Open it.

        Raises:
            Changed: it is not the file that was found.
            Missing: there is none.
            StorageError: it cannot be opened.
        """
        self.handle, self._check = _open(place) if isinstance(place, InputFile) else (open_input(place), _nothing)

    def __enter__(self) -> IO[bytes]:
        return self.handle

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close it, and compare it where it was read to the end or could not be read."""
        if kind is None or issubclass(kind, StorageError):
            self.close()
        else:
            self.handle.close()

    def close(self) -> None:
        """Close it.

        Raises:
            Changed: it is not the file that was opened any more.
        """
        try:
            self._check()
        finally:
            self.handle.close()


def confirm(files: Iterable[InputFile]) -> None:
    """Compare files with the plan, right before what was made of them is committed.

    One that is gone was read whole, and so was the copy of one without a version.

    Raises:
        Changed: one is not the file that was found any more.
        StorageError: one cannot be opened.
    """
    for own in (member for file in files for member in _on_this_disk(file)):
        if not _is_copied(own):
            with suppress(Missing):
                PinnedInput(own).handle.close()


def _on_this_disk(file: InputFile) -> list[InputFile]:
    """The file; of a part, its files on a disk. Those in a store were compared when they were read, whole."""
    if file.part is None:
        return [file]
    local = isinstance(resolve(file.part.folder)[0], LocalFileSystem)
    return open_part(file).members if local else []


def digest_of(file: InputFile) -> str:
    """The SHA-256 of a file's contents, in hexadecimal. Reads all of it.

    Raises:
        Changed: it is not the file that was found.
        StorageError: it cannot be read.
    """
    if file.part is not None:
        lines = (f"{member.name} {digest_of(member)}\n" for member in open_part(file).members)
        return digest("".join(lines).encode())
    if file.version in NO_VERSION:
        with _FETCHING:
            _forget_copies(resolve(file.url)[0])
    with PinnedInput(file.url if file.version in NO_VERSION else file) as handle:
        return _copy(file, handle, None)


def _copy(file: InputFile, handle: IO[bytes], sink: IO[bytes] | None) -> str:
    """Read a file to its end, into another if wanted; returns the digest."""
    hasher, size = hashlib.sha256(), 0
    while chunk := _next(file, handle):
        hasher.update(chunk)
        size += len(chunk)
        if sink is not None:
            sink.write(chunk)
    if size != file.size:
        raise changed(file, f"it had {file.size:,} bytes, and has {size:,}")
    return hasher.hexdigest()


def _next(file: InputFile, handle: IO[bytes]) -> bytes:
    with translated_errors(file.name):
        return handle.read(CHUNK)


def changed(file: InputFile, how: str) -> Changed:
    """The error of a file that is not what planning saw."""
    return Changed(f"{file.name}: changed while the audit ran ({how}); nothing that was read of it is kept; run again")


def _open(file: InputFile) -> Opened:
    if file.part is not None:
        return open_part(file), _nothing
    filesystem, path = resolve(file.url)
    if isinstance(filesystem, LocalFileSystem):
        return _open_on_disk(file, filesystem, path)
    if _is_copied(file):
        return _open_copy(file), _nothing
    if file.url.startswith(S3_SCHEMES):
        return _open_on_s3(file), _nothing
    return _open_elsewhere(file, filesystem, path)


def _is_copied(file: InputFile) -> bool:
    """Whether it is of a store that tells no version."""
    return file.version in NO_VERSION and bool(file.contents)


def _open_on_disk(file: InputFile, filesystem: AbstractFileSystem, path: str) -> Opened:
    _compare_status(file, path, _status(file, path))
    handle: IO[bytes] = open_input(file.url)
    try:
        _compare_status(file, path, os.fstat(handle.fileno()))
    except BaseException:
        handle.close()
        raise

    def check() -> None:
        """The file that is open must not have been written to, nor another have its place."""
        own = os.fstat(handle.fileno())
        _compare(file, own.st_size, str(own.st_mtime))
        try:
            _compare_status(file, path, _status(file, path))
        except Missing:
            return  # what was read is the whole file all the same

    return handle, check


def _status(file: InputFile, path: str) -> os.stat_result:
    """The status of the file at a path, asked of an open file: network disks tell that of a path from memory.

    Raises:
        Missing: there is none.
        StorageError: it cannot be opened.
    """
    with translated_errors(file.name):
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # would wait for the writer of a pipe
        try:
            return os.fstat(number)
        finally:
            os.close(number)


def _compare_status(file: InputFile, path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise changed(file, "something that is no file is in its place")
    _compare(file, status.st_size, str(status.st_mtime))
    key, here = (file, file.seen), sighting(status)
    before = _SEEN.get(key) or (file.seen if file.seen is not None and file.seen.view == here.view else here)
    if not before.same_file(here) and not _has_contents(file, path, here):
        raise changed(file, "another file of the same size and time is in its place, or its rights or links changed")
    if len(_SEEN) >= MOST_SEEN:
        _SEEN.clear()  # of folders with many images
    _SEEN[key] = here


def _has_contents(file: InputFile, path: str, here: Sighting) -> bool:
    """Whether the file that was seen has the contents that a run recorded; unknown ones count as others."""
    if not file.contents:
        return False
    with translated_errors(file.name), open(path, "rb") as handle:
        found = _copy(file, handle, None)
        return found == file.contents and sighting(os.fstat(handle.fileno())).same_file(here)


def _compare(file: InputFile, size: int, version: str) -> None:
    if size != file.size:
        raise changed(file, f"it had {file.size:,} bytes, and has {size:,}")
    if version != file.version and file.version not in NO_VERSION:
        raise changed(file, f"its time of modification or ETag was {file.version}, and is {version or 'unknown'}")


def _open_on_s3(file: InputFile) -> IO[bytes]:
    """s3fs asks for the ETag when it opens an object, and each of its reads has the condition that it is the same."""
    handle = open_input(file.url)
    details = getattr(handle, "details", {})
    try:
        _compare(file, size_in(details, file.name), version_of(details))
    except BaseException:
        handle.close()
        raise
    return handle


def _open_elsewhere(file: InputFile, filesystem: AbstractFileSystem, path: str) -> Opened:
    def check() -> None:
        with translated_errors(file.name):
            filesystem.invalidate_cache()
            info = filesystem.info(path)
        _compare(file, size_in(info, file.name), version_of(info))

    check()
    with _FETCHING:
        if (file.url, file.version) not in _FETCHED:
            _forget_copies(filesystem)
            _FETCHED.add((file.url, file.version))
        return open_input(file.url), check


def _forget_copies(filesystem: AbstractFileSystem) -> None:
    """Local copies (`simplecache::`) are of what was there when they were made, which may be an earlier version."""
    if isinstance(filesystem, CachingFileSystem):
        filesystem.clear_cache()


def _open_copy(file: InputFile) -> IO[bytes]:
    """A copy of a file without a version, whose contents are those of the plan."""
    with scratch_errors(tempfile.gettempdir()):
        copy: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        with open_input(file.url) as handle, scratch_errors(tempfile.gettempdir()):
            found = _copy(file, handle, copy)
        if found != file.contents:
            raise changed(file, "its contents have another digest")
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy


def _nothing() -> None:
    """There is nothing to compare."""
