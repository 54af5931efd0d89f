"""What a run leaves for people: its record before the first task; at its end summaries, how it ended, tables and pages.

The outcome is the moment from which a run counts. Before it nothing is public, so a killed run publishes nothing; after it tables get
their public names, whole and at once, and should that be cut off, the next run makes up for it before anything else.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from infra.commits import damage_of
from infra.errors import AlreadyExists, Corrupt, StorageError
from infra.events import utc_stamp
from infra.storage.files import digest
from infra.storage.storage import Storage
from pipeline.artifacts.scores import IMAGES, TABLE
from pipeline.planning.plan import AuditPlan
from pipeline.publication.history import history, latest_zoo
from pipeline.publication.pages import Past, render
from pipeline.publication.summary import _summary
from pipeline.root.layout import (
    models,
    outcome_file,
    page_file,
    report_file,
    run_summary_file,
    runs,
    summary_file,
    table_file,
)
from pipeline.root.records import FORMAT, Document, RunOutcome, encode_document, read_document, read_summary
from pipeline.root.runs import Runs
from pipeline.stages.progress import ModelRun


def publish(storage: Storage, run_id: str, plan: AuditPlan, progress: Sequence[ModelRun], complete: bool) -> RunOutcome:
    """Ends a run: summaries, the outcome, tables, and last the views of the latest run. An incomplete run leaves its outcome only."""
    done = [run for run in progress if not run.failure and run.report is not None] if complete else []
    summaries = {run.plan.name: _summary(storage, run_id, run) for run in done}
    outcome = RunOutcome(
        run_id=run_id,
        summaries=summaries,
        failures={**plan.refused, **{run.plan.name: run.failure for run in progress if run.failure}},
        failed_tasks={run.plan.name: run.failed_tasks for run in progress if run.failed_tasks},
        refused_files={model.name: model.refused_files for model in plan.models if model.refused_files},
        stages={run.plan.name: run.costs for run in progress},
        unreached=[run.plan.name for run in progress if not run.failure and run.report is None] if complete else [],
    )
    for name, summary in summaries.items():
        storage.create(run_summary_file(run_id, name), encode_document(summary))
    storage.create(outcome_file(run_id), encode_document(_record(outcome, complete)))
    for name, summary in summaries.items():
        _publish_table(storage, name, summary)
        storage.write(summary_file(name), encode_document(summary))
    if summaries:
        publish_pages(storage, outcome.failures)
    return outcome


def finish_interrupted_publication(storage: Storage) -> None:
    """Publishes what the latest run that ended did not come to publish, because it was killed right then."""
    ended = next((run_id for run_id in reversed(runs(storage)) if storage.exists(outcome_file(run_id))), None)
    for name in models(storage) if ended else ():
        with suppress(Corrupt):  # `mad verify` names what is damaged; it must not stop the models beside it
            summary = read_document(storage, run_summary_file(str(ended), name))
            if (
                summary is not None
                and not storage.exists(table_file(name, str(summary["run_id"])))
                and not _report_damaged(storage, summary)
            ):
                _publish_table(storage, name, summary)


def _report_damaged(storage: Storage, summary: Document) -> str:
    table = summary["table"]
    return (
        damage_of(storage, report_file(summary, TABLE), str(table["sha256"]), int(str(table["bytes"])))
        if isinstance(table, dict)
        else ""
    )


def _publish_table(storage: Storage, model: str, summary: Document) -> None:
    if summary["same_as"] is None:
        with suppress(AlreadyExists):
            storage.publish(report_file(summary, TABLE), table_file(model, str(summary["run_id"])))


def publish_pages(storage: Storage, failures: Mapping[str, str]) -> str:
    """Renders the pages of the latest summaries of all models in the root; returns where the first page is.

    `failures`: models that the latest run could not audit, and why.
    """
    summaries, images, failed, past, known = [], {}, dict(failures), Past(), Runs(storage)
    for name in models(storage):
        try:
            summary = read_summary(storage, name)
            if summary is not None:
                images[name] = _images(storage, summary)
                summaries.append(summary)
                past.histories[name] = history(known, name).model_dump(mode="json")
                past.reviews[name] = known.reviews(str(summary["run_id"]))
        except StorageError as error:
            failed[name] = str(error)
    zoo = latest_zoo(known)
    past.zoo.update(zoo.model_dump(mode="json") if zoo is not None else {})
    for name, page in render(summaries, images, failed, past).items():
        storage.write(page_file(name), page.encode())
    return storage.locate(page_file("index"))


def latest_failures(storage: Storage) -> dict[str, str]:
    """Models that the latest completed run could not audit, and why."""
    for run_id in reversed(runs(storage)):
        try:
            outcome = read_document(storage, outcome_file(run_id))
        except Corrupt:
            continue
        if outcome is not None and outcome.get("complete"):
            failures = outcome.get("failures")
            return {name: str(reason) for name, reason in failures.items()} if isinstance(failures, dict) else {}
    return {}


def _images(storage: Storage, summary: Document) -> Mapping[str, str]:
    pictures = (read_document(storage, report_file(summary, IMAGES)) or {}).get("pictures")
    return {place: str(picture) for place, picture in pictures.items()} if isinstance(pictures, dict) else {}


def _record(outcome: RunOutcome, complete: bool) -> Document:
    return {
        "format": FORMAT,
        "run_id": outcome.run_id,
        "ended": utc_stamp(),
        "complete": complete,
        "summaries": {name: digest(encode_document(dict(summary))) for name, summary in outcome.summaries.items()},
        "failures": dict(outcome.failures),
        "failed_tasks": {name: list(tasks) for name, tasks in outcome.failed_tasks.items()},
        "refused_files": {name: dict(files) for name, files in outcome.refused_files.items()},
        "stages": dict(outcome.stages),
        "unreached": list(outcome.unreached),
    }
