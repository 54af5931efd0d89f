"""`ROOT/mad.json`, the mark that makes a folder a root, and the lock that a driver holds on it."""

import uuid
from contextlib import suppress

from pydantic import BaseModel, ConfigDict

from infra.errors import AlreadyExists, Missing, StorageError, Unwritable
from infra.formats.documents import FORMAT, encode, parse
from infra.locks import Lock
from infra.storage.storage import Storage
from pipeline.errors import RootError

MARK, LOCK = "mad.json", ".lock"


class RootInfo(BaseModel):
    """What `mad.json` holds."""

    model_config = ConfigDict(frozen=True)
    format: int = FORMAT
    audit: str


def root_storage(url: str) -> Storage:
    """The storage of a root; nothing is read or written.

    Raises:
        RootError: no such protocol.
    """
    try:
        return Storage(url)
    except StorageError as error:
        raise RootError(f"root {error}") from error


def check_root(storage: Storage) -> RootInfo | None:
    """The root's mark, or None where a root can be made. Writes nothing.

    Raises:
        RootError: there are files but no mark, or a newer format.
    """
    try:
        return parse(storage.read(MARK), RootInfo, storage.locate(MARK))
    except Missing:
        pass
    except StorageError as error:
        raise RootError(str(error)) from error
    try:
        present = storage.list("")
    except StorageError as error:
        raise RootError(str(error)) from error
    if present:
        shown = ", ".join(present[:3])
        found = f"not a root, because it holds files ({shown}) but no mad.json"
        raise RootError(f"{storage.url}: {found}; name an empty or new folder, or an earlier root")
    return None


def open_root(storage: Storage) -> RootInfo:
    """The root's mark.

    Raises:
        RootError: it is not a root.
    """
    info = check_root(storage)
    if info is None:
        raise RootError(f"{storage.url}: not a root, there is nothing here; `mad run CONFIG` makes one")
    return info


def claim_root(storage: Storage) -> RootInfo:
    """Creates the root where it is new, after checking that its store honours exclusive create.

    Raises:
        RootError: there is no such store, or it lets two writers overwrite each other.
        Unwritable: it is full, read-only, or not this user's.
    """
    try:
        storage.refuse_without_exclusive_create()
        info = check_root(storage)
        if info is not None:
            return info
        with suppress(AlreadyExists):
            storage.create(MARK, encode(RootInfo(audit=uuid.uuid4().hex)))
    except Unwritable:
        raise
    except StorageError as error:
        raise RootError(str(error)) from error
    return open_root(storage)


def root_lock(storage: Storage) -> Lock:
    """The lock that a process holds while it runs an audit in the root."""
    return Lock(storage, LOCK)
