"""Which files of a commit log go, by what lists them and by their age."""

from pathlib import Path

import pytest

from infra.commits import CommitLog
from infra.storage.removal import Entry
from infra.storage.storage import Storage
from pipeline.operations.collection.garbage import (
    FILE,
    MANIFEST,
    RECEIPT,
    UNCLAIMED_SECONDS,
    Garbage,
    Removal,
    find_garbage,
)
from pipeline.root.logs import rows_log
from tests.pipeline.operations.runs import FIRST, begin, commit, end, fresh_root, summary

HOUR = 3600.0


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return fresh_root(str(tmp_path))


@pytest.fixture
def log(storage: Storage) -> CommitLog:
    """Of a kept manifest that lists task a, another that lists b, and a task c that none lists."""
    log = rows_log(storage, "net", "key", "source")
    kept = log.publish([commit(log, "a")])
    log.publish([commit(log, "b")])
    commit(log, "c")
    begin(storage, FIRST)
    end(storage, FIRST, summary(FIRST, "net", manifests={"trusted": [kept]}))
    return log


def later(storage: Storage, seconds: float, keep: float = HOUR) -> Garbage:
    """The garbage so many seconds after the root was written."""
    newest = max(path.stat().st_mtime for path in Path(storage.url).rglob("*"))
    return find_garbage(storage, keep, now=newest + seconds)


def paths(found: Garbage, order: int) -> list[str]:
    return [removal.entry.path.partition("/source/")[2] for removal in found.removals if removal.order == order]


def test_what_is_young_stays(storage: Storage, log: CommitLog) -> None:
    assert later(storage, HOUR - 100).removals == []


def test_what_no_kept_manifest_lists_goes_and_an_attempt_of_unknown_end_a_day_later(
    storage: Storage, log: CommitLog
) -> None:
    attempts = {task: f"{task}/{receipt.attempt}/file" for task, receipt in log.receipts().items()}
    found = later(storage, 2 * HOUR)
    assert [path.partition("/")[0] for path in paths(found, MANIFEST)] == ["manifests"]
    assert paths(found, RECEIPT) == ["receipts/b.0.json", "receipts/c.0.json"]
    assert paths(found, FILE) == [attempts["b"]]  # the manifest that goes says that its worker has ended
    assert paths(later(storage, UNCLAIMED_SECONDS + HOUR), FILE) == [attempts["b"], attempts["c"]]


def test_a_log_with_an_unreadable_manifest_stays_whole_and_is_noted(storage: Storage, log: CommitLog) -> None:
    kept = next(path for path in log.manifests() if log.manifest(path).receipts[0].task == "a")
    storage.write(kept, b"{")
    found = later(storage, 2 * UNCLAIMED_SECONDS)
    assert found.removals == []
    (note,) = found.notes
    assert note.endswith(f"all of {log.folder} stays")


def test_garbage_is_counted_by_model_and_stage() -> None:
    def removal(model: str, stage: str, size: int) -> Removal:
        return Removal(FILE, Entry("path", size, 0.0), model, stage)

    found = Garbage([removal("b", "scores", 5), removal("a", "gradients", 2), removal("b", "scores", 7)])
    assert found.bytes == 14
    assert list(found.by_model_and_stage().items()) == [(("a", "gradients"), (1, 2)), (("b", "scores"), (2, 12))]
