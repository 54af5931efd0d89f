"""What a run leaves: its record, summaries, outcome and table; and how an interrupted publication is finished."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from infra.storage.files import digest
from infra.storage.storage import Storage
from pipeline.artifacts.scores import TABLE
from pipeline.config.audit_config import AuditConfig
from pipeline.planning.from_models import plan_audit
from pipeline.planning.plan import Cost
from pipeline.planning.recipe import RowRecipe
from pipeline.publication.publish import finish_interrupted_publication, publish
from pipeline.publication.record import begin
from pipeline.publication.site import latest_failures, publish_pages
from pipeline.publication.summary import cost_estimate, cost_summary
from pipeline.results.audit import Audit
from pipeline.root.layout import outcome_file, report_file, run_summary_file, runs, summary_file, table_file
from pipeline.root.mark import claim_root
from pipeline.root.records import read_outcome, read_record
from pipeline.root.runs import Runs
from pipeline.run import run_audit
from pipeline.stages.progress import ModelRun, StageCost
from tests.conftest import ConfigMaker

MODEL = "digits"


@pytest.fixture
def config(make_config: ConfigMaker) -> AuditConfig:
    """A small audit of the digits."""
    return make_config(estimator={"projection": {"rank": 2}})


@pytest.fixture
def audit(config: AuditConfig) -> Audit:
    return run_audit(plan_audit(config))


def test_a_run_leaves_documents_that_agree_with_each_other(audit: Audit, config: AuditConfig) -> None:
    storage, outcome = audit.storage, audit.outcome
    assert outcome is not None
    summary, run_id = outcome.summaries[MODEL], outcome.run_id
    assert audit.summary(MODEL) == summary
    own, latest = storage.read(run_summary_file(run_id, MODEL)), storage.read(summary_file(MODEL))
    assert own == latest == summary.encode()
    ended, record = read_outcome(storage, run_id), read_record(storage, run_id)
    assert ended is not None and record is not None
    assert ended.complete and ended.clean and ended.summaries == {MODEL: digest(own)}
    assert ended.stages[MODEL] == summary.stages == outcome.stages[MODEL]
    assert record.settings(MODEL) == config.models[0].model_dump(mode="json")
    assert json.loads(storage.read(f"runs/{run_id}/_run.json"))["config"] == config.model_dump(mode="json")
    planned = record.models[MODEL]
    assert planned.digest == summary.model_digest and planned.rows is not None
    names = [file.name for file in (*summary.files.trusted, *summary.files.audited)]
    assert sorted(file.name for file in planned.sources.values()) == sorted(names)
    assert RowRecipe.model_validate(planned.rows).sides.rows.names == summary.layers.covered
    table = pq.read_table(Path(storage.url) / table_file(MODEL, run_id), partitioning=None)
    assert table.num_rows == summary.counts.audited == summary.table.rows
    assert digest(storage.read(report_file(summary.report_folder, TABLE))) == summary.table.sha256
    assert storage.exists("report/index.html") and storage.exists(f"report/{MODEL}.html")


def test_a_table_that_was_not_published_any_more_is_by_the_next_run(audit: Audit) -> None:
    storage, outcome = audit.storage, audit.outcome
    assert outcome is not None
    place = table_file(MODEL, outcome.run_id)
    published = storage.read(place)
    storage.remove(place)
    finish_interrupted_publication(storage)
    assert storage.read(place) == published


def test_a_damaged_report_is_not_published(audit: Audit) -> None:
    storage, outcome = audit.storage, audit.outcome
    assert outcome is not None
    storage.remove(table_file(MODEL, outcome.run_id))
    report = report_file(outcome.summaries[MODEL].report_folder, TABLE)
    storage.write(report, storage.read(report)[:-1] + b"x")
    finish_interrupted_publication(storage)
    assert not storage.exists(table_file(MODEL, outcome.run_id))


def test_a_damaged_summary_is_named_on_the_page_and_the_others_are_shown(audit: Audit) -> None:
    audit.storage.write(summary_file(MODEL), b"{")
    publish_pages(audit.storage, {"other": "no weights"})
    page = audit.storage.read("report/index.html").decode()
    assert "not readable JSON" in page and "no weights" in page


def test_an_incomplete_run_leaves_its_outcome_only(config: AuditConfig) -> None:
    storage, plan = Storage(config.root), plan_audit(config)
    claim_root(storage)
    run_id = begin(storage, plan)
    assert runs(storage) == [run_id] and not storage.exists(outcome_file(run_id))
    failed = ModelRun(plan.models[0], failure="no memory")
    outcome = publish(storage, run_id, plan, [failed], complete=False)
    ended = read_outcome(storage, run_id)
    assert ended is not None and not ended.complete and not ended.clean
    assert ended.failures == outcome.failures == {MODEL: "no memory"}
    assert not storage.exists(summary_file(MODEL)) and not storage.exists("report/index.html")
    assert latest_failures(Runs(storage)) == {}, "only a completed run counts"


def test_failures_and_unreached_models_of_a_completed_run_are_told_apart(config: AuditConfig) -> None:
    storage, plan = Storage(config.root), plan_audit(config)
    claim_root(storage)
    first, second = begin(storage, plan), begin(storage, plan)
    assert first < second, "ids sort in the order of runs"
    unreached = publish(storage, first, plan, [ModelRun(plan.models[0])], complete=True)
    assert (list(unreached.unreached), unreached.failures) == ([MODEL], {})
    assert latest_failures(Runs(storage)) == {}
    publish(storage, second, plan, [ModelRun(plan.models[0], failure="no memory")], complete=True)
    assert latest_failures(Runs(storage)) == {MODEL: "no memory"}


def test_cost_is_measured_over_what_was_expected(config: AuditConfig) -> None:
    run = ModelRun(plan_audit(config).models[0])
    run.stages = {"gradients": StageCost(seconds=1800.0, bytes_stored=30), "scoring": StageCost(seconds=0.12345)}
    expected = Cost({"gradients": 3600.0, "scoring": 0.0}, bytes_stored=20, bytes_read=7, requests=5)
    found = cost_summary(expected, run)
    assert found.measured.seconds == {"gradients": 1800.0, "scoring": 0.123}
    assert found.measured.worker_hours == pytest.approx(0.5, abs=1e-4)
    assert (found.over_expected.worker_hours, found.over_expected.bytes_stored) == (0.5, 1.5)
    nothing = cost_summary(Cost({"gradients": 0.0}, 0, 0, 0), run)
    assert (nothing.over_expected.worker_hours, nothing.over_expected.bytes_stored) == (None, None)
    assert cost_estimate(expected).json_object == {
        "worker_hours": 1.0,
        "seconds": {"gradients": 3600.0, "scoring": 0.0},
        "bytes_stored": 20,
        "bytes_read": 7,
        "requests": 5,
    }
