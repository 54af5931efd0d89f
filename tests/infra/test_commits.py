"""Single properties of commits: digests, races, local files, and receipts that cannot be read."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from infra.commits import FORMAT, CommitLog, Manifest, Measures, Receipt
from infra.errors import Corrupt, Missing
from infra.storage.storage import Storage
from tests.infra.stores import RACEABLE

MEASURES = Measures(rows=3, seconds=0.25, peak_memory_bytes=1000, nonfinite=1, unreadable=2)
RECEIPT = "stage/receipts/000.0.json"


@pytest.fixture
def log(storage: Storage) -> CommitLog:
    """A commit log in an empty store."""
    return CommitLog(storage, "stage")


def test_making_a_log_and_asking_an_empty_one_writes_nothing(log: CommitLog) -> None:
    assert log.receipts() == {}
    assert log.manifests() == []
    assert list(log.storage.walk("")) == []


def test_a_receipt_records_files_and_measures(log: CommitLog) -> None:
    receipt = log.commit("000", {"z": b"zz", "a/b": b"abc"}, MEASURES)
    assert [(file.name, file.bytes, file.sha256) for file in receipt.files] == [
        ("a/b", 3, hashlib.sha256(b"abc").hexdigest()),
        ("z", 2, hashlib.sha256(b"zz").hexdigest()),
    ]
    assert (receipt.format, receipt.task, receipt.generation, receipt.measures) == (FORMAT, "000", 0, MEASURES)
    assert log.receipts() == {"000": receipt}
    assert log.receipt(log.receipt_name("000", 0)) == receipt


def test_a_commit_is_its_files_and_one_receipt(log: CommitLog) -> None:
    receipt = log.commit("000", {"zarr.json": b"1", "c/0/0": b"2", "columns.arrow": b"3"}, MEASURES)
    folder = log.attempt_folder(receipt)
    assert sorted(log.storage.walk("")) == sorted(
        [RECEIPT, f"{folder}/zarr.json", f"{folder}/c/0/0", f"{folder}/columns.arrow"]
    )


def test_a_local_file_is_committed_like_its_bytes(log: CommitLog, tmp_path: Path) -> None:
    data = bytes(range(256)) * 100
    (tmp_path / "table").write_bytes(data)
    from_path = log.commit("000", {"table": tmp_path / "table"}, MEASURES)
    from_bytes = log.commit("001", {"table": data}, MEASURES)
    assert from_path.files == from_bytes.files and from_path.content == from_bytes.content
    assert log.storage.read(f"{log.attempt_folder(from_path)}/table") == data
    assert log.commit("000", {"table": data}, MEASURES, supersedes=from_path) == from_path


def test_content_tells_names_and_bytes_apart(log: CommitLog) -> None:
    attempts = [{"a": b"1"}, {"a": b"2"}, {"b": b"1"}, {"a": b"1", "b": b"1"}, {}]
    assert len({log.commit(f"{i}", files, MEASURES).content for i, files in enumerate(attempts)}) == len(attempts)
    assert log.commit("9", {"a": b"1"}, MEASURES).content == log.receipts()["0"].content


def test_the_same_content_again_writes_nothing(log: CommitLog) -> None:
    receipt = log.commit("000", {"rows": b"1"}, MEASURES)
    before = sorted(log.storage.walk(""))
    other = Measures(rows=3, seconds=9, peak_memory_bytes=9)
    assert log.commit("000", {"rows": b"1"}, other, supersedes=receipt) == receipt
    assert sorted(log.storage.walk("")) == before


@pytest.mark.parametrize("storage", RACEABLE, indirect=True)
def test_of_many_workers_on_one_task_all_learn_the_same_receipt(log: CommitLog) -> None:
    workers = 8
    for number in range(10):
        start = Barrier(workers)

        def work(worker: int, task: str = f"{number}", start: Barrier = start) -> Receipt:
            start.wait()
            return CommitLog(Storage(log.storage.url), "stage").commit(task, {"rows": bytes([worker])}, MEASURES)

        with ThreadPoolExecutor(workers) as threads:
            receipts = set(threads.map(work, range(workers)))
        assert len(receipts) == 1
        assert log.receipts()[str(number)] in receipts


def test_many_tasks_at_once_all_count(log: CommitLog) -> None:
    with ThreadPoolExecutor(8) as threads:
        committed = list(threads.map(lambda i: log.commit(f"{i:03}", {"rows": bytes([i])}, MEASURES), range(40)))
    assert log.receipts() == {receipt.task: receipt for receipt in committed}


def test_a_published_receipt_needs_no_file_of_its_own(log: CommitLog) -> None:
    receipts = [log.commit(task, {"rows": task.encode()}, MEASURES) for task in ("b", "a")]
    path = log.publish(receipts)
    assert log.manifest(path) == Manifest(receipts=tuple(receipts))
    log.storage.write("stage/receipts/a.0.json", b"not looked at any more")
    assert log.receipts() == {receipt.task: receipt for receipt in receipts}


def test_publishing_the_same_again_changes_nothing_and_another_order_is_another_manifest(log: CommitLog) -> None:
    a, b = (log.commit(task, {"rows": b"1"}, MEASURES) for task in "ab")
    first = log.publish([a, b])
    assert log.publish([a, b]) == first
    assert log.manifests() == [first]
    assert log.publish([b, a]) != first


def changed(log: CommitLog, path: str, **fields: object) -> None:
    """Rewrites a stored document with other fields."""
    log.storage.write(path, json.dumps(json.loads(log.storage.read(path)) | fields).encode())


NEWER = {"known fields": {"format": FORMAT + 1}, "a field more": {"format": FORMAT + 1, "signature": "x"}}


@pytest.mark.parametrize("fields", NEWER.values(), ids=NEWER.keys())
def test_a_newer_format_is_refused_naming_the_file(log: CommitLog, fields: dict[str, object]) -> None:
    path = log.publish([log.commit("000", {"rows": b"1"}, MEASURES)])
    changed(log, path, **fields)
    with pytest.raises(
        Corrupt, match=f"{path}: .*newer mad|{path}: written in format 2, this mad reads up to 1; upgrade mad"
    ):
        log.manifest(path)
    log.storage.remove(path)
    changed(log, RECEIPT, **fields)
    with pytest.raises(Corrupt, match=f"{RECEIPT}: .*(newer mad|upgrade mad)"):
        log.receipts()


def test_a_newer_format_says_both_numbers_and_what_to_do(log: CommitLog) -> None:
    log.commit("000", {"rows": b"1"}, MEASURES)
    changed(log, RECEIPT, format=7)
    with pytest.raises(
        Corrupt, match=f"{RECEIPT}: written in format 7, this mad reads up to {FORMAT}; upgrade mad to read it$"
    ):
        log.receipts()


DAMAGE = {
    "empty": b"",
    "no JSON": b"\x00\xff garbage",
    "half": b'{"format": 1, "task": "0',
    "another document": b'{"format": 1}',
    "a list": b"[]",
}


@pytest.mark.parametrize("data", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_document_is_corrupt_and_named(log: CommitLog, data: bytes) -> None:
    path = log.publish([log.commit("000", {"rows": b"1"}, MEASURES)])
    log.storage.write(RECEIPT, data)
    assert log.receipts()["000"].task == "000"
    log.storage.write(path, data)
    with pytest.raises(Corrupt, match=f"{path}: cannot be read .* it is damaged, or written by a newer mad"):
        log.receipts()
    log.storage.remove(path)
    with pytest.raises(Corrupt, match=f"{RECEIPT}: cannot be read"):
        log.receipts()


def test_no_manifest_is_missing(log: CommitLog) -> None:
    with pytest.raises(Missing, match=r"manifests/x\.json"):
        log.manifest("stage/manifests/x.json")


def test_an_attempt_without_a_receipt_is_invisible(log: CommitLog) -> None:
    log.storage.write("stage/000/0123456789abcdef/rows", b"written by a worker that died")
    assert log.receipts() == {}
    receipt = log.commit("000", {"rows": b"1"}, MEASURES)
    assert log.receipts() == {"000": receipt}


def test_a_foreign_file_among_the_receipts_is_corrupt_and_named(log: CommitLog) -> None:
    log.commit("000", {"rows": b"1"}, MEASURES)
    log.storage.write("stage/receipts/README.md", b"not ours")
    with pytest.raises(Corrupt, match=r"README\.md"):
        log.receipts()


def test_a_file_named_almost_like_a_receipt_is_corrupt_and_named(log: CommitLog) -> None:
    log.commit("000", {"rows": b"1"}, MEASURES)
    log.storage.write("stage/receipts/000.0_copy.json", b"not ours")
    with pytest.raises(Corrupt, match=r"000\.0_copy\.json"):
        log.receipts()
