"""The state of a root: its runs, and the latest verdict of each model. Reads only."""

from infra.errors import StorageError
from infra.owners import Owner
from infra.storage.storage import Storage
from pipeline.root.documents import DocumentPart, optional_key
from pipeline.root.facts import Counts, ModelVerdict
from pipeline.root.layout import collected_file, models, runs
from pipeline.root.logs import rows_log
from pipeline.root.mark import open_root, root_lock
from pipeline.root.records import OutcomeRecord, RunRecord, read_outcome, read_record, read_summary


class RowProgress(DocumentPart):
    """How many tasks of a model's rows are done."""

    tasks: int
    done: int


class RunStatus(DocumentPart):
    """A run: when it started, its state in words, and either how far its rows are or how it ended."""

    run_id: str
    started: str | None
    state: str
    rows: dict[str, RowProgress] | None = optional_key()
    ended: str | None = optional_key()
    failures: dict[str, str] | None = optional_key()
    failed_tasks: dict[str, tuple[str, ...]] | None = optional_key()
    refused_files: dict[str, dict[str, str]] | None = optional_key()
    unreached: tuple[str, ...] | None = optional_key()
    done: tuple[str, ...] | None = optional_key()


class ModelStatus(DocumentPart):
    """The latest result of a model, or why its summary cannot be read."""

    run_id: str | None = optional_key()
    verdict: ModelVerdict | None = optional_key()
    counts: Counts | None = optional_key()
    unreadable: str | None = optional_key()


class RootStatus(DocumentPart):
    """A root: runs, newest first, and models, None where no run completed. `locked_by`: the process at work in it."""

    root: str
    audit: str
    locked_by: str | None
    runs: tuple[RunStatus, ...]
    models: dict[str, ModelStatus | None]


def status(storage: Storage) -> RootStatus:
    """The runs and models of a root; for a run that has not ended, how far its rows are.

    Raises:
        RootError: it is not a root.
    """
    info, holder = open_root(storage), root_lock(storage).holder()
    newest_first = enumerate(reversed(runs(storage)))
    return RootStatus(
        root=storage.url,
        audit=info.audit,
        locked_by=str(holder) if holder else None,
        runs=tuple(_run(storage, run_id, number == 0, holder) for number, run_id in newest_first),
        models={name: _model(storage, name) for name in models(storage)},
    )


def _run(storage: Storage, run_id: str, latest: bool, at_work: Owner | None) -> RunStatus:
    try:
        record, outcome = read_record(storage, run_id) or RunRecord(), read_outcome(storage, run_id)
    except StorageError as error:
        return RunStatus(run_id=run_id, started=None, state=f"unreadable: {error}")
    if outcome is not None:
        return _ended_run(run_id, record, outcome, collected=storage.exists(collected_file(run_id)))
    if not latest:
        superseded = "interrupted, its work taken up by later runs"
        return RunStatus(run_id=run_id, started=record.started, state=superseded)
    state = f"at work ({at_work})" if at_work else "interrupted (`mad run` resumes)"
    return RunStatus(run_id=run_id, started=record.started, state=state, rows=_progress(storage, record))


def _ended_run(run_id: str, record: RunRecord, outcome: OutcomeRecord, collected: bool) -> RunStatus:
    ended = "completed" if outcome.complete else "stopped after a stage, as asked"
    ended = "ended at its deadline" if outcome.unreached else ended
    failed = "" if outcome.clean else ", with failures"
    removed = "; `mad gc` removed results of it" if collected else ""
    return RunStatus(
        run_id=run_id,
        started=record.started,
        state=f"{ended}{failed}{removed}",
        ended=outcome.ended or None,
        failures=outcome.failures or None,
        failed_tasks=outcome.failed_tasks or None,
        refused_files=outcome.refused_files or None,
        unreached=outcome.unreached or None,
        done=tuple(outcome.summaries),
    )


def _progress(storage: Storage, record: RunRecord) -> dict[str, RowProgress]:
    progress = {}
    for name, model in record.models.items():
        logs = [rows_log(storage, name, row_key, source_key) for row_key, source_key in model.row_places]
        progress[name] = RowProgress(tasks=model.tasks, done=sum(len(log.receipts()) for log in logs))
    return progress


def _model(storage: Storage, name: str) -> ModelStatus | None:
    try:
        summary = read_summary(storage, name)
    except StorageError as error:
        return ModelStatus(unreadable=str(error))
    if summary is None:
        return None
    return ModelStatus(run_id=summary.run_id, verdict=summary.verdict, counts=summary.counts)
