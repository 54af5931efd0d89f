"""What tells one state of a file from another: size and version everywhere, inode and change time on a disk.

A size and a time of modification can be those of another file: `cp -p`, archives and backups set them. The inode and
the time of the last change cannot be set, but they mean something only where the same disk is looked at, and they
differ for another reason too, such as `chmod`.
"""

import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from typing import Annotated
from uuid import uuid4

from pydantic import Field

from infra.errors import StorageError

_VERSIONS = ("ETag", "etag", "mtime", "LastModified", "Last-Modified")
_OTHER_VERSIONS = (
    *("Content-MD5", "Digest", "blob_id", "generation", "sha", "md5Hash"),
    *("last_modified", "modified", "modify", "last_write_time"),
)

_UNSAID = Field(exclude_if=operator.not_)  # early versions of mad recorded no such key

NO_VERSION = ("", "None")  # an early version of mad recorded the second


@dataclass(frozen=True)
class Sighting:
    """A file of a disk as a process saw it: in which view of the disks, its inode, and its change time in ns."""

    view: str
    inode: int
    changed: int

    def same_file(self, other: "Sighting") -> bool:
        """Whether both saw the same file in the same state, if they looked at the same disk."""
        return (self.inode, self.changed) == (other.inode, other.changed)


@dataclass(frozen=True)
class Part:
    """Files in a folder that count as one: those with paths in the folder from `first` to `last`, in their order."""

    folder: str
    first: str
    last: str


@dataclass(frozen=True)
class InputFile:
    """A file as it is now: `name` as configured, `version` its etag or modification time, "" where a store tells none.

    `part`: the files of a folder that it stands for, of which `version` is a digest; None for a file.

    `seen`: how this machine's disk has it, None elsewhere. `contents`: the SHA-256 of its bytes, "" where nobody has
    read them. `by_contents`: whether the contents, not size and version, identify it.
    """

    name: str
    url: str
    size: int
    version: str
    seen: Annotated[Sighting | None, _UNSAID] = field(default=None, compare=False)
    contents: Annotated[str, _UNSAID] = field(default="", compare=False)
    by_contents: Annotated[bool, _UNSAID] = False
    part: Annotated[Part | None, _UNSAID] = None

    @property
    def identity(self) -> str:
        """What tells it from another file at the same place."""
        return f"sha256 {self.contents}" if self.by_contents else f"{self.size}\n{self.version}"


def place_of(source: InputFile | str) -> str:
    """The URL of a file, found or not."""
    return source.url if isinstance(source, InputFile) else source


def size_in(info: Mapping[str, object], name: str) -> int:
    """The size that a store tells of a file.

    Raises:
        StorageError: it tells none.
    """
    size = info.get("size")
    if not isinstance(size, int):
        raise StorageError(
            f"{name}: its store does not tell how large it is, so no part of it can be read; copy it to a disk, or "
            "serve it with its length (Content-Length)"
        )
    return size


def version_of(info: Mapping[str, object]) -> str:
    """The version that a store tells of a file, "" where it tells none."""
    found = next((info[name] for name in (*_VERSIONS, *_OTHER_VERSIONS, "created") if info.get(name)), "")
    return str(found).strip('"')


def sighting(status: os.stat_result) -> Sighting:
    """A file's status as this process sees it."""
    return Sighting(view(), status.st_ino, status.st_ctime_ns)


@cache
def view() -> str:
    """What this process shares with those that see the same files at the same paths: host and mounts, hashed.

    A process that cannot tell has a view of its own.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        mounts = os.stat("/proc/self/ns/mnt").st_ino
    except OSError:
        return uuid4().hex[:16]
    return sha256(f"{boot} {mounts}".encode()).hexdigest()[:16]
