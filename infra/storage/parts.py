"""Parts of folders: many small files, such as images, that count as one file of samples.

The files of a folder, in the order of their paths, are cut where the digest of a path says so. So a file that is added
or removed changes the part that it is in, and no other. A part holds no list of its files: whoever reads it lists the
folders that they are in, and compares the digest of what is there.
"""

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from infra.errors import Changed
from infra.storage.files import digest
from infra.storage.globs import is_passed_over
from infra.storage.identity import InputFile, Part, size_in, version_of
from infra.storage.storage import resolve
from infra.storage.system_errors import translated_errors

CUT_AT = 512  # files of a part, on average
MOST = 4096

IMAGE_ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".jp2"),
    *(".ppm", ".pgm", ".pbm", ".tga"),
)


@dataclass(frozen=True)
class _Entry:
    """What a folder holds: a name, with a slash behind that of a folder, and the size and version of a file."""

    name: str
    size: int = 0
    version: str = ""


class Members(io.BytesIO):
    """An open part: its files, sorted by their paths, each named by its path in the folder."""

    def __init__(self, members: list[InputFile]):
        """Hold them."""
        super().__init__()
        self.members = members


def is_image(path: str) -> bool:
    """Whether a path ends as images do."""
    return path.lower().endswith(IMAGE_ENDINGS)


def parts_of(name: str, url: str, files: Iterable[InputFile]) -> tuple[InputFile, ...]:
    """The images of a folder in parts.

    Args:
        name: the folder as configured.
        url: its location.
        files: all files in it, named as the folder is.
    """
    _entries.cache_clear()
    images = sorted(
        (file.name.removeprefix(f"{name}/"), file.size, file.version) for file in files if is_image(file.name)
    )
    parts, kept = list[InputFile](), list[tuple[str, int, str]]()
    for one in images:
        kept.append(one)
        if int(digest(one[0].encode())[:8], 16) % CUT_AT == 0 or len(kept) == MOST:
            parts.append(_part(name, url, kept))
            kept = []
    return (*parts, _part(name, url, kept)) if kept else tuple(parts)


def _part(name: str, url: str, images: list[tuple[str, int, str]]) -> InputFile:
    first, last = images[0][0], images[-1][0]
    size = sum(own for _, own, _ in images)
    return InputFile(f"{name}[{first} to {last}]", f"{url}/{first}", size, _digest(images), part=Part(url, first, last))


def _digest(images: Iterable[tuple[str, int, str]]) -> str:
    return digest("\n".join(f"{path}\0{size}\0{version}" for path, size, version in images).encode())[:32]


def open_part(file: InputFile) -> Members:
    """The files of a part.

    Raises:
        Changed: they are not those that were found.
        StorageError: a folder cannot be listed.
    """
    assert file.part is not None
    for _ in range(2):
        with translated_errors(file.name):
            found = [one for one in _within(file.part) if is_image(one[0])]
        if _digest(found) == file.version:
            folder = file.part.folder
            return Members([InputFile(path, f"{folder}/{path}", size, version) for path, size, version in found])
        _entries.cache_clear()  # it may be of an earlier plan
        resolve(file.part.folder)[0].invalidate_cache()
    raise Changed(
        f"{file.name}: files in it changed while the audit ran; nothing that was read of it is kept; run again"
    )


def _within(part: Part, below: str = "") -> Iterator[tuple[str, int, str]]:
    """Path, size and version of each file of a part that is in this folder of it, sorted by path."""
    for entry in _entries(part.folder, below):
        path = below + entry.name
        if path.endswith("/"):
            if path <= part.last and not part.first > path + "\U0010ffff":
                yield from _within(part, path)
        elif part.first <= path <= part.last:
            yield path, entry.size, entry.version


@lru_cache(maxsize=256)
def _entries(folder: str, below: str) -> tuple[_Entry, ...]:
    """What stands in a folder, sorted as paths are, without hidden names."""
    filesystem, root = resolve(folder)
    place = f"{root.rstrip('/')}/{below}".rstrip("/")
    found = _on_disk(place) if isinstance(filesystem, LocalFileSystem) else _in_store(filesystem, place)
    return tuple(sorted((one for one in found if not is_passed_over(one.name, ["*"])), key=lambda one: one.name))


def _on_disk(place: str) -> Iterator[_Entry]:
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.is_dir() and not _leads_up(entry, place):
                yield _Entry(f"{entry.name}/")
            elif entry.is_file():
                status = entry.stat()
                yield _Entry(entry.name, status.st_size, str(status.st_mtime))


def _leads_up(entry: os.DirEntry[str], place: str) -> bool:
    """Whether an entry of a folder is a link to a folder above it, which is not entered again."""
    return entry.is_symlink() and f"{os.path.realpath(place)}/".startswith(f"{os.path.realpath(entry.path)}/")


def _in_store(filesystem: AbstractFileSystem, place: str) -> Iterator[_Entry]:
    for info in filesystem.ls(place, detail=True):
        name = str(info["name"]).rstrip("/").rpartition("/")[2]
        if info["type"] == "directory":
            yield _Entry(f"{name}/")
        elif str(info["name"]).rstrip("/") != place:
            yield _Entry(name, size_in(info, name), version_of(info))
