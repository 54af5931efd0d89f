"""The completed runs of a root: in order, found by the beginning of an id, and each document read once."""

from pathlib import Path

import pytest

from infra.storage.storage import Storage
from pipeline.errors import RootError
from pipeline.root.facts import Counts, ModelVerdict
from pipeline.root.layout import outcome_file, run_file, run_summary_file
from pipeline.root.records import ModelRecord, OutcomeRecord, RunRecord
from pipeline.root.runs import Runs
from pipeline.root.summary import Summary, TableSummary

OLD, MIDDLE, STOPPED, NEW, RUNNING = ("20260101-a", "20260102-b", "20260103-c", "20260103-d", "20260104-e")


def write_run(storage: Storage, run_id: str, models: tuple[str, ...], complete: bool = True) -> None:
    """A run that ended, with a summary of each model."""
    record = RunRecord(format=1, run_id=run_id, models=dict.fromkeys(models, ModelRecord(digest=run_id)))
    storage.write(run_file(run_id), record.encode())
    for name in models:
        summary = Summary(
            counts=Counts(audited=1, flagged=0),
            verdict=ModelVerdict(value="nothing unusual"),
            run_id=run_id,
            model=name,
            table=TableSummary(bytes=1, sha256="0"),
        )
        storage.write(run_summary_file(run_id, name), summary.encode())
    outcome = OutcomeRecord(run_id=run_id, complete=complete, summaries=dict.fromkeys(models, "digest"))
    storage.write(outcome_file(run_id), outcome.encode())


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """Three completed runs, one that stopped after a stage, and one that has not ended."""
    found = Storage(str(tmp_path))
    write_run(found, OLD, ("a", "b"))
    write_run(found, MIDDLE, ("a",))
    write_run(found, STOPPED, ("a",), complete=False)
    write_run(found, NEW, ("b",))
    found.write(run_file(RUNNING), RunRecord(run_id=RUNNING).encode())
    return found


def test_completed_runs_come_newest_first_up_to_a_run(storage: Storage) -> None:
    known = Runs(storage)
    assert list(known.completed()) == [NEW, MIDDLE, OLD]
    assert list(known.completed(STOPPED)) == [MIDDLE, OLD]


def test_summaries_of_a_model_are_of_completed_runs_that_audited_it(storage: Storage) -> None:
    known = Runs(storage)
    assert [summary.run_id for summary in known.summaries("a")] == [MIDDLE, OLD]
    assert [summary.run_id for summary in known.summaries("b", MIDDLE)] == [OLD]
    assert list(known.summaries("c")) == []


def test_what_is_damaged_is_skipped(storage: Storage) -> None:
    storage.write(outcome_file(NEW), b"{")
    storage.write(run_summary_file(MIDDLE, "a"), b"{")
    storage.write(run_file(OLD), b"{")
    known = Runs(storage)
    assert list(known.completed()) == [MIDDLE, OLD]
    assert [summary.run_id for summary in known.summaries("a")] == [OLD]
    assert known.record(OLD) == RunRecord() and known.record(MIDDLE).models["a"].digest == MIDDLE


def test_a_document_is_read_once(storage: Storage) -> None:
    known = Runs(storage)
    before = (known.summary(OLD, "a"), known.record(OLD), list(known.completed()))
    for path in (run_summary_file(OLD, "a"), run_file(OLD), outcome_file(OLD)):
        storage.write(path, b"{")
    assert (known.summary(OLD, "a"), known.record(OLD), list(known.completed())) == before


def test_a_run_without_a_table_of_reviews_has_none(storage: Storage) -> None:
    assert Runs(storage).reviews(OLD) == {}


@pytest.mark.parametrize(("text", "run_id"), [("20260101", OLD), (NEW, NEW), ("20260102-", MIDDLE)])
def test_a_run_is_found_by_the_beginning_of_its_id(storage: Storage, text: str, run_id: str) -> None:
    assert Runs(storage).find(text) == run_id


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("20260103", f"the ids of 2 runs begin with '20260103', such as {NEW}, {STOPPED}; give more of the id"),
        (STOPPED, f"run {STOPPED} did not complete, so it has no results to compare with; the latest that did: {NEW}"),
        (RUNNING, f"run {RUNNING} did not complete"),
        ("20260101-x", f"there is no run '20260101-x'; did you mean {OLD}? The latest that completed: {NEW}, {MIDDLE}"),
        ("zzz", "there is no run 'zzz'; the latest that completed: "),
    ],
)
def test_a_text_that_names_no_completed_run_is_refused_with_those_that_are_there(
    storage: Storage, text: str, says: str
) -> None:
    with pytest.raises(RootError) as refused:
        Runs(storage).find(text)
    assert says in str(refused.value)
