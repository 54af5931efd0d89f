"""Temporary files: on the disk that TMPDIR names, which may be another and smaller one than the root's."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import Unwritable
from infra.storage.system_errors import FULL, translated_errors


@contextmanager
def scratch_errors(folder: str) -> Iterator[None]:
    """Say of which disk a temporary file filled, and what helps; other errors stay as they are.

    Raises:
        Unwritable: the disk is full, or may not be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno not in FULL:
            raise
        raise Unwritable(
            f"temporary files in {folder}: {error.strerror}; {FULL[error.errno]}, or set TMPDIR to a folder on another "
            "disk, then run again; what is done is kept"
        ) from error


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for temporary files, private to this user, that is removed at the end.

    Raises:
        StorageError: no disk takes one.
    """
    try:
        place = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise Unwritable(f"{error.strerror}: none of them takes a file; set TMPDIR to a folder with room") from error
    with translated_errors(place), scratch_errors(place):
        folder = tempfile.TemporaryDirectory(prefix="mad-")
    with folder as name:
        yield Path(name)
