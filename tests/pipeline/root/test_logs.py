"""Receipts of several logs, read at once and each once."""

from pathlib import Path

from infra.commits import CommitLog, Measures
from infra.storage.storage import Storage
from pipeline.root.logs import log_folder, read_receipts, rows_log

MEASURES = Measures(rows=1, seconds=0.0, peak_memory_bytes=0)


class Counting(Storage):
    """Counts what is listed and read."""

    listed, read_files = 0, 0

    def list(self, folder: str) -> list[str]:
        self.listed += 1
        return super().list(folder)

    def read(self, path: str) -> bytes:
        self.read_files += 1
        return super().read(path)


def logs_in(storage: Storage, sources: int) -> dict[str, CommitLog]:
    logs = [rows_log(storage, "net", "rowkey", f"source-{number}") for number in range(sources)]
    return {log.folder: log for log in logs}


def test_logs_that_do_not_exist_cost_one_listing(tmp_path: Path) -> None:
    storage = Counting(str(tmp_path))
    logs = logs_in(storage, 5)
    assert read_receipts(logs) == {folder: {} for folder in logs}
    assert (storage.listed, storage.read_files) == (1, 0)


def test_what_was_read_before_is_not_read_again_unless_the_log_has_changed(tmp_path: Path) -> None:
    storage = Counting(str(tmp_path))
    logs = logs_in(storage, 3)
    first, second, third = logs.values()
    for log in (first, second, third):
        log.commit("a", {}, MEASURES)
    second.publish([second.commit("b", {}, MEASURES)])
    known = read_receipts(logs)
    assert {folder: set(found) for folder, found in known.items()} == {
        first.folder: {"a"},
        second.folder: {"a", "b"},
        third.folder: {"a"},
    }
    storage.listed = storage.read_files = 0
    assert read_receipts(logs, known) == known
    assert (storage.listed, storage.read_files) == (1 + 3, 0)
    added = first.commit("c", {}, MEASURES)
    third.forget(known[third.folder]["a"])
    storage.read_files = 0
    now = read_receipts(logs, known)
    assert now == {**known, first.folder: {**known[first.folder], "c": added}, third.folder: {}}
    assert storage.read_files == 2  # both receipts of the first log


def test_a_file_lies_in_the_log_of_its_source_or_of_its_key() -> None:
    assert log_folder("net/gradients/key/source/receipts/a.0.json") == "net/gradients/key/source"
    assert log_folder("net/curvature/key/manifests/a.json") == "net/curvature/key"
    assert log_folder("net/scoring/key/source") is None
