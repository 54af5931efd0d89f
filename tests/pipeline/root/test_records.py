"""Records and outcomes of runs: every one that a release wrote is read and written back to the byte."""

from pathlib import Path

import pytest

from infra.storage.storage import Storage
from pipeline.root.documents import Document, decode_document
from pipeline.root.facts import Facts
from pipeline.root.records import (
    ModelRecord,
    ModelResult,
    OutcomeRecord,
    RecordedConfig,
    RunOutcome,
    RunRecord,
    read_outcome,
    read_record,
    read_run_summary,
    read_summary,
)
from pipeline.root.summary import Summary
from tests.data.roots_of_releases import ROOTS, releases

KINDS: dict[str, tuple[str, type[Document]]] = {
    "record": ("runs/*/_run.json", RunRecord),
    "outcome": ("runs/*/_outcome.json", OutcomeRecord),
    "summary of a run": ("runs/*/[!_]*.json", Summary),
    "latest summary": ("*/summary.json", Summary),
    "facts": ("*/reporting/*/*/*/facts.json", Facts),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("release", releases())
def test_what_a_release_wrote_is_written_back_to_the_byte(release: str, kind: str) -> None:
    pattern, model = KINDS[kind]
    paths = sorted((ROOTS / release / "root").glob(pattern))
    assert paths
    for path in paths:
        assert decode_document(path.read_bytes(), model, path.name).encode() == path.read_bytes()


@pytest.mark.parametrize("release", releases())
def test_documents_are_found_by_run_and_model(release: str) -> None:
    storage = Storage(str(ROOTS / release / "root"))
    latest = read_summary(storage, "plain")
    assert latest is not None
    record, outcome = read_record(storage, latest.run_id), read_outcome(storage, latest.run_id)
    assert record is not None and outcome is not None
    assert (record.run_id, outcome.run_id, outcome.complete) == (latest.run_id, latest.run_id, True)
    assert read_run_summary(storage, latest.run_id, "plain") == latest
    assert set(record.models) == set(outcome.summaries) == record.named
    assert read_record(storage, "other") is None and read_outcome(storage, "other") is None
    assert read_run_summary(storage, "other", "plain") is None and read_summary(storage, "other") is None


def test_a_record_of_an_early_version_has_defaults() -> None:
    record = decode_document(b'{"run_id": "r", "models": {"a": {"digest": "d"}}}', RunRecord, "here")
    planned = record.models["a"]
    assert (planned.row_key, planned.sources, planned.rows, planned.dropped) == ("", {}, None, None)
    assert (record.review, record.started, record.settings("a")) == (None, None, {})


def test_settings_and_names_of_a_record() -> None:
    config = RecordedConfig(root="r", models=({"name": "a", "task": "t"}, {"name": "b"}))
    record = RunRecord(config=config, models={"a": ModelRecord()}, refused={"b": "no weights"})
    assert record.settings("a") == {"name": "a", "task": "t"}
    assert record.named == {"a", "b"}


def test_rows_of_a_model_are_its_own_and_those_that_its_curvature_needs() -> None:
    file = {"name": "f", "url": "file:///f", "size": 1, "version": "v"}
    own = ModelRecord.model_validate({"row_key": "k", "sources": {"s1": file, "s2": file}})
    assert own.row_places == [("k", "s1"), ("k", "s2")]
    both = own.model_copy(update={"fitted_key": "c", "fitted_sources": ("s1",)})
    assert both.row_places == [("k", "s1"), ("k", "s2"), ("c", "s1")]


@pytest.mark.parametrize("what", ["failures", "failed_tasks", "refused_files"])
def test_a_run_is_clean_unless_a_model_task_or_file_failed(what: str) -> None:
    found = {"failures": {"a": "why"}, "failed_tasks": {"a": ("t",)}, "refused_files": {"a": {"f": "why"}}}
    assert OutcomeRecord(complete=True).clean and RunOutcome("r").clean
    assert not OutcomeRecord.model_validate({"complete": True, what: found[what]}).clean
    assert not RunOutcome("r", **{what: found[what]}).clean  # type: ignore[arg-type]
    assert OutcomeRecord(complete=True, unreached=("a",)).clean


def test_a_history_keeps_of_a_summary_what_its_table_shows(tmp_path: Path) -> None:
    summary = Summary.model_validate(
        {
            "run_id": "r",
            "counts": {"audited": 5, "flagged": 2},
            "verdict": {"value": "cannot tell", "reasons": ["few"]},
            "table": {"rows": 5, "bytes": 1, "sha256": "0"},
            "same_as": "q",
        }
    )
    expected = ModelResult(run_id="r", verdict="cannot tell", audited=5, flagged=2, same_as="q")
    assert ModelResult.of(summary) == expected
    assert summary.table_run == "q" and summary.model_copy(update={"same_as": None}).table_run == "r"
