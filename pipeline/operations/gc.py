"""Garbage collection: what no kept run refers to is listed, and removed by a later call, at least one lease after.

The order of removal leaves the root sound at any moment. First the records of the runs go, each run marked beforehand
as collected; then manifests, receipts, and last the files that receipts name. So whatever is left when a removal is
interrupted is named by nothing, or names only what is left too, and the next removal continues. An attempt that no
receipt names stays for a day at least: a worker thought dead may still be writing it.
"""

import time
from contextlib import suppress
from dataclasses import replace
from math import ceil

from pydantic import BaseModel, ConfigDict

from infra.errors import AlreadyExists
from infra.events import Listener, Notice, StageEnded, Stopwatch, ignore, utc_stamp
from infra.formats.documents import FORMAT, encode
from infra.storage.removal import prune, remove_all
from infra.storage.storage import Storage
from pipeline.errors import ConfigError
from pipeline.operations.collection.lists import write_list
from pipeline.operations.collection.removal import STEP, remove
from pipeline.operations.collection.steps import Collection, next_collection
from pipeline.root.layout import REMOVAL_LISTS, collected_file
from pipeline.root.mark import open_root, root_lock


class CollectionMark(BaseModel):
    """The mark of a run whose results were removed, with the time when that began."""

    model_config = ConfigDict(frozen=True)
    format: int = FORMAT
    at: str


def collect(storage: Storage, keep_seconds: float, listener: Listener = ignore, now: float | None = None) -> Collection:
    """Remove what no kept run refers to and an earlier call listed, list the rest, and return both.

    Arguments and errors are those of `find_garbage`.

    Raises:
        LockHeld: a run is at work in the root, or has taken over because this process did not renew its lock.
        StorageError: the store refuses to remove something; the next call removes what is left.
    """
    open_root(storage)
    with root_lock(storage) as lock:
        held, watch = lock.guarded(), Stopwatch()
        found = next_collection(held, keep_seconds, lock.lease_seconds, now)
        for note in found.notes:
            listener(Notice(note))
        for run_id in found.removed.marked:
            with suppress(AlreadyExists):
                held.create(collected_file(run_id), encode(CollectionMark(at=utc_stamp())))
        remove(held, found.removed, listener)
        if found.new:
            found = replace(found, due=ceil(write_list(held, found.new) + lock.lease_seconds))
        for path in found.spent:
            remove_all(held, [path])
        prune(held, REMOVAL_LISTS)
        listener(StageEnded(STEP, watch.seconds))
    return found


def preview(storage: Storage, keep_seconds: float) -> Collection:
    """What `collect` would do now. Writes nothing; raises as `find_garbage`."""
    open_root(storage)
    return next_collection(storage, keep_seconds, root_lock(storage).lease_seconds, time.time())


def check_keep(seconds: float) -> float:
    """A span to keep runs for, unchanged.

    Raises:
        ConfigError: it reaches back before 1970.
    """
    if seconds > time.time():
        raise ConfigError(f"--keep reaches back {seconds / 86400:,.0f} days, to before 1970; give a shorter span")
    return seconds
