"""Local copies of files of a store, for libraries that read nothing but this machine's disks.

A copy is kept in this user's cache, by the identities of its files, so that it is fetched once, and again once a file
changed. Nothing removes earlier copies but the user.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from infra.errors import StorageError
from infra.storage.files import digest
from infra.storage.identity import NO_VERSION, InputFile
from infra.storage.pins import PinnedInput
from infra.storage.scratch import scratch_errors
from infra.storage.system_errors import translated_errors


def cache_folder() -> Path:
    """Where copies are kept: `madaudit` in the folder that XDG_CACHE_HOME names, or in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "madaudit"


def local_copy(files: Sequence[InputFile]) -> Path:
    """A folder with copies of files, by their last names, which must differ.

    Raises:
        Changed: one is not the file that was found any more.
        StorageError: a store tells no version of one, or it cannot be read, or the cache cannot be written.
    """
    unversioned = next((file.name for file in files if file.version in NO_VERSION), None)
    if unversioned is not None:
        raise StorageError(
            f"{unversioned}: its store tells no version of it, so that a changed file could not be told from a copy; "
            "copy the folder to a disk of this machine"
        )
    lines = sorted(f"{file.url} {file.identity}" for file in files)
    folder = cache_folder() / "copies" / digest("\n".join(lines).encode())
    if not folder.is_dir():
        _fetch(files, folder)
    return folder


def _fetch(files: Sequence[InputFile], folder: Path) -> None:
    """Copy files into a folder of another name, which then becomes the folder, whole; another process may be first."""
    begun = folder.with_name(f"{folder.name}.{uuid4().hex[:8]}")
    try:
        with translated_errors(str(begun)), scratch_errors(str(begun)):
            begun.mkdir(parents=True)
            for file in files:
                with PinnedInput(file) as handle, (begun / file.url.rpartition("/")[2]).open("wb") as copy:
                    shutil.copyfileobj(handle, copy, 8 << 20)
            if not folder.is_dir():
                begun.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(begun, ignore_errors=True)
