"""Where the commit logs of the stages are."""

from pathlib import Path

import pytest

from infra.commits import Measures
from infra.storage.storage import Storage
from pipeline.root.logs import STAGES, curvature_log, log_folder, reporting_log, rows_log, scoring_log, stage_logs


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
