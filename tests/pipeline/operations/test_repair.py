"""What is dropped of a damaged root, what is copied back, and what stays."""

from pathlib import Path

import pytest

from infra.commits import CommitLog
from infra.storage.storage import Storage
from pipeline.artifacts.scores import TABLE
from pipeline.operations.repair import repair, restore_tables
from pipeline.operations.verify import verify
from pipeline.root.layout import run_summary_file, summary_file, table_file
from pipeline.root.logs import reporting_log, rows_log
from tests.pipeline.operations.runs import FIRST, begin, commit, end, fresh_root, summary


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return fresh_root(str(tmp_path))


@pytest.fixture
def log(storage: Storage) -> CommitLog:
    """Of two published tasks and one that is not."""
    log = rows_log(storage, "net", "key", "source")
    log.publish([commit(log, "a", b"one"), commit(log, "b", b"two")])
    commit(log, "c", b"three")
    return log


def test_of_a_sound_root_nothing_is_touched(storage: Storage, log: CommitLog) -> None:
    before = (log.receipts(), log.manifests())
    assert repair(storage, ["net"]) == []
    assert (log.receipts(), log.manifests()) == before


def test_a_damaged_task_is_dropped_with_the_manifest_that_lists_it(storage: Storage, log: CommitLog) -> None:
    path = f"{log.attempt_folder(log.receipts()['a'])}/file"
    storage.write(path, b"ono")
    (line,) = repair(storage, ["net"])
    assert line.endswith(
        f"{path}: its contents changed since it was written (SHA-256 differs): task a will be recomputed"
    )
    assert (set(log.receipts()), log.manifests(), storage.read(path)) == ({"b", "c"}, [], b"ono")
    assert repair(storage, ["net"]) == [] and verify(storage).problems == []


def test_a_receipt_that_is_gone_or_unreadable_is_rewritten_from_a_manifest(storage: Storage, log: CommitLog) -> None:
    sound = log.receipts()
    storage.remove(f"{log.folder}/receipts/a.0.json")
    storage.write(f"{log.folder}/receipts/b.0.json", b"{")
    storage.write(f"{log.folder}/receipts/c.0.json", b"{")
    lines = repair(storage, ["net"])
    assert [line.rpartition(": ")[2] for line in lines] == [
        "removed",
        "removed",
        "rewritten from a manifest",
        "rewritten from a manifest",
    ]
    assert log.receipts() == {name: sound[name] for name in "ab"}


def test_a_manifest_that_is_unreadable_is_removed(storage: Storage, log: CommitLog) -> None:
    (manifest,) = log.manifests()
    storage.write(manifest, b"{")
    (line,) = repair(storage, ["net"])
    assert line.endswith(": removed, the next run republishes it")
    assert (log.manifests(), set(log.receipts())) == ([], {"a", "b", "c"})


def test_a_receipt_and_a_manifest_that_contradict_each_other_are_removed(storage: Storage, log: CommitLog) -> None:
    receipt = log.receipts()["a"]
    storage.write(f"{log.folder}/receipts/a.0.json", receipt.model_copy(update={"attempt": "another"}).encode())
    (line,) = repair(storage, ["net"])
    assert line.endswith(f"{log.folder}: a manifest contradicts the receipt of task a; both are removed")
    assert (set(log.receipts()), log.manifests()) == ({"b", "c"}, [])


def test_other_models_are_left_alone(storage: Storage, log: CommitLog) -> None:
    storage.write(f"{log.attempt_folder(log.receipts()['a'])}/file", b"ono")
    assert repair(storage, ["other"]) == []
    assert len(log.receipts()) == 3


def test_a_summary_is_rewritten_from_the_latest_or_reported(storage: Storage) -> None:
    begin(storage, FIRST)
    end(storage, FIRST, summary(FIRST, "net"))
    own, latest = run_summary_file(FIRST, "net"), summary_file("net")
    sound = storage.read(own)
    storage.write(own, b"{}")
    (line,) = repair(storage, ["net"])
    assert line.endswith(f"{own}: rewritten from the model's latest summary") and storage.read(own) == sound
    storage.write(own, b"{}")
    storage.write(latest, b"{}")
    (line,) = repair(storage, ["net"])
    assert line.endswith(f"cannot be recomputed; move runs/{FIRST} and net/scores/run={FIRST} away")


def test_a_damaged_table_is_dropped_and_republished_from_the_report_that_holds_it(storage: Storage) -> None:
    log, data = reporting_log(storage, "net", "key"), b"abc"
    receipt = log.commit("report", {TABLE: data}, commit(log, "other").measures)
    (written,) = receipt.files
    begin(storage, FIRST)
    end(storage, FIRST, summary(FIRST, "net", table={"sha256": written.sha256, "bytes": written.bytes}))
    path = table_file("net", FIRST)
    storage.write(path, b"abd")
    lines = repair(storage, ["net"])
    assert [line.rpartition(": ")[2] for line in lines] == ["removed, to be republished", "republished"]
    assert storage.read(path) == data
    storage.remove(path)
    assert len(restore_tables(storage, ["net"])) == 1
    assert storage.read(path) == data
