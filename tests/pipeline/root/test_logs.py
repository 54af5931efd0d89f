"""Where the commit logs of the stages are, and their receipts, read at once and each once."""

from pathlib import Path

import pytest

from infra.commits import CommitLog, Measures
from infra.storage.storage import Storage
from pipeline.root.logs import (
    STAGES,
    curvature_log,
    log_folder,
    read_receipts,
    reporting_log,
    rows_log,
    scoring_log,
    stage_logs,
)


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("m/gradients/key/source/task/attempt/rows/zarr.json", "m/gradients/key/source"),
        ("m/gradients/key/source/receipts/t.0.json", "m/gradients/key/source"),
        ("m/gradients/key/source/stray", None),
        ("m/curvature/key/receipts/split.0.json", "m/curvature/key"),
        ("m/curvature/key/stray", None),
        ("m/reporting/key/report/attempt/facts.json", "m/reporting/key"),
        ("m/scoring/key/source/manifests/1.json", "m/scoring/key/source"),
        ("m", None),
    ],
)
def test_the_log_of_a_file(path: str, folder: str | None) -> None:
    assert log_folder(path) == folder


def test_the_logs_of_a_stage_are_found_by_listing(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    logs = {
        "gradients": [rows_log(storage, "m", "k", source) for source in ("s1", "s2")],
        "curvature": [curvature_log(storage, "m", "c")],
        "scoring": [scoring_log(storage, "m", "k", "s1")],
        "reporting": [reporting_log(storage, "m", "r")],
    }
    for log in (log for own in logs.values() for log in own):
        log.commit("task", {"file": b"x"}, Measures(rows=1, seconds=0.0, peak_memory_bytes=0))
    for stage in STAGES:
        assert [log.folder for log in stage_logs(storage, "m", stage)] == [log.folder for log in logs[stage]]
        assert list(stage_logs(storage, "other", stage)) == []


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
