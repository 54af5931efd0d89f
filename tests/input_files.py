"""Input files of tests: as they are found, and replaced so that size and time of modification do not tell."""

import os
import time
from pathlib import Path

from infra.storage.files import find
from infra.storage.identity import InputFile


def found(path: Path | str, name: str = "") -> InputFile:
    """The file at a path or URL."""
    place = str(path)
    (file,) = find(name or place.rpartition("/")[2], place).files
    return file


def put_in_place(path: Path, data: bytes) -> None:
    """Put another file in a file's place, as `cp -p` and `mv` do: with its time of modification."""
    status = path.stat()
    other = path.with_name(f".{path.name}.new")
    other.write_bytes(data)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(other, path)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) != (status.st_mtime_ns, status.st_ino)


def write_over(path: Path, data: bytes) -> None:
    """Write into a file, and set its time of modification back."""
    status = path.stat()
    time.sleep(0.02)  # the clock of a disk ticks every few milliseconds
    with path.open("r+b") as file:
        file.truncate(len(data))
        file.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
