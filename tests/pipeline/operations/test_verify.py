"""Damage that is found, each by its path and reason, and what is harmless."""

from pathlib import Path

import pytest

from infra.storage.storage import Storage
from pipeline.operations.verify import Findings, verify
from pipeline.root.layout import collected_file, run_summary_file, summary_file, table_file
from pipeline.root.logs import curvature_log, rows_log
from tests.pipeline.operations.runs import FIRST, SECOND, begin, commit, end, fresh_root, summary

TABLE = {"sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "bytes": 3}  # of b"abc"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A sound root of one run."""
    storage = fresh_root(str(tmp_path))
    rows = rows_log(storage, "net", "key", "source")
    manifest = rows.publish([commit(rows, "a", b"one"), commit(rows, "b", b"three")])
    begin(storage, FIRST)
    storage.write(table_file("net", FIRST), b"abc")
    end(storage, FIRST, summary(FIRST, "net", table=TABLE, manifests={"trusted": [manifest]}))
    return storage


def problem(storage: Storage) -> str:
    (found,) = verify(storage).problems
    return found


def test_of_a_sound_root_all_is_counted(storage: Storage) -> None:
    assert verify(storage) == Findings(receipts=2, files=3, bytes=3 + 5 + 3, tables=1)


def test_a_file_that_changed_or_is_gone_is_a_problem(storage: Storage) -> None:
    log = rows_log(storage, "net", "key", "source")
    path = f"{log.attempt_folder(log.receipts()['a'])}/file"
    storage.write(path, b"ono")
    assert problem(storage).endswith(f"{path}: its contents changed since it was written (SHA-256 differs)")
    storage.write(path, b"four")
    assert problem(storage).endswith(f"{path}: has 4 bytes, 3 bytes were written")
    storage.remove(path)
    assert path in problem(storage)
    assert verify(storage).bytes == 5 + 3


def test_a_receipt_that_is_gone_or_contradicts_its_manifest_is_a_problem(storage: Storage) -> None:
    log = rows_log(storage, "net", "key", "source")
    receipt, (manifest,) = log.receipts()["a"], log.manifests()
    place = f"{log.folder}/receipts/a.0.json"
    other = receipt.model_copy(update={"attempt": "another"})
    storage.write(place, other.encode())
    assert f"{manifest}: contradicts the receipt of task a" in "; ".join(verify(storage).problems)
    storage.remove(place)
    assert problem(storage).endswith(f"{place}: missing or unreadable, though the manifest {manifest} lists it")


def test_a_table_is_checked_by_the_summary_of_its_run(storage: Storage) -> None:
    path = table_file("net", FIRST)
    storage.write(path, b"abd")
    assert problem(storage).endswith(f"{path}: its contents changed since it was written (SHA-256 differs)")
    storage.remove(path)
    assert problem(storage).endswith(f"{path}: missing, though run {FIRST} published it")
    storage.write(table_file("net", SECOND), b"abc")
    storage.write(path, b"abc")
    assert problem(storage).endswith(f"{table_file('net', SECOND)}: published, but its run has no summary of it")


def test_summaries_are_checked_against_the_outcome_and_each_other(storage: Storage) -> None:
    own, latest = run_summary_file(FIRST, "net"), summary_file("net")
    sound = storage.read(own)
    storage.write(own, summary(FIRST, "net", table=TABLE).encode())
    assert [text.rpartition("/")[2] for text in verify(storage).problems] == [
        f"summary.json: differs from the summary of its run, {FIRST}; the next run rewrites it",
        f"net.json: missing, or changed since run {FIRST} ended",
    ]
    storage.write(own, sound)
    storage.remove(latest)
    assert problem(storage).endswith(f"{latest}: missing, though a run published scores; the next run rewrites it")


def test_a_manifest_is_needed_by_the_latest_result_alone(storage: Storage) -> None:
    log = rows_log(storage, "net", "key", "source")
    (manifest,) = log.manifests()
    body = storage.read(manifest)
    storage.remove(manifest)
    assert problem(storage).endswith(f"{manifest}: missing, though run {FIRST} published it")
    begin(storage, SECOND)
    end(storage, SECOND, summary(SECOND, "net", same_as=FIRST, table=TABLE))
    found = verify(storage)
    assert (found.problems, found.superseded_manifests) == ([], 1)
    storage.write(manifest, body)
    assert verify(storage).superseded_manifests == 0


def test_results_that_were_collected_may_be_gone_except_the_latest(storage: Storage) -> None:
    begin(storage, SECOND)
    storage.write(table_file("net", SECOND), b"abc")
    end(storage, SECOND, summary(SECOND, "net", table=TABLE))
    storage.remove(table_file("net", FIRST))
    storage.remove(run_summary_file(FIRST, "net"))
    assert problem(storage).endswith(f"missing, or changed since run {FIRST} ended")
    storage.write(collected_file(FIRST), b"{}")
    assert verify(storage).problems == []
    storage.write(collected_file(SECOND), b"{}")
    storage.remove(table_file("net", SECOND))
    assert problem(storage).endswith(f"missing, though run {SECOND} published it")


def test_an_attempt_that_no_receipt_names_is_harmless(storage: Storage) -> None:
    log = curvature_log(storage, "net", "key")
    claimed = commit(log, "split")
    storage.write(f"{log.folder}/split/{'0' * 16}/file", b"half")
    storage.write(f"{log.folder}/factor/{'1' * 16}/file", b"half")
    found = verify(storage)
    assert (found.problems, found.unclaimed_attempts, found.receipts) == ([], 2, 3)
    log.forget(claimed)
    assert verify(storage).unclaimed_attempts == 3
