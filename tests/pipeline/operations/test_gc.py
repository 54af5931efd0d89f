"""What `mad gc` leaves of a root: all that kept runs refer to, whatever moment it is killed at; and nothing else."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from pydantic import JsonValue

from infra.commits import CommitLog, Measures
from infra.storage.files import digest
from infra.storage.storage import Storage
from pipeline.operations.collection.garbage import (
    FILE,
    RECEIPT,
    RECORD,
    SUMMARY,
    TABLE,
    UNCLAIMED_SECONDS,
    find_garbage,
)
from pipeline.operations.gc import collect
from pipeline.operations.repair import repair
from pipeline.operations.status import status
from pipeline.operations.verify import verify
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import open_audit
from pipeline.root.documents import decode_document
from pipeline.root.layout import collected_file, outcome_file, run_summary_file, table_file
from pipeline.root.logs import log_folder, stage_logs
from pipeline.root.mark import root_lock
from pipeline.root.records import OutcomeRecord
from pipeline.root.summary import Summary
from pipeline.run import run_audit
from tests.conftest import ConfigMaker
from tests.jobs.command import mad, section
from tests.pipeline.operations.two_nights import (
    DAY,
    OTHER_ROWS,
    ROWS,
    Nights,
    age_lists,
    clean,
    collected,
    computed,
    files,
    run,
    run_id,
)


@pytest.fixture
def nights(make_config: ConfigMaker) -> Nights:
    return Nights(make_config)


def test_what_kept_runs_refer_to_stays_and_the_rest_goes(nights: Nights) -> None:
    scores, before = nights.second.scores("digits").read_all(), nights.second.summary("digits")
    keep, now = nights.garbage_after()
    found = collected(nights.storage, keep, now=now)
    assert found.gone == [run_id(nights.first)]
    assert clean(nights.storage)
    audit = open_audit(nights.storage.url)
    assert audit.summary("digits") == before
    assert audit.scores("digits").read_all() == scores
    assert audit.rows("digits").compute().shape[0] == scores.num_rows
    assert nights.storage.list("runs") == [run_id(nights.second)]
    assert nights.storage.list("digits/scores") == [f"run={run_id(nights.second)}"]
    assert [
        len(nights.storage.list(f"digits/{stage}")) for stage in ("gradients", "curvature", "scoring", "reporting")
    ] == [1, 1, 1, 1]
    assert computed(run(nights.new)) == dict.fromkeys(("gradients", "curvature", "scoring", "reporting"), 0)
    again = run(nights.old)
    assert all(computed(again).values())
    assert clean(nights.storage)


def test_the_latest_result_of_a_model_stays_however_old_and_all_runs_that_are_young(nights: Nights) -> None:
    assert find_garbage(nights.storage, DAY).removals == []
    collected(nights.storage, 30 * DAY, now=time.time() + 300 * DAY)
    assert nights.storage.list("runs") == [run_id(nights.second)]
    assert clean(nights.storage)
    assert not any(computed(run(nights.new)).values())


def test_what_is_found_is_listed_and_removed_by_a_call_a_lease_later(nights: Nights) -> None:
    root = nights.storage.url
    before = {path: path.stat().st_mtime_ns for path in Path(root).rglob("*")}
    dry = mad("gc", root, "--keep", "0s", "--dry-run", "--output", "json")
    assert {path: path.stat().st_mtime_ns for path in Path(root).rglob("*")} == before
    assert (dry.code, dry.document["dry_run"], dry.document["objects"]) == (0, True, 0)
    held = files(root)
    first = mad("gc", root, "--keep", "0s", "--output", "json").document
    listed = section(first, "listed")
    assert {**section(dry.document, "listed"), "from": None} == {**listed, "from": None}
    assert (listed["runs_removed"], first["runs_removed"]) == ([run_id(nights.first)], [])
    assert files(root) == held
    early = mad("gc", root, "--keep", "0s")
    assert early.out.splitlines()[-3:-1] == ["runs: 0 removed, 1 listed, 1 kept", "removed: 0 objects, 0 B"]
    assert re.search(r"^listed: \d+ objects, .*B; `mad gc` removes them from \d{4}-.* UTC on$", early.out, re.M)
    assert files(root) == held and len(list(Path(root, ".gc").iterdir())) == 1
    age_lists(nights.storage)
    really = mad("gc", root, "--keep", "0s", "--output", "json").document
    assert section(really, "removed") == section(listed, "removed")
    gone = {path: data for path, data in held.items() if path not in files(root)}
    assert (really["objects"], really["bytes"]) == (len(gone), sum(map(len, gone.values())))
    assert set(section(really, "removed")) == {"", "digits"}
    kinds = section(really, "removed", "digits")
    assert set(kinds) == {"probe", "gradients", "curvature", "scoring", "reporting", "scores", "runs"}
    text = mad("gc", root, "--keep", "0s")
    assert (text.code, text.out.splitlines()) == (0, ["runs: 0 removed, 0 listed, 1 kept", "removed: 0 objects, 0 B"])
    assert not Path(root, ".gc").exists()


def test_what_a_run_came_to_use_after_it_was_listed_stays(nights: Nights) -> None:
    collect(nights.storage, 0.0)
    again = run(nights.old)
    assert not any(computed(again).values())
    age_lists(nights.storage)
    found = collect(nights.storage, 0.0)
    assert clean(nights.storage)
    assert {one.order for one in found.removed.removals} == {TABLE, SUMMARY, RECORD}
    assert not any(computed(run(nights.old)).values())
    assert clean(nights.storage)


def test_a_file_written_again_after_it_was_listed_is_listed_again(nights: Nights) -> None:
    keep, now = nights.garbage_after()
    first = collect(nights.storage, keep, now=now)
    receipt = next(one.entry for one in first.new if one.order == RECEIPT)
    place = Path(nights.storage.url, receipt.path)
    os.utime(place, (receipt.modified - 5,) * 2)
    found = collect(nights.storage, keep, now=now)
    assert place.exists() and receipt.path in {one.entry.path for one in found.new}
    log = str(log_folder(receipt.path))
    waiting = [one for one in found.listed.removals if one.entry.path.startswith(f"{log}/")]
    assert {one.order for one in waiting} == {RECEIPT, FILE}, "files wait until the receipts that name them are gone"
    assert clean(nights.storage)
    assert collect(nights.storage, keep, now=now).listed.removals == []
    assert not place.exists() and clean(nights.storage)


def test_a_list_that_cannot_be_read_is_made_again(nights: Nights) -> None:
    keep, now = nights.garbage_after()
    first = collect(nights.storage, keep, now=now)
    (path,) = Path(nights.storage.url, ".gc").iterdir()
    path.write_text("{")
    second = collect(nights.storage, keep, now=now)
    assert len(second.notes) == 1 and "what it lists is listed again" in second.notes[0]
    assert (second.removed.removals, list(second.new)) == ([], list(first.new))
    assert collect(nights.storage, keep, now=now).removed.removals == first.new
    assert clean(nights.storage)


def test_while_a_run_is_at_work_nothing_is_removed(nights: Nights) -> None:
    before = files(nights.storage.url)
    with root_lock(nights.storage):
        refused = mad("gc", nights.storage.url, "--keep", "0s")
        assert refused.code == 3 and "another driver is at work in this root" in refused.complaint
        dry = mad("gc", nights.storage.url, "--keep", "0s", "--dry-run")
        assert dry.code == 0 and "a run is active here" in dry.err
    assert files(nights.storage.url) == before


@pytest.mark.parametrize(
    ("keep", "says"), [("soon", "'soon' is not a duration"), ("90w90w", "is not a duration"), ("99w", "")]
)
def test_a_span_is_understood_or_refused(tmp_path: Path, keep: str, says: str) -> None:
    refused = mad("gc", tmp_path / "nothing", "--keep", keep)
    assert refused.code == 2 and (says or "not a root") in refused.complaint


def test_a_table_that_a_later_result_is_the_same_as_stays_and_can_be_repaired(make_config: ConfigMaker) -> None:
    first = run(make_config(**ROWS))
    second = run(make_config(**ROWS))
    assert second.summary("digits").same_as == run_id(first)
    storage = first.storage
    collected(storage, DAY, now=time.time() + 300 * DAY)
    assert storage.list("runs") == [run_id(first), run_id(second)]
    assert clean(storage)
    table = Path(storage.url) / table_file("digits", run_id(first))
    before = table.read_bytes()
    table.unlink()
    assert verify(storage).problems
    assert repair(storage, ["digits"])
    assert table.read_bytes() == before


def test_a_result_whose_rows_a_later_one_was_made_of_stays(nights: Nights) -> None:
    """As `mad rescore` writes it: the later summary names the earlier run."""
    place, outcome = run_summary_file(run_id(nights.second), "digits"), outcome_file(run_id(nights.second))
    read = decode_document(nights.storage.read(place), Summary, place)
    summary = read.model_copy(update={"rows_of": run_id(nights.first)})
    ended = decode_document(nights.storage.read(outcome), OutcomeRecord, outcome)
    ended = ended.model_copy(update={"summaries": {"digits": digest(summary.encode())}})
    for path, document in ((place, summary), ("digits/summary.json", summary), (outcome, ended)):
        nights.storage.write(path, document.encode())
    before = files(nights.storage.url)
    found = collected(nights.storage, DAY, now=time.time() + 300 * DAY)
    assert (found.removals, found.marked) == ([], [])
    assert files(nights.storage.url) == before
    assert clean(nights.storage)


def test_rows_of_a_file_of_which_tasks_failed_stay_with_the_result(
    make_config: ConfigMaker, digits: Path, tmp_path: Path
) -> None:
    """No manifest lists them, but the next run goes on from them."""
    shutil.copy(digits / "audited.parquet", tmp_path / "audited.parquet")
    config = make_config(**ROWS, data={"audited": str(tmp_path / "audited.parquet")})
    plan = plan_audit(config)
    (tmp_path / "audited.parquet").rename(tmp_path / "hidden.parquet")
    (failed,) = run_audit(plan).outcome.failed_tasks.values()  # type: ignore[union-attr]
    (tmp_path / "hidden.parquet").rename(tmp_path / "audited.parquet")
    storage = Storage(config.root)
    (folder,) = {log.folder for log in stage_logs(storage, "digits", "gradients")}
    CommitLog(storage, folder.replace(folder.rpartition("/")[2], plan.models[0].audited[0].key)).commit(
        "half", {}, Measures(rows=1, seconds=1, peak_memory_bytes=1)
    )
    collected(storage, DAY, now=time.time() + 300 * DAY)
    assert len(failed) > 1
    assert [len(log.receipts()) for log in stage_logs(storage, "digits", "gradients") if not log.manifests()] == [1]
    assert clean(storage)


def test_of_a_run_of_two_models_the_superseded_result_goes_and_the_latest_stays(make_config: ConfigMaker) -> None:
    model = {"architecture": "pipeline.demo.network:digit_cnn", "weights": "digits.safetensors"}
    pair: JsonValue = [{"name": "a", **model}, {"name": "b", **model}]
    first = run(make_config(**ROWS, models=pair))
    second = run(make_config(**OTHER_ROWS, models=[{"name": "b", **model}]))
    storage = first.storage
    found = collected(storage, DAY, now=time.time() + 300 * DAY)
    assert (found.marked, found.gone) == ([run_id(first)], [])
    assert clean(storage)
    assert storage.exists(collected_file(run_id(first)))
    assert [storage.exists(run_summary_file(run_id(first), name)) for name in "ab"] == [True, False]
    assert [storage.exists(table_file(name, run_id(first))) for name in "ab"] == [True, False]
    assert repair(storage, ["a", "b"]) == []
    (_, older) = status(storage).runs
    assert older.state == "completed; `mad gc` removed results of it"
    assert open_audit(storage.url).summary("a").run_id == run_id(first)
    again = run(make_config(**ROWS, models=pair))
    assert not any(computed(again, "a").values()) and all(computed(again, "b").values())
    assert run_id(second) < run_id(again)
    (Path(storage.url) / table_file("a", run_id(first))).unlink()
    assert any("missing" in problem for problem in verify(storage).problems), "only what is superseded may be gone"


def test_rows_of_a_young_run_that_did_not_get_to_its_end_stay(make_config: ConfigMaker) -> None:
    config = make_config(**ROWS)
    storage = run(config, until="gradients").storage
    collected(storage, DAY)
    assert computed(run(config))["gradients"] == 0
    assert clean(storage)


def test_rows_of_an_old_run_that_did_not_get_to_its_end_go(nights: Nights, make_config: ConfigMaker) -> None:
    run(make_config(estimator={"projection": {"rank": 3}}), until="gradients")
    collected(nights.storage, DAY, now=time.time() + 300 * DAY)
    assert len(nights.storage.list("digits/gradients")) == 1
    assert clean(nights.storage)
    assert not any(computed(run(nights.new)).values())


def test_attempts_that_no_receipt_names_stay_for_a_day_and_then_go(nights: Nights) -> None:
    (source,) = nights.storage.list(f"digits/gradients/{nights.storage.list('digits/gradients')[0]}")[:1]
    place = (
        f"digits/gradients/{nights.storage.list('digits/gradients')[0]}/{source}/00000000-00000001/thought-dead/table"
    )
    nights.storage.write(place, b"half")
    nights.storage.write(".tmp/left-by-a-killed-writer", b"half")
    collected(nights.storage, 0.0)
    assert nights.storage.exists(place)
    collected(nights.storage, 0.0, now=time.time() + UNCLAIMED_SECONDS + 10)
    assert not nights.storage.exists(place)
    assert not nights.storage.exists(".tmp/left-by-a-killed-writer")
    assert clean(nights.storage)


def test_a_worker_thought_dead_that_commits_after_its_task_was_removed_harms_nobody(nights: Nights) -> None:
    summary = nights.storage.read(run_summary_file(run_id(nights.first), "digits"))
    (manifest,) = json.loads(summary)["manifests"]["audited"]
    log = CommitLog(nights.storage, manifest.rpartition("/manifests/")[0])
    receipt = log.manifest(manifest).receipts[0]
    contents = {file.name: nights.storage.read(f"{log.attempt_folder(receipt)}/{file.name}") for file in receipt.files}
    keep, now = nights.garbage_after()
    collected(nights.storage, keep, now=now)
    assert log.receipts() == {}
    late = log.commit(receipt.task, contents, Measures(rows=1, seconds=1.0, peak_memory_bytes=1))
    assert log.receipts() == {receipt.task: late}
    assert clean(nights.storage)
    assert not any(computed(run(nights.new)).values())
    collected(nights.storage, DAY, now=time.time() + 300 * DAY)
    assert log.receipts() == {}
    assert clean(nights.storage)


def test_a_log_that_cannot_be_read_stays_whole_and_a_run_that_cannot_be_read_stops_all(nights: Nights) -> None:
    second = json.loads(nights.storage.read(run_summary_file(run_id(nights.second), "digits")))
    (manifest,) = second["manifests"]["curvature"]
    (Path(nights.storage.url) / manifest).write_text("{")
    folder = Path(nights.storage.url) / manifest.rpartition("/manifests/")[0]
    before = files(folder)
    keep, now = nights.garbage_after()
    notes = collect(nights.storage, keep, now=now).notes
    assert len(notes) == 1 and "cannot be read" in notes[0]
    collect(nights.storage, keep, now=now)
    assert files(folder) == before
    (Path(nights.storage.url) / run_summary_file(run_id(nights.second), "digits")).write_text("{")
    everything = files(nights.storage.url)
    refused = mad("gc", nights.storage.url, "--keep", "0s")
    assert refused.code == 1 and "not readable JSON" in refused.complaint
    assert files(nights.storage.url) == everything
