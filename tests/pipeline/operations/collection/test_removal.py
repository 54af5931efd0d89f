"""Removal by a driver that lost its lock while a request of its own was under way, on a disk and on S3."""

from pathlib import Path

import pytest

from infra.commits import CommitLog
from infra.errors import LockHeld
from infra.events import ignore
from infra.guarded import GuardedStorage
from infra.storage.removal import entries
from infra.storage.storage import Storage
from pipeline.operations.collection.garbage import FILE, MANIFEST, RECEIPT, Garbage, Removal
from pipeline.operations.collection.removal import remove
from pipeline.root.logs import rows_log
from tests.infra.stores import MOTO, fresh_url
from tests.pipeline.operations.runs import commit

TASKS = "abc"


@pytest.fixture(params=["local", MOTO])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> CommitLog:
    """Three tasks and the manifest that lists them."""
    if request.param == "moto":
        request.getfixturevalue("on_moto")
    log = rows_log(Storage(fresh_url(request.param, tmp_path)), "net", "key", "source")
    log.publish([commit(log, task) for task in TASKS])
    return log


class LostAfter:
    """A lock that is lost after it was asked for so many times."""

    def __init__(self, times: int):
        self.left = times

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise LockHeld("another took over")


def removed_late(log: CommitLog, folder: str, order: int, changes: int = 1) -> None:
    """The last one of so many changes is made, and the lock was lost before it."""
    found = [Removal(order, entry, "net", "gradients") for entry in entries(log.storage, f"{log.folder}/{folder}")]
    # Each change asks before it and after it.
    with pytest.raises(LockHeld):
        remove(GuardedStorage(log.storage.url, LostAfter(2 * changes - 1)), Garbage(found), ignore)


def contents(log: CommitLog) -> dict[str, bytes]:
    return {path: log.storage.read(path) for path in sorted(log.storage.walk(log.folder))}


def test_a_manifest_removed_late_is_put_back_with_its_receipts(log: CommitLog) -> None:
    before = contents(log)
    removed_late(log, "manifests", MANIFEST)
    assert contents(log) == before


def test_receipts_removed_late_are_put_back(log: CommitLog) -> None:
    before = contents(log)
    removed_late(log, "receipts", RECEIPT)
    assert contents(log) == before


def test_what_lacks_files_by_now_is_not(log: CommitLog) -> None:
    """Another driver removed them, and the receipts before them."""
    receipt = log.receipts()["a"]
    for file in receipt.files:
        log.storage.remove(f"{log.attempt_folder(receipt)}/{file.name}")
    removed_late(log, "manifests", MANIFEST)
    assert log.manifests() == []
    removed_late(log, "receipts", RECEIPT)
    assert log.receipt_name("a", 0) not in log.receipt_names()


def test_what_is_removed_while_the_lock_is_held_stays_removed(log: CommitLog) -> None:
    for folder, order in (("manifests", MANIFEST), ("receipts", RECEIPT), ("a", FILE)):
        found = [Removal(order, entry, "net", "gradients") for entry in entries(log.storage, f"{log.folder}/{folder}")]
        remove(GuardedStorage(log.storage.url, lambda: None), Garbage(found), ignore)
    assert {path.removeprefix(f"{log.folder}/")[0] for path in contents(log)} == {"b", "c"}


def test_a_manifest_published_late_goes_if_what_it_lists_was_removed(log: CommitLog) -> None:
    receipts = [log.receipts()[task] for task in "ab"]
    late = CommitLog(GuardedStorage(log.storage.url, LostAfter(1)), log.folder)
    with pytest.raises(LockHeld):
        late.publish(receipts)
    assert len(log.manifests()) == 2, "all that it lists is there"
    log.storage.remove(f"{log.folder}/receipts/{log.receipt_name('b', 0)}")
    late = CommitLog(GuardedStorage(log.storage.url, LostAfter(1)), log.folder)
    with pytest.raises(LockHeld):
        late.publish(receipts[::-1])
    assert len(log.manifests()) == 2
