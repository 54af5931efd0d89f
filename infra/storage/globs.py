"""Globs: which entries a pattern matches, on disk or in a store.

`*`, `?` and `[...]` match within one part of a path, and `**`, alone in a part, any number of folders. Links are
followed wherever they stand. A part that exists as it is written is that entry and no pattern, so that a folder
`run[1]` is never taken for `run1`. Wildcards match neither hidden names (with a leading dot) nor the markers and work
folders of Spark, Hive and Delta (`_SUCCESS`, `_temporary`, `_delta_log`: a leading underscore and no extension), unless
a part of the pattern begins like them.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import translate

import fsspec

ANY_DEPTH = "**"
_MAGIC = re.compile(r"[*?[]")


def is_pattern(path: str) -> bool:
    """Whether a path is a glob."""
    return _MAGIC.search(path) is not None


def is_passed_over(name: str, parts: Sequence[str]) -> bool:
    """Whether wildcards in these parts of a pattern pass over an entry of this name."""
    special = name.startswith(".") or (name.startswith("_") and "." not in name)
    return special and not any(part.startswith(name[0]) for part in parts)


class DiskGlob:
    """One pattern on this machine's disks, below an absolute path; `faults`: folders that cannot be listed, and why."""

    def __init__(self, pattern: str):
        """Reads nothing yet."""
        self._parts = [part for part in pattern.split("/") if part]
        self.faults: dict[str, OSError] = {}

    def paths(self) -> list[str]:
        """The paths that match, sorted; they may be folders, dangling links, and anything else that has a name."""
        return sorted(set(self._below("/", self._parts)))

    def _below(self, folder: str, parts: Sequence[str]) -> Iterator[str]:
        part, rest = parts[0], parts[1:]
        if part == ANY_DEPTH:
            yield from self._at_any_depth(folder, rest, ())
            return
        for name in [part] if _is_literal(folder, part) else self._names(folder, part):
            path = os.path.join(folder, name)
            if not rest:
                yield path
            elif os.path.isdir(path):
                yield from self._below(path, rest)

    def _at_any_depth(self, folder: str, rest: Sequence[str], above: tuple[tuple[int, int], ...]) -> Iterator[str]:
        """What the rest matches here and in all folders below; a link to a folder above it is not entered again."""
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        if rest:
            yield from self._below(folder, rest)
        for name in self._names(folder, "*"):
            path = os.path.join(folder, name)
            if os.path.isdir(path):
                yield from self._at_any_depth(path, rest, (*above, here))
            elif not rest:
                yield path

    def _names(self, folder: str, part: str) -> list[str]:
        matches = re.compile(translate(part)).match
        try:
            names = os.listdir(folder)
        except OSError as error:
            self.faults[folder] = error
            return []
        return sorted(name for name in names if matches(name) and not is_passed_over(name, [part]))


def _is_literal(folder: str, part: str) -> bool:
    return not is_pattern(part) or os.path.lexists(os.path.join(folder, part))


def glob_store(filesystem: fsspec.AbstractFileSystem, pattern: str) -> dict[str, Mapping[str, object]]:
    """The objects of a store that match, by path, with what the store says of each."""
    parts = pattern.split("/")
    escaped, fixed = _escaped(filesystem, parts)
    found: dict[str, Mapping[str, object]] = filesystem.glob("/".join(escaped), detail=True)
    return {
        path: info
        for path, info in sorted(found.items())
        if not any(is_passed_over(name, parts[fixed:]) for name in path.rstrip("/").split("/")[fixed:])
        and not (parts[-1] == ANY_DEPTH and info["type"] == "directory")
    }


def _escaped(filesystem: fsspec.AbstractFileSystem, parts: Sequence[str]) -> tuple[list[str], int]:
    """The parts, those that exist as they are written without wildcards; and how many come before the first pattern."""
    fixed = 0
    for part in parts:
        if is_pattern(part) and not filesystem.exists("/".join(parts[: fixed + 1])):
            break
        fixed += 1
    literal = [_MAGIC.sub(r"[\g<0>]", part) for part in parts[:fixed]]
    return [*literal, *(part if part == ANY_DEPTH else re.sub(r"\*+", "*", part) for part in parts[fixed:])], fixed
