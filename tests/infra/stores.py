"""Stores under test: a folder, memory, memory with cached listings, two S3s, and one that ignores exclusive create."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from infra.storage.storage import Storage
from tests.services import BUCKET

REAL = pytest.param("s3", marks=pytest.mark.s3)
MOTO = pytest.param("moto", marks=pytest.mark.moto)
S3_KINDS = (MOTO, REAL)
KINDS = ("local", "memory", "caching", *S3_KINDS)

LOOKS_THEN_WRITES = pytest.mark.skip(
    reason="checks whether a name is taken, then writes, without a lock: two concurrent writers can both succeed"
)

RACEABLE = ("local", REAL, *(pytest.param(kind, marks=LOOKS_THEN_WRITES) for kind in ("memory", "caching", "moto")))


class CachingFileSystem(MemoryFileSystem):
    """Objects that all instances share, and listings that each caches until it writes there itself, as s3fs does."""

    protocol = "caching"
    root_marker = "/"
    cachable = False
    store: ClassVar[dict[str, MemoryFile]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("caching://", "memory://"))

    def ls(self, path: str, detail: bool = True, **kwargs: object) -> list[object]:
        """A listing, cached."""
        path = self._strip_protocol(path)
        if path not in self.dircache:
            self.dircache[path] = super().ls(path, detail=True)
        return self.dircache[path] if detail else sorted(entry["name"] for entry in self.dircache[path])

    def exists(self, path: str, **kwargs: object) -> bool:
        """From the cached listing of the folder where there is one."""
        path = self._strip_protocol(path)
        try:
            return bool(self._ls_from_cache(path)) or super().exists(path)
        except FileNotFoundError:
            return False

    def invalidate_cache(self, path: str | None = None) -> None:
        """Drop the cached listings of a path and of all folders above it; all of them without a path."""
        kept = "" if path is None else self._strip_protocol(path)
        for listed in list(self.dircache):
            if path is None or listed == kept or kept.startswith(f"{listed.rstrip('/')}/"):
                self.dircache.pop(listed)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: object) -> None:
        """Write, exclusively if the mode says so: the store decides, not the listing."""
        path = self._strip_protocol(path)
        if mode == "create" and path in self.store:
            raise FileExistsError(path)
        super().pipe_file(path, value)
        self.invalidate_cache(path)

    def put_file(self, lpath: str, rpath: str, **kwargs: object) -> None:
        """Write a local file's contents."""
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def cp_file(self, path1: str, path2: str, **kwargs: object) -> None:
        """Copy one object."""
        super().cp_file(path1, path2)
        self.invalidate_cache(path2)

    def rm_file(self, path: str) -> None:
        """Remove one object."""
        if self._strip_protocol(path) not in self.store:
            raise FileNotFoundError(path)
        super().rm_file(path)
        self.invalidate_cache(path)


class ForgetfulFileSystem(MemoryFileSystem):
    """A store in which every write replaces, like object stores that ignore `If-None-Match`."""

    protocol = "forgetful"
    root_marker = "/"
    store: ClassVar[dict[str, MemoryFile]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("forgetful://", "memory://"))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: object) -> None:
        """Write, whatever exists and whatever the mode."""
        super().pipe_file(path, value, mode="overwrite")


Operation = Callable[[], None]


def do(operation: Operation) -> None:
    """The script of a store without faults."""
    operation()


class ScriptedFileSystem(CachingFileSystem):
    """A store whose writes follow a script, which receives each as an operation to call: now, twice, later or never."""

    protocol = "scripted"
    store: ClassVar[dict[str, MemoryFile]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    scripts: ClassVar[list[Callable[[Operation], None]]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("scripted://", "memory://"))

    @classmethod
    @contextmanager
    def scripted(cls, script: Callable[[Operation], None]) -> Iterator[None]:
        """Writes follow this script, except those that the script itself makes."""
        cls.scripts.append(script)
        try:
            yield
        finally:
            cls.scripts.clear()

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: object) -> None:
        """Write, as the script says."""
        write = partial(super().pipe_file, path, value, mode)
        scripts = self.scripts[:]
        self.scripts.clear()
        (scripts[0] if scripts else do)(write)
        self.scripts.extend(scripts)


fsspec.register_implementation("scripted", ScriptedFileSystem, clobber=True)
fsspec.register_implementation("caching", CachingFileSystem, clobber=True)
fsspec.register_implementation("forgetful", ForgetfulFileSystem, clobber=True)


def fresh_url(kind: str, folder: Path = Path()) -> str:
    """The URL of an empty root in this kind of store; a local one is below the folder."""
    name = f"root-{uuid.uuid4().hex}"
    if kind in ("moto", "s3"):
        return f"s3://{BUCKET}/{name}"
    return str(folder / name) if kind == "local" else f"{kind}://{name}"


def another_client(storage: Storage) -> Storage:
    """The same root, seen by a client that shares nothing with the others: no connection, no cached listing."""
    type(storage.filesystem).clear_instance_cache()
    return Storage(storage.url)
