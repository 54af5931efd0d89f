"""What a root holds: its runs, its models, its stages. Reads only."""

from pydantic import JsonValue

from infra.commits import CommitLog, Receipt
from infra.errors import StorageError
from infra.owners import Owner
from infra.storage.storage import Storage
from pipeline.errors import RootError
from pipeline.root.layout import collected_file, models, outcome_file, run_file, runs
from pipeline.root.logs import STAGES, rows_log, stage_logs
from pipeline.root.mark import MARK, open_root, root_lock, root_storage
from pipeline.root.records import Document, read_document, read_summary


def status(storage: Storage) -> Document:
    """Runs, newest first, and models with their latest verdict; of a run that has not ended, how far its rows are.

    Raises:
        RootError: it is not a root.
    """
    info, holder = open_root(storage), root_lock(storage).holder()
    return {
        "root": storage.url,
        "audit": info.audit,
        "locked_by": str(holder) if holder else None,
        "runs": [
            _run(storage, run_id, latest=number == 0, at_work=holder)
            for number, run_id in enumerate(reversed(runs(storage)))
        ],
        "models": {name: _model(storage, name) for name in models(storage)},
    }


def _run(storage: Storage, run_id: str, latest: bool, at_work: Owner | None) -> JsonValue:
    try:
        record, outcome = read_document(storage, run_file(run_id)) or {}, read_document(storage, outcome_file(run_id))
    except StorageError as error:
        return {"run_id": run_id, "started": None, "state": f"unreadable: {error}"}
    latest_state = f"at work ({at_work})" if at_work else "interrupted (`mad run` resumes)"
    unended = latest_state if latest else "interrupted, its work taken up by later runs"
    entry: Document = {"run_id": run_id, "started": record.get("started"), "state": unended}
    if outcome is None and latest:
        entry["rows"] = _progress(storage, record)
    elif outcome is not None:
        failed = any(outcome.get(what) for what in ("failures", "failed_tasks", "refused_files"))
        collected = "; `mad gc` removed results of it" if storage.exists(collected_file(run_id)) else ""
        ended = (
            "ended at its deadline"
            if outcome.get("unreached")
            else "completed"
            if outcome.get("complete")
            else "stopped after a stage, as asked"
        )
        entry["state"] = ended + (", with failures" if failed else "") + collected
        entry |= {
            what: outcome.get(what)
            for what in ("ended", "failures", "failed_tasks", "refused_files", "unreached")
            if outcome.get(what)
        }
        summaries = outcome.get("summaries")
        entry["done"] = list(summaries) if isinstance(summaries, dict) else []
    return entry


def _progress(storage: Storage, record: Document) -> JsonValue:
    progress: Document = {}
    planned = record.get("models")
    for name, model in planned.items() if isinstance(planned, dict) else ():
        if isinstance(model, dict) and isinstance(model["sources"], dict):
            places = [(str(model["row_key"]), key) for key in model["sources"]]
            fitted = model.get("fitted_sources")
            places += [(str(model["fitted_key"]), str(key)) for key in fitted] if isinstance(fitted, list) else []
            logs = [rows_log(storage, name, row_key, source_key) for row_key, source_key in places]
            progress[name] = {"tasks": model["tasks"], "done": sum(len(log.receipts()) for log in logs)}
    return progress


def _model(storage: Storage, name: str) -> JsonValue:
    summary = _summary(storage, name)
    return (
        {key: summary[key] for key in ("run_id", "verdict", "counts", "unreadable") if key in summary}
        if summary
        else None
    )


def split_place(place: str) -> tuple[Storage, list[str]]:
    """The root in `ROOT[/MODEL[/STAGE]]`, and what follows it.

    Raises:
        RootError: there is no root at the place or up to two levels above.
    """
    head, rest = place.rstrip("/"), list[str]()
    while len(rest) <= 2:
        storage = root_storage(head)
        if storage.exists(MARK):
            return storage, rest
        head, _, last = head.rpartition("/")
        rest.insert(0, last)
        if not head or head.endswith(":/"):
            break
    open_root(root_storage(place))
    raise RootError(f"{place}: not a root, nor a model or stage of one")


def inspect(place: str) -> Document:
    """What is committed at `ROOT[/MODEL[/STAGE]]`: models; a model's stages and summary; a stage's tasks.

    Raises:
        RootError: there is no such root, model or stage.
    """
    storage, rest = split_place(place)
    open_root(storage)
    known = models(storage)
    if not rest:
        return {"root": storage.url, "models": {name: _stages(storage, name) for name in known}}
    if rest[0] not in known:
        raise RootError(f"{storage.url}: there is no model {rest[0]!r}; models here: {', '.join(known) or 'none'}")
    if len(rest) == 1:
        return {"model": rest[0], "stages": _stages(storage, rest[0]), "summary": _summary(storage, rest[0])}
    if rest[1] not in STAGES:
        raise RootError(f"there is no stage {rest[1]!r}; stages: {', '.join(STAGES)}")
    return {
        "model": rest[0],
        "stage": rest[1],
        "keys": {log.folder: _log(log) for log in stage_logs(storage, rest[0], rest[1])},
    }


def _summary(storage: Storage, name: str) -> Document | None:
    try:
        return read_summary(storage, name)
    except StorageError as error:
        return {"unreadable": str(error)}


def _stages(storage: Storage, name: str) -> Document:
    stages: Document = {}
    for stage in STAGES:
        receipts, problems = list[Receipt](), list[JsonValue]()
        for log in stage_logs(storage, name, stage):
            try:
                receipts += log.receipts().values()
            except StorageError as error:
                problems.append(str(error))
        stages[stage] = {
            "problems": problems,
            "tasks": len(receipts),
            "rows": sum(receipt.measures.rows for receipt in receipts),
            "bytes": sum(file.bytes for receipt in receipts for file in receipt.files),
            "seconds": round(sum(receipt.measures.seconds for receipt in receipts), 3),
        }
    return stages


def _log(log: CommitLog) -> JsonValue:
    return {
        "manifests": list(log.manifests()),
        "tasks": [_task(log, receipt) for _, receipt in sorted(log.receipts().items())],
    }


def _task(log: CommitLog, receipt: Receipt) -> JsonValue:
    size = sum(file.bytes for file in receipt.files)
    return {
        "task": receipt.task,
        "generation": receipt.generation,
        "folder": log.attempt_folder(receipt),
        "bytes": size,
        **receipt.measures.model_dump(),
    }
