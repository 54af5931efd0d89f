"""Where things are under a root."""

from pathlib import Path

import pytest

from infra.storage.storage import Storage
from pipeline.root import layout


@pytest.mark.parametrize(
    ("path", "run"),
    [
        ("digits/scores/run=r1/part-00000.parquet", "r1"),
        ("digits/scores/run=r1", None),
        ("digits/scores/other/part-00000.parquet", None),
        ("digits/scoring/run=r1/part-00000.parquet", None),
        ("runs/r1/_run.json", None),
    ],
)
def test_the_run_of_a_published_table_is_in_its_path(path: str, run: str | None) -> None:
    assert layout.table_run(path) == run


def test_a_table_is_found_under_the_place_that_it_is_published_at() -> None:
    assert layout.table_run(layout.table_file("digits", "r1")) == "r1"


def test_models_are_folders_with_rows_or_a_summary(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for path in ("a/gradients/key/source/receipts/t.0.json", "b/summary.json", "notes/readme.txt", "runs/r1/_run.json"):
        storage.write(path, b"{}")
    storage.write("report/index.html", b"")
    assert layout.models(storage) == ["a", "b"]
    assert layout.runs(storage) == ["r1"]


def test_runs_that_published_a_table_come_newest_first(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for run_id in ("r1", "r3", "r2"):
        storage.write(layout.table_file("a", run_id), b"")
    storage.write("a/scores/run=r4/other.parquet", b"")
    assert list(layout.published_runs(storage, "a")) == ["r3", "r2", "r1"]
