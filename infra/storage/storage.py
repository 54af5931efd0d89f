"""One interface to every place that holds an audit: a folder on disk, memory, an object store.

There are two kinds of write. `create` is exclusive and atomic: of any number of writers exactly one succeeds, and a
reader sees the whole file or none; receipts, manifests and published tables are written this way. `write` is atomic and
replaces; it is for attempt files, whose names no other writer uses, and for the few views that show the latest run.
There is no other way to write, on purpose.

The answer to a write can be lost on the way back from an object store; the client then repeats the request and is told
that the name is taken. So a writer that finds its own bytes there has succeeded. This is correct because a file that is
created exclusively either identifies its writer (it holds the id of an attempt, a run or an audit) or is named by its
contents, and then it does not matter who wrote it.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from infra.errors import AlreadyExists, Missing, StorageError
from infra.storage.links import link, replace, settle
from infra.storage.system_errors import translated_errors
from infra.storage.urls import path_on_disk, refuse_credentials

SCRATCH = ".tmp"
S3_SCHEMES = ("s3://", "s3a://")
ARCHIVES = ("zip://", "tar://", "libarchive://")


def resolve(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem and the path in it of a URL or plain path.

    Raises:
        StorageError: the protocol is unknown or its package is not installed, or the URL names no bucket or no folder,
            or carries credentials.
    """
    refuse_credentials(url)
    local = path_on_disk(url)
    if local is not None:
        return LocalFileSystem(), local
    try:
        if url.startswith(S3_SCHEMES):
            # Takes a third of a second, and local audits need none.
            from infra.storage.s3 import open_s3  # noqa: PLC0415

            return open_s3(url)
        _refuse_broken_chain(url)
        with translated_errors(url):
            filesystem, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise StorageError(
            f"{url}: cannot be opened ({error}); use a local path or a URL of an installed fsspec protocol"
        ) from error
    return filesystem, str(path)


def _refuse_broken_chain(url: str) -> None:
    """Refuse `::` where it chains no protocols: fsspec would leave out what follows, and open another folder.

    Archives are refused too: fsspec closes one as soon as nothing but an open file within it is left.
    """
    links = url.split("::")
    if any(link.startswith(ARCHIVES) for link in links):
        raise StorageError(f"{url}: files within archives are neither read nor written; unpack the archive")
    unknown = [
        link
        for link in links
        if "://" not in link and not link.startswith("/") and link not in fsspec.available_protocols()
    ]
    if len(links) > 1 and unknown:
        raise StorageError(
            f"{url}: `::` chains protocols in a URL, and {unknown[0]!r} is none; rename the folder or file"
        )


class Storage:
    """Reads and writes below one root; paths are relative to it, with forward slashes."""

    def __init__(self, url: str):
        """Opens nothing and writes nothing yet."""
        self.url = url
        self._filesystem, self.root = resolve(url)
        self._process = os.getpid()
        self._local = isinstance(self._filesystem, LocalFileSystem)

    def __reduce__(self) -> tuple[type["Storage"], tuple[str]]:
        """Pickled as its URL, as which it travels to workers."""
        return Storage, (self.url,)

    @property
    def filesystem(self) -> fsspec.AbstractFileSystem:
        """The filesystem of this process: connections do not survive a fork."""
        if self._process != os.getpid():
            self._filesystem, _ = resolve(self.url)
            self._process = os.getpid()
        return self._filesystem

    def full(self, path: str) -> str:
        """The path in the filesystem, for readers that take a filesystem and a path.

        Raises:
            StorageError: it leaves the root. Parts of paths come from documents in the root, which anyone with write
                access may have written.
        """
        if path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise StorageError(
                f"{path!r} is not a path below {self.url}; the document that names it is damaged or not written by mad"
            )
        return f"{self.root.rstrip('/')}/{path}" if path else self.root

    def locate(self, path: str) -> str:
        """The path as a person would open it."""
        return self.full(path) if self._local else f"{self.url.rstrip('/')}/{path}"

    def read(self, path: str) -> bytes:
        """All bytes of a file. Raises Missing where there is none."""
        with translated_errors(self.locate(path)):
            return bytes(self.filesystem.cat_file(self.full(path)))

    def open(self, path: str) -> IO[bytes]:
        """A file for ranged reads. Raises Missing where there is none."""
        with translated_errors(self.locate(path)):
            file: IO[bytes] = self.filesystem.open(self.full(path), "rb")
        return file

    def exists(self, path: str) -> bool:
        """Whether a file exists now, including files of other writers."""
        with translated_errors(self.locate(path)):
            self.filesystem.invalidate_cache()  # cached listings hide the files of other writers
            return bool(self.filesystem.exists(self.full(path)))

    def list(self, folder: str) -> list[str]:
        """Sorted names of the files and folders in a folder, without hidden ones; empty where there is no folder."""
        with translated_errors(self.locate(folder)):
            try:
                self.filesystem.invalidate_cache()
                entries = self.filesystem.ls(self.full(folder), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        itself = self.full(folder).rstrip("/")  # consoles of object stores make empty objects to represent folders
        names = (entry.rsplit("/", 1)[-1] for entry in (str(entry).rstrip("/") for entry in entries) if entry != itself)
        return sorted(name for name in names if not name.startswith("."))

    def walk(self, folder: str) -> Iterator[str]:
        """Paths, relative to the root, of all files below a folder, in no order."""
        with translated_errors(self.locate(folder)):
            self.filesystem.invalidate_cache()
            found = self.filesystem.find(self.full(folder))
        yield from (str(path)[len(self.root.rstrip("/")) + 1 :] for path in found if not str(path).endswith("/"))

    def before_change(self) -> None:
        """Called right before each change that others can see: `GuardedStorage` refuses some."""

    def write(self, path: str, data: bytes) -> None:
        """Write a file, replacing an existing one."""
        with translated_errors(self.locate(path)):
            if self._local:
                with self._scratch_file() as file:
                    file.write(data)
                    self._replace(file, path)
            else:
                self.before_change()
                self._send(path, data, mode="overwrite")

    def create(self, path: str, data: bytes) -> None:
        """Write a file where there is none.

        Raises:
            AlreadyExists: another writer was first.
        """
        with translated_errors(self.locate(path)):
            if self._local:
                with self._scratch_file() as file:
                    file.write(data)
                    self._claim(file, path)
            else:
                self.before_change()
                self._create_object(path, data)

    def upload(self, path: str, local: Path) -> None:
        """Write a local file's contents, replacing an existing file."""
        with translated_errors(self.locate(path)):
            if self._local:
                with self._scratch_file() as file, local.open("rb") as contents:
                    shutil.copyfileobj(contents, file)
                    self._replace(file, path)
            else:
                self.before_change()
                self.filesystem.put_file(str(local), self.full(path))

    def publish(self, source: str, target: str) -> None:
        """Give an existing file a second name, atomically; a disk copies nothing, an object store copies on its side.

        On a disk the name is taken exclusively. Not every object store copies on condition, so this first checks
        whether the name is free, and concurrent writers must publish the same contents (a run publishes its own
        tables).

        Raises:
            AlreadyExists: the second name is taken.
        """
        with translated_errors(self.locate(target)):
            place = self._target(target) if self._local else ""
            self.before_change()
            if self._local:
                link(self.full(source), place)
            elif self.exists(target):
                raise AlreadyExists(f"{self.locate(target)}: already exists")
            else:
                self.filesystem.cp_file(self.full(source), self.full(target))

    def remove(self, path: str) -> None:
        """Remove a file. Committed files are never removed, except by a repair that found them damaged."""
        with translated_errors(self.locate(path)):
            self.before_change()
            self.filesystem.rm_file(self.full(path))

    def refuse_without_exclusive_create(self) -> None:
        """Write a marker twice and remove it.

        Raises:
            StorageError: the second write succeeded, so two runs could publish over each other here.
        """
        marker = f"{SCRATCH}/probe-{uuid.uuid4().hex}"
        self.create(marker, b"first")
        try:
            self.create(marker, b"second")
        except AlreadyExists:
            return
        finally:
            with suppress(Missing):  # a network file system says so where the answer to the first removal was lost
                self.remove(marker)
        raise StorageError(
            f"{self.url}: this store lets a second writer replace a file that must be created only once (it ignores"
            " exclusive create, `If-None-Match: *` on S3), so two runs could overwrite each other; use a store that"
            " honours it: a local disk, Amazon S3, Ceph RGW or MinIO"
        )

    def _create_object(self, path: str, data: bytes) -> None:
        try:
            self._send(path, data, mode="create")
        except FileExistsError:
            if bytes(self.filesystem.cat_file(self.full(path))) != data:
                raise

    def _send(self, path: str, data: bytes, mode: str) -> None:
        try:
            self.filesystem.pipe_file(self.full(path), data, mode=mode)
        except FileExistsError as error:
            if not self.exists(path):
                raise NotADirectoryError(path) from error
            raise

    def _target(self, path: str) -> str:
        target = Path(self.full(path))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise NotADirectoryError(str(target)) from error
        return str(target)

    def _claim(self, file: IO[bytes], path: str) -> None:
        """Give a filled scratch file its name, if that is free."""
        settle(file)
        target = self._target(path)
        self.before_change()
        link(file.name, target)

    def _replace(self, file: IO[bytes], path: str) -> None:
        """Give a filled scratch file its name, whoever has it."""
        settle(file)
        target = self._target(path)
        self.before_change()
        replace(file, target)

    @contextmanager
    def _scratch_file(self) -> Iterator[IO[bytes]]:
        scratch = self._target(f"{SCRATCH}/{uuid.uuid4().hex}")
        try:
            with open(scratch, "xb") as file:
                yield file
        finally:
            with suppress(FileNotFoundError):
                os.unlink(scratch)
