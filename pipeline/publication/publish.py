"""The end of a run: summaries, the outcome, published tables, and pages.

The outcome is the moment from which a run counts. Before it nothing is public, so a killed run publishes nothing;
after it tables get their public names, whole and at once. Should a run be killed in between, the next one finishes
its publication before anything else.

A run that was suspended meanwhile, for so long that another driver took over, publishes nothing more. What it was just
about to write when it fell asleep it undoes, so that nothing newer is replaced.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from infra.commits import damage_of
from infra.errors import AlreadyExists, Corrupt, Missing
from infra.events import utc_stamp
from infra.guarded import undoing
from infra.storage.files import digest
from infra.storage.storage import Storage
from pipeline.artifacts.scores import TABLE
from pipeline.planning.plan import AuditPlan
from pipeline.publication.site import publish_pages
from pipeline.publication.summary import summarize, with_controls
from pipeline.root.documents import RECORD_FORMAT
from pipeline.root.layout import (
    outcome_file,
    report_file,
    run_summary_file,
    runs,
    summary_file,
    table_file,
)
from pipeline.root.records import OutcomeRecord, RunOutcome, read_outcome, read_run_summary, read_summary
from pipeline.root.runs import Runs
from pipeline.root.summary import Summary
from pipeline.stages.progress import ModelRun


def publish(storage: Storage, run_id: str, plan: AuditPlan, progress: Sequence[ModelRun], complete: bool) -> RunOutcome:
    """Ends a run: summaries, the outcome, tables, and last the pages. An incomplete run leaves its outcome only."""
    done = [run for run in progress if not run.failure and run.report is not None] if complete else []
    summaries = {run.plan.name: summarize(storage, run_id, run) for run in done}
    outcome = RunOutcome(
        run_id=run_id,
        summaries=with_controls([run.plan.config for run in done], summaries),
        failures={**plan.refused, **{run.plan.name: run.failure for run in progress if run.failure}},
        failed_tasks={run.plan.name: run.failed_tasks for run in progress if run.failed_tasks},
        refused_files={model.name: model.refused_files for model in plan.models if model.refused_files},
        stages={run.plan.name: run.costs for run in progress},
        unreached=[run.plan.name for run in progress if not run.failure and run.report is None] if complete else [],
    )
    encoded = {name: summary.encode() for name, summary in outcome.summaries.items()}
    for name, data in encoded.items():
        storage.create(run_summary_file(run_id, name), data)
    digests = {name: digest(data) for name, data in encoded.items()}
    with undoing(storage, lambda root: root.remove(outcome_file(run_id))):
        storage.create(outcome_file(run_id), _outcome_record(outcome, digests, complete).encode())
    shown = latest_summaries(storage, run_id, tuple(encoded))
    for name, summary in outcome.summaries.items():
        _publish_table(storage, name, summary)
        with undoing(storage, partial(_show_latest, run_id=run_id, model=name)):
            storage.write(summary_file(name), shown.get(name, encoded[name]))
    if outcome.summaries:
        known = Runs(storage)
        for run in done:
            if run.latest is not None:
                known.remember(run.latest, run.plan.name)
        own = {name: summary for name, summary in outcome.summaries.items() if name not in shown}
        publish_pages(storage, outcome.failures, known, own)
    return outcome


def latest_summaries(storage: Storage, run_id: str, models: Sequence[str]) -> dict[str, bytes]:
    """The latest summary, as stored, of each of these models of which a newer run than this one has ended with one."""
    found = dict[str, bytes]()
    for newer in runs(storage):
        outcome = read_outcome(storage, newer) if newer > run_id else None
        for name in set(models) & set(outcome.summaries if outcome is not None else ()):
            with suppress(Missing):
                found[name] = storage.read(run_summary_file(newer, name))
    return found


def _show_latest(storage: Storage, run_id: str, model: str) -> None:
    """Write a model's latest summary again, where a newer run than this one has ended with one."""
    for data in latest_summaries(storage, run_id, (model,)).values():
        storage.write(summary_file(model), data)


def _outcome_record(outcome: RunOutcome, digests: dict[str, str], complete: bool) -> OutcomeRecord:
    return OutcomeRecord(
        format=RECORD_FORMAT,
        run_id=outcome.run_id,
        ended=utc_stamp(),
        complete=complete,
        summaries=digests,
        failures=dict(outcome.failures),
        failed_tasks={name: tuple(tasks) for name, tasks in outcome.failed_tasks.items()},
        refused_files={name: dict(files) for name, files in outcome.refused_files.items()},
        stages={name: dict(stages) for name, stages in outcome.stages.items()},
        unreached=tuple(outcome.unreached),
    )


def finish_interrupted_publication(storage: Storage) -> dict[str, Summary]:
    """Publishes what the latest run that ended did not publish, because it was killed right then.

    Returns the summaries that are then shown as the latest ones of its models, but for those that are damaged.
    """
    known, found = Runs(storage), dict[str, Summary]()
    ended = next((run_id for run_id in known.ids if known.outcome(run_id).ended), None)
    for name in known.outcome(ended).summaries if ended else ():
        with suppress(Corrupt):  # `mad verify` names what is damaged; the other models must not suffer from it
            summary = _finish_publication(storage, str(ended), name)
            if summary is not None:
                found[name] = summary
    return found


def _finish_publication(storage: Storage, run_id: str, model: str) -> Summary | None:
    """Finish a model's publication by a run; returns the summary that is then shown as the model's latest."""
    shown = _shown(storage, model)
    summary = shown if shown is not None and shown.run_id == run_id else read_run_summary(storage, run_id, model)
    if summary is None:
        return shown
    if _can_be_published(storage, model, summary):
        _publish_table(storage, model, summary)
    if shown is None or shown.run_id < run_id:
        storage.write(summary_file(model), storage.read(run_summary_file(run_id, model)))
        return summary
    return shown


def _shown(storage: Storage, model: str) -> Summary | None:
    """The summary shown as a model's latest; None where there is none that can be read."""
    with suppress(Corrupt):
        return read_summary(storage, model)
    return None


def _can_be_published(storage: Storage, model: str, summary: Summary) -> bool:
    """Whether a table of its own is not published, and its report is there, undamaged."""
    if summary.same_as is not None or storage.exists(table_file(model, summary.run_id)):
        return False
    report, table = report_file(summary.report_folder, TABLE), summary.table
    return not damage_of(storage, report, table.sha256, table.bytes)


def _publish_table(storage: Storage, model: str, summary: Summary) -> None:
    if summary.same_as is None:
        with suppress(AlreadyExists):
            storage.publish(report_file(summary.report_folder, TABLE), table_file(model, summary.run_id))
