"""Stores under test: a folder on disk, memory, and a look-alike that ignores exclusive create."""

import uuid
from pathlib import Path
from typing import ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

KINDS = ("local", "memory")


class ForgetfulFileSystem(MemoryFileSystem):
    """A store that lets anybody replace anything, as object stores do that ignore `If-None-Match`."""

    protocol = "forgetful"
    root_marker = "/"
    store: ClassVar[dict[str, MemoryFile]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("forgetful://", "memory://"))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: object) -> None:
        """Writes, whatever is there and whatever the mode."""
        super().pipe_file(path, value, mode="overwrite")


fsspec.register_implementation("forgetful", ForgetfulFileSystem, clobber=True)


def fresh_url(kind: str, folder: Path = Path()) -> str:
    """The URL of an empty root of this kind of store, below the folder where it is local."""
    name = f"root-{uuid.uuid4().hex}"
    return str(folder / name) if kind == "local" else f"{kind}://{name}"
