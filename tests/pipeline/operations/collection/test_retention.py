"""What kept runs refer to: the young, the latest, and what those are made from."""

from pathlib import Path

import pytest

from infra.errors import Corrupt
from infra.storage.identity import InputFile
from infra.storage.storage import Storage
from pipeline.operations.collection.retention import find_kept, summarised_models
from pipeline.root.layout import run_summary_file
from pipeline.root.records import ModelRecord
from tests.pipeline.operations.runs import FIRST, SECOND, THIRD, begin, end, fresh_root, summary

AFTER_ALL = "20270101T000000000Z"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return fresh_root(str(tmp_path))


def manifest(number: int) -> dict[str, list[str]]:
    return {"trusted": [f"net/gradients/key/source/manifests/{number}.json"]}


def run(storage: Storage, run_id: str, *models: str, **more: object) -> None:
    begin(storage, run_id)
    end(storage, run_id, *(summary(run_id, name, **more) for name in models))


def test_young_runs_stay_with_all_that_they_name(storage: Storage) -> None:
    for number, run_id in enumerate((FIRST, SECOND, THIRD)):
        run(storage, run_id, "net", manifests=manifest(number))
    kept = find_kept(storage, SECOND[:19])
    assert kept.runs == {SECOND, THIRD}
    assert kept.results == {(SECOND, "net"), (THIRD, "net")}
    assert kept.manifests == {path for number in (1, 2) for path in manifest(number)["trusted"]}
    assert not kept.summary_stays(FIRST, "net") and kept.summary_stays(SECOND, "net")


def test_a_run_that_ended_late_is_young(storage: Storage) -> None:
    begin(storage, FIRST)
    end(storage, FIRST, summary(FIRST, "net"), ended="20260109T000000000Z")
    run(storage, SECOND, "net")
    assert find_kept(storage, "20260105T000000000Z").runs == {FIRST, SECOND}


def test_the_latest_result_of_each_model_stays_however_old(storage: Storage) -> None:
    run(storage, FIRST, "rare", "net")
    run(storage, SECOND, "net")
    run(storage, THIRD, "net")
    kept = find_kept(storage, AFTER_ALL)
    assert kept.runs == {FIRST, THIRD}
    assert kept.results == {(FIRST, "rare"), (THIRD, "net")}


def test_the_latest_run_and_the_latest_completed_one_keep_their_records(storage: Storage) -> None:
    begin(storage, FIRST)
    end(storage, FIRST)
    begin(storage, SECOND)
    end(storage, SECOND, complete=False)
    begin(storage, THIRD)
    assert find_kept(storage, AFTER_ALL).runs == {FIRST, THIRD}


def test_a_table_stays_that_a_later_result_is_the_same_as(storage: Storage) -> None:
    run(storage, FIRST, "net", manifests=manifest(1))
    run(storage, SECOND, "net", same_as=FIRST, manifests=manifest(2))
    kept = find_kept(storage, AFTER_ALL)
    assert (kept.results, kept.tables) == ({(SECOND, "net")}, {(FIRST, "net")})
    assert kept.runs == {FIRST, SECOND} and kept.summary_stays(FIRST, "net")
    assert kept.manifests == set(manifest(2)["trusted"])


def test_results_stay_whose_rows_a_kept_one_was_made_from(storage: Storage) -> None:
    run(storage, FIRST, "net", manifests=manifest(1))
    run(storage, SECOND, "net", rows_of=FIRST, manifests=manifest(2))
    run(storage, THIRD, "net", rows_of=SECOND, manifests=manifest(3))
    kept = find_kept(storage, AFTER_ALL)
    assert kept.results == {(FIRST, "net"), (SECOND, "net"), (THIRD, "net")}
    assert len(kept.manifests) == 3


def test_logs_of_rows_without_a_manifest_stay_with_their_run(storage: Storage) -> None:
    file = InputFile("a", "/a", 1, "1")
    record = ModelRecord(row_key="key", sources={"published": file, "failed": file})
    begin(storage, FIRST, net=record, other=record)
    published = {"trusted": ["net/gradients/key/published/manifests/1.json"]}
    end(storage, FIRST, summary(FIRST, "net", manifests=published))
    assert find_kept(storage, AFTER_ALL).folders == {"net/gradients/key/failed"}
    young = find_kept(storage, FIRST[:19]).folders
    assert young == {f"other/gradients/key/{name}" for name in ("published", "failed")} | {"net/gradients/key/failed"}


def test_a_folder_that_is_not_named_like_a_run_stays(storage: Storage) -> None:
    run(storage, FIRST, "net")
    storage.write("runs/notes/readme.txt", b"mine")
    run(storage, THIRD, "net")
    assert find_kept(storage, AFTER_ALL).runs >= {"notes", THIRD}


def test_a_document_that_cannot_be_read_stops_the_search(storage: Storage) -> None:
    run(storage, FIRST, "net")
    storage.write(run_summary_file(FIRST, "net"), b"{")
    with pytest.raises(Corrupt, match="not readable JSON"):
        find_kept(storage, AFTER_ALL)


def test_models_with_a_summary_are_told_from_a_runs_own_files(storage: Storage) -> None:
    run(storage, FIRST, "net", "a.b")
    storage.write(f"runs/{FIRST}/_review.arrow", b"")
    assert summarised_models(storage, FIRST) == ["a.b", "net"]
