"""Garbage collection: what no kept run refers to is removed, in an order that leaves the root sound at any moment.

First the records of the runs go, each run marked beforehand as collected; then manifests, receipts, and last the
files that receipts name. So whatever is left when a removal is interrupted is named by nothing, or names only what is
left too, and the next removal continues. An attempt that no receipt names stays for a day at least: a worker thought
dead may still be writing it.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby

from pydantic import BaseModel, ConfigDict

from infra.errors import AlreadyExists
from infra.events import Listener, Notice, StageEnded, StageStarted, Stopwatch, TaskEnded, ignore, utc_stamp
from infra.formats.documents import FORMAT, encode
from infra.locks import Lock
from infra.storage.removal import BATCH, Entry, prune, remove_all
from infra.storage.storage import Storage
from pipeline.errors import ConfigError
from pipeline.operations.garbage import MARK, RUNS, SCORES, Garbage, Removal, find_garbage
from pipeline.root.layout import collected_file
from pipeline.root.logs import LOGGED
from pipeline.root.mark import open_root, root_lock

STEP = "gc"


class CollectionMark(BaseModel):
    """The mark of a run whose results were removed, with the time when that began."""

    model_config = ConfigDict(frozen=True)
    format: int = FORMAT
    at: str


def collect(storage: Storage, keep_seconds: float, listener: Listener = ignore, now: float | None = None) -> Garbage:
    """Remove what no kept run refers to, and return it. Arguments and errors are those of `find_garbage`.

    Raises:
        LockHeld: a run is at work in the root.
        StorageError: the store refuses to remove something; the next call removes what is left.
    """
    open_root(storage)
    with root_lock(storage) as lock:
        found, watch = find_garbage(storage, keep_seconds, now), Stopwatch()
        for note in found.notes:
            listener(Notice(note))
        for run_id in found.marked:
            with suppress(AlreadyExists):
                storage.create(collected_file(run_id), encode(CollectionMark(at=utc_stamp())))
        _remove(storage, found, lock, listener)
        listener(StageEnded(STEP, watch.seconds))
    return found


def _remove(storage: Storage, found: Garbage, lock: Lock, listener: Listener) -> None:
    """Remove batch after batch, each of one kind, so that the order within a batch does not matter."""
    removals = [
        *found.removals,
        *(Removal(MARK, Entry(collected_file(run_id), 0, 0), "", RUNS) for run_id in found.gone),
    ]
    removals.sort(key=lambda removal: removal.order)
    batches = [
        batch for _, group in groupby(removals, key=lambda removal: removal.order) for batch in _batches(list(group))
    ]
    listener(StageStarted(STEP, len(batches), 0))
    for batch in batches:
        lock.check()
        remove_all(storage, [removal.entry.path for removal in batch])
        if batch[0].order == MARK:
            prune(storage, RUNS)
        listener(TaskEnded(STEP, batch[0].model, 0))
    for folder in (RUNS, *(f"{name}/{part}" for name in storage.list("") for part in (*LOGGED, SCORES))):
        prune(storage, folder)


def _batches(removals: Sequence[Removal]) -> Iterator[Sequence[Removal]]:
    for first in range(0, len(removals), BATCH):
        yield removals[first : first + BATCH]


def check_keep(seconds: float) -> float:
    """A span to keep runs for, unchanged.

    Raises:
        ConfigError: it reaches back before 1970.
    """
    if seconds > time.time():
        raise ConfigError(f"--keep reaches back {seconds / 86400:,.0f} days, to before 1970; give a shorter span")
    return seconds
