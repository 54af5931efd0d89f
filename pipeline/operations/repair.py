"""Repair of a root: drop what is damaged, so that the next run recomputes only that; copy back what exists elsewhere.

Nothing here touches an undamaged task. The receipt of a damaged one is removed, and manifests that list it; its files
stay where they are, as an attempt that no receipt names. A run's own record (`runs/RUN`) cannot be recomputed, except
for a summary that is still the model's latest.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from infra.commits import CommitLog, Receipt, damage_of, is_receipt
from infra.errors import Corrupt, LockHeld, Missing
from infra.events import Listener, StageEnded, StageStarted, Stopwatch, TaskEnded, ignore
from infra.guarded import undoing
from infra.storage.files import digest
from infra.storage.storage import Storage
from pipeline.artifacts.scores import TABLE
from pipeline.root.documents import AnyDocument, read_document
from pipeline.root.layout import collected_file, outcome_file, run_summary_file, runs, summary_file, table_file
from pipeline.root.logs import LOGGED, stage_logs
from pipeline.root.mark import root_lock
from pipeline.root.records import OutcomeRecord
from pipeline.root.summary import Summary, TableSummary

STEP = "repair"


def repair(root: Storage, models: Sequence[str], listener: Listener = ignore) -> list[str]:
    """Check all that is stored of these models, and drop what is damaged.

    Returns:
        A line for each damage that was found, with what was done about it.

    Raises:
        LockHeld: a run is at work in the root, or has taken over because this process did not renew its lock.
        StorageError: the store does not answer, so the state of what it holds is unknown.
    """
    found, watch = list[str](), Stopwatch()
    with root_lock(root) as lock:
        storage = lock.guarded()
        logs = [(name, log) for name in models for stage in LOGGED for log in stage_logs(storage, name, stage)]
        listener(StageStarted(STEP, len(logs), 0))
        for name, log in logs:
            found += _repair_while_held(log)
            listener(TaskEnded(STEP, name, 0))
        for name in models:
            for run_id, sha256 in _ended_runs(storage, name):
                found += [*_repair_summary(storage, name, run_id, sha256), *_drop_table(storage, name, run_id)]
            found += _publish_missing(storage, name)
    listener(StageEnded(STEP, watch.seconds))
    return found


def restore_tables(root: Storage, models: Sequence[str]) -> list[str]:
    """Republish the tables that runs published and that are gone, from reports that hold the same; a line for each."""
    with root_lock(root) as lock:
        return [line for name in models for line in _publish_missing(lock.guarded(), name)]


def _repair_while_held(log: CommitLog) -> list[str]:
    """Repair a log. A receipt that another driver wrote in place of the one that was removed late is written again."""
    try:
        found = list(_repair_log(log))
        log.storage.before_change()
    except LockHeld:
        plain = CommitLog(Storage(log.storage.url), log.folder)
        for path in plain.manifests():
            with suppress(Corrupt):
                for receipt in plain.manifest(path).receipts:
                    plain.restore(receipt)
        raise
    return found


def _repair_log(log: CommitLog) -> Iterator[str]:
    """Drop what is damaged in one log; a line for each.

    Manifests go before the receipts that they list, so that a removal that is interrupted is found again.
    """
    listed, lines = _manifests(log)
    yield from lines
    receipts, lines = _receipts(log, listed)
    yield from lines
    for receipt in receipts:
        folder = log.attempt_folder(receipt)
        checked = (damage_of(log.storage, f"{folder}/{file.name}", file.sha256, file.bytes) for file in receipt.files)
        damage = [found for found in checked if found]
        if damage:
            log.forget(receipt)
            yield f"{damage[0]}: task {receipt.task} will be recomputed"


def _manifests(log: CommitLog) -> tuple[list[Receipt], list[str]]:
    """The receipts in manifests that can be read; the others are removed."""
    listed, lines = list[Receipt](), list[str]()
    for path in log.manifests():
        try:
            listed += log.manifest(path).receipts
        except Corrupt as error:
            log.storage.remove(path)
            lines.append(f"{error}: removed, the next run republishes it")
    return listed, lines


def _receipts(log: CommitLog, listed: Sequence[Receipt]) -> tuple[list[Receipt], list[str]]:
    """All receipts. One that cannot be read is removed; if a manifest has it, it is rewritten."""
    found, lines = dict[str, Receipt](), list[str]()
    for name in filter(is_receipt, log.receipt_names()):
        try:
            found[name] = log.receipt(name)
        except Corrupt as error:
            log.storage.remove(f"{log.folder}/receipts/{name}")
            lines.append(f"{error}: removed")
    for receipt in listed:
        name = log.receipt_name(receipt.task, receipt.generation)
        if name not in found:
            found[name] = log.restore(receipt)
            lines.append(f"{log.storage.locate(f'{log.folder}/receipts/{name}')}: rewritten from a manifest")
        elif found[name] != receipt:
            log.forget(receipt)
            contradiction = f"a manifest contradicts the receipt of task {receipt.task}"
            lines.append(f"{log.storage.locate(log.folder)}: {contradiction}; both are removed")
            del found[name]
    return list(found.values()), lines


def _ended_runs(storage: Storage, model: str) -> Iterator[tuple[str, str]]:
    """Runs that ended with a summary of the model, and its digest; without those that `mad gc` removed."""
    for run_id in runs(storage):
        outcome = _read(storage, outcome_file(run_id), OutcomeRecord)
        if outcome is not None and model in outcome.summaries and not _removed(storage, model, run_id):
            yield run_id, outcome.summaries[model]


def _removed(storage: Storage, model: str, run_id: str) -> bool:
    return storage.exists(collected_file(run_id)) and not storage.exists(run_summary_file(run_id, model))


def _repair_summary(storage: Storage, model: str, run_id: str, sha256: str) -> Iterator[str]:
    path = run_summary_file(run_id, model)
    if digest(_bytes(storage, path)) == sha256:
        return
    latest = _bytes(storage, summary_file(model))
    if digest(latest) == sha256:
        storage.write(path, latest)
        yield f"{storage.locate(path)}: rewritten from the model's latest summary"
    else:
        remedy = f"move runs/{run_id} and {model}/scores/run={run_id} away"
        yield f"{storage.locate(path)}: damaged or gone, and cannot be recomputed; {remedy}"


def _drop_table(storage: Storage, model: str, run_id: str) -> Iterator[str]:
    """Remove a published table that is not as it was published."""
    table = _own_table(storage, model, run_id)
    path = table_file(model, run_id)
    if table and storage.exists(path):
        damage = damage_of(storage, path, table.sha256, table.bytes)
        if damage:
            with undoing(storage, lambda root: list(_publish_missing(root, model))):
                storage.remove(path)
            yield f"{damage}: removed, to be republished"


def _publish_missing(storage: Storage, model: str) -> Iterator[str]:
    for run_id, _ in _ended_runs(storage, model):
        table, path = _own_table(storage, model, run_id), table_file(model, run_id)
        source = _report_with(storage, model, table.sha256) if table and not storage.exists(path) else ""
        if source:
            storage.publish(source, path)
            yield f"{storage.locate(path)}: republished"


def _own_table(storage: Storage, model: str, run_id: str) -> TableSummary | None:
    """The table that a run published, as its summary has it; None where it published none of its own."""
    summary = _read(storage, run_summary_file(run_id, model), Summary)
    return summary.table if summary is not None and not summary.same_as else None


def _report_with(storage: Storage, model: str, sha256: str) -> str:
    """The table of a report with this digest; "" where there is none."""
    for log in stage_logs(storage, model, "reporting"):
        for receipt in log.receipts().values():
            if any(file.name == TABLE and file.sha256 == sha256 for file in receipt.files):
                return f"{log.attempt_folder(receipt)}/{TABLE}"
    return ""


def _read(storage: Storage, path: str, kind: type[AnyDocument]) -> AnyDocument | None:
    try:
        return read_document(storage, path, kind)
    except Corrupt:
        return None


def _bytes(storage: Storage, path: str) -> bytes:
    """A file's contents; none where it is gone."""
    try:
        return storage.read(path)
    except Missing:
        return b""
