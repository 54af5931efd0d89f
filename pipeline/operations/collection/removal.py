"""Removes garbage in its order, batch by batch; what a driver that had lost the lock removed is put back.

A process that was suspended after it made sure of its lock makes one change when it wakes. Another driver may have
come to use just that manifest or receipt meanwhile, so their contents are held until the lock is known not to have
been lost. The other files need no such care: attempts go after the receipts that name them, and their names are used
once; tables and records are those of a run that nothing refers to.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import groupby

from infra.commits import CommitLog, Manifest, Receipt
from infra.errors import AlreadyExists, Corrupt, Missing
from infra.events import Listener, StageStarted, TaskEnded
from infra.formats.documents import parse
from infra.guarded import undoing
from infra.storage.removal import BATCH, Entry, prune, remove_all, removed_at_once
from infra.storage.storage import Storage
from pipeline.operations.collection.garbage import MANIFEST, MARK, RECEIPT, RUNS, SCORES, Garbage, Removal
from pipeline.root.layout import collected_file
from pipeline.root.logs import LOGGED, READERS, log_folder

STEP = "gc"


def remove(storage: Storage, garbage: Garbage, listener: Listener) -> None:
    """Remove garbage, and the folders that it leaves empty.

    Raises:
        LockHeld: another driver has taken over.
        StorageError: the store refuses to remove something.
    """
    removals = [
        *garbage.removals,
        *(Removal(MARK, Entry(collected_file(run_id), 0, 0), "", RUNS) for run_id in garbage.gone),
    ]
    removals.sort(key=lambda removal: removal.order)
    batches = [
        batch for _, group in groupby(removals, key=lambda removal: removal.order) for batch in _cut(list(group), BATCH)
    ]
    listener(StageStarted(STEP, len(batches), 0))
    for batch in batches:
        _remove_batch(storage, batch)
        listener(TaskEnded(STEP, batch[0].model, 0))
    if removals:
        for folder in (RUNS, *(f"{name}/{part}" for name in storage.list("") for part in (*LOGGED, SCORES))):
            prune(storage, folder)


def _remove_batch(storage: Storage, batch: Sequence[Removal]) -> None:
    """Remove what is of one kind, so that the order within it does not matter."""
    for part in _cut(batch, removed_at_once(storage)):
        paths = [removal.entry.path for removal in part]
        held = _contents(storage, paths) if batch[0].order in (MANIFEST, RECEIPT) else {}
        with undoing(storage, partial(put_back, held)):
            remove_all(storage, paths)
    if batch[0].order == MARK:
        prune(storage, RUNS)


def _cut(removals: Sequence[Removal], size: int) -> Iterator[Sequence[Removal]]:
    for first in range(0, len(removals), size):
        yield removals[first : first + size]


def _contents(storage: Storage, paths: Sequence[str]) -> Mapping[str, bytes]:
    """The contents of those of these files that are there."""

    def read(path: str) -> bytes:
        with suppress(Missing):
            return storage.read(path)
        return b""

    if len(paths) == 1:
        return {paths[0]: read(paths[0])}
    with ThreadPoolExecutor(READERS, "receipts") as pool:
        return dict(zip(paths, pool.map(read, paths), strict=True))


def put_back(contents: Mapping[str, bytes], storage: Storage) -> None:
    """Write manifests and receipts again, those of which all is still there.

    Args:
        contents: by path, those of one kind.
        storage: where they were.
    """
    for path, data in contents.items():
        log = CommitLog(storage, str(log_folder(path)))
        with suppress(Corrupt):
            receipts = _receipts(storage, path, data)
            if all(_is_whole(log, receipt) for receipt in receipts):
                for receipt in receipts:
                    log.restore(receipt)
                with suppress(AlreadyExists):
                    storage.create(path, data)


def _receipts(storage: Storage, path: str, data: bytes) -> Sequence[Receipt]:
    place = storage.locate(path)
    is_manifest = "/manifests/" in path
    return parse(data, Manifest, place).receipts if is_manifest else (parse(data, Receipt, place),)


def _is_whole(log: CommitLog, receipt: Receipt) -> bool:
    """Whether the files of a receipt are there, and the task has no other receipt in its place."""
    with suppress(Missing):
        if log.receipt(log.receipt_name(receipt.task, receipt.generation)) != receipt:
            return False
    return all(log.storage.exists(f"{log.attempt_folder(receipt)}/{file.name}") for file in receipt.files)
