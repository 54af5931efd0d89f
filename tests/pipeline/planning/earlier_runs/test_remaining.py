"""The work that is left of a model, by receipts and by its latest completed run."""

from pathlib import Path

from infra.commits import Measures
from infra.storage.storage import Storage
from pipeline.planning.earlier_runs.order import LastAudit
from pipeline.planning.earlier_runs.remaining import remaining_work
from pipeline.planning.plan import ModelPlan, RowTask, row_task_log
from pipeline.root.records import ModelRecord
from tests.pipeline.planning.plans import model_config, model_plan


def commit(storage: Storage, plan: ModelPlan, task: RowTask) -> None:
    measures = Measures(rows=1, seconds=0.0, peak_memory_bytes=0)
    row_task_log(storage, plan, task.source, task.labels_per_sample).commit(task.name, {}, measures)


def last(plan: ModelPlan, files: int) -> LastAudit:
    """A completed run of the same model and settings, with the first of its files."""
    sources = {source.key: source.file for source in plan.sources[:files]}
    record = ModelRecord(digest=plan.digest, row_key=plan.row_key, sources=sources)
    return LastAudit("20260101T000000000Z-aaaaaaaa", plan.config.model_dump(mode="json"), record)


def test_of_an_empty_root_everything_is_left(tmp_path: Path) -> None:
    plan = model_plan(model_config(curvature={"kind": "fisher"}))
    left = remaining_work(Storage(str(tmp_path)), plan, None)
    assert (*left.own, *left.curvature_rows) == plan.row_tasks and len(left.curvature_rows) == 2
    assert left.curvature and left.report and left.anything
    assert left.scored == plan.audited


def test_tasks_with_a_receipt_are_not_left(tmp_path: Path) -> None:
    plan, storage = model_plan(model_config(curvature={"kind": "fisher"})), Storage(str(tmp_path))
    done = (plan.row_tasks[0], plan.row_tasks[3], plan.row_tasks[-1])
    for task in done:
        commit(storage, plan, task)
    left = remaining_work(storage, plan, None)
    assert (*left.own, *left.curvature_rows) == tuple(task for task in plan.row_tasks if task not in done)


def test_after_the_same_run_nothing_is_left_and_after_a_new_file_its_own(tmp_path: Path) -> None:
    plan, storage = model_plan(), Storage(str(tmp_path))
    for task in plan.row_tasks:
        commit(storage, plan, task)
    assert not remaining_work(storage, plan, last(plan, files=3)).anything
    left = remaining_work(storage, plan, last(plan, files=2))
    assert (left.curvature, left.report) == (False, True)
    assert [source.file.name for source in left.scored] == ["day-2.parquet"]


def test_a_transductive_curvature_is_fitted_again_for_a_new_file(tmp_path: Path) -> None:
    plan = model_plan(model_config(curvature={"transductive": True}))
    left = remaining_work(Storage(str(tmp_path)), plan, last(plan, files=2))
    assert left.curvature and left.scored == plan.audited
