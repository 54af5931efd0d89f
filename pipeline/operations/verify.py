"""Whether what a root holds is what was written: every receipt, manifest, file and published table against its digest."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from infra.commits import CommitLog, Receipt, damage_of
from infra.errors import StorageError
from infra.events import Listener, StageEnded, StageStarted, Stopwatch, TaskEnded, ignore
from infra.storage.files import digest
from infra.storage.storage import Storage
from pipeline.root.layout import (
    collected_file,
    models,
    outcome_file,
    published_runs,
    review_file,
    run_file,
    run_summary_file,
    runs,
    summary_file,
    table_file,
)
from pipeline.root.logs import STAGES, stage_logs
from pipeline.root.mark import open_root
from pipeline.root.records import Document, encode_document, read_document


@dataclass
class Findings:
    """What was checked and what is wrong (a path and why, each).

    Harmless: attempts that no receipt names; manifests that only runs name whose results a later run has superseded,
    moved away.
    """

    receipts: int = 0
    files: int = 0
    bytes: int = 0
    tables: int = 0
    problems: list[str] = field(default_factory=list)
    unclaimed_attempts: int = 0
    superseded_manifests: int = 0


def verify(storage: Storage, listener: Listener = ignore) -> Findings:
    """Reads every committed byte of a root once.

    Raises:
        RootError: it is not a root.
    """
    open_root(storage)
    findings, watch = Findings(), Stopwatch()
    logs = [(name, log) for name in models(storage) for stage in STAGES for log in stage_logs(storage, name, stage)]
    listener(StageStarted("verify", len(logs), 0))
    for name, log in logs:
        _check_log(log, findings)
        listener(TaskEnded("verify", name, 0))
    for name in models(storage):
        _check_tables(storage, name, findings)
    _check_runs(storage, findings)
    listener(StageEnded("verify", watch.seconds))
    return findings


def _check_log(log: CommitLog, findings: Findings) -> None:
    claimed: set[tuple[str, str]] = set()
    for receipt in _receipts(log, findings):
        claimed.add((receipt.task, receipt.attempt))
        findings.receipts += 1
        for file in receipt.files:
            path = f"{log.attempt_folder(receipt)}/{file.name}"
            _check_file(log.storage, path, file.sha256, file.bytes, findings)
    for task in log.storage.list(log.folder):
        if task not in ("receipts", "manifests"):
            attempts = log.storage.list(f"{log.folder}/{task}")
            findings.unclaimed_attempts += sum((task, attempt) not in claimed for attempt in attempts)


def _receipts(log: CommitLog, findings: Findings) -> Iterator[Receipt]:
    """All receipts that can be read; a manifest that says otherwise than the receipts it lists is a problem."""
    found: dict[str, Receipt] = {}
    for name in log.receipt_names():
        try:
            found[name] = log.receipt(name)
        except StorageError as error:
            findings.problems.append(str(error))
    for path in log.manifests():
        try:
            listed = log.manifest(path).receipts
        except StorageError as error:
            findings.problems.append(str(error))
            continue
        for receipt in listed:
            name = log.receipt_name(receipt.task, receipt.generation)
            if name not in found:
                findings.problems.append(
                    f"{log.storage.locate(f'{log.folder}/receipts/{name}')}: missing or unreadable, though the manifest {path} lists it"
                )
            elif found[name] != receipt:
                findings.problems.append(
                    f"{log.storage.locate(path)}: says otherwise of task {receipt.task} than its receipt"
                )
    yield from found.values()


def _check_file(storage: Storage, path: str, sha256: str, size: int, findings: Findings) -> None:
    findings.files += 1
    try:
        damage = damage_of(storage, path, sha256, size)
    except StorageError as error:
        damage = str(error)
    if damage:
        findings.problems.append(damage)
    else:
        findings.bytes += size


def _check_tables(storage: Storage, model: str, findings: Findings) -> None:
    for run_id in published_runs(storage, model):
        table = _read(storage, run_summary_file(run_id, model), findings).get("table")
        findings.tables += 1
        if isinstance(table, dict):
            _check_file(storage, table_file(model, run_id), str(table["sha256"]), int(str(table["bytes"])), findings)
        else:
            findings.problems.append(
                f"{storage.locate(table_file(model, run_id))}: published, but its run has no summary of it"
            )


def _check_runs(storage: Storage, findings: Findings) -> None:
    """Every document of a run must be as its outcome says, and what an ended run's summary names must be there.

    A run that was killed may not have come to its outcome. Manifests are needed by the latest results of a model
    alone. Of a run that `mad gc` has collected, results that are not the latest may be gone.
    """
    latest = {name: _latest(storage, name, findings) for name in models(storage)}
    for run_id in runs(storage):
        review = _read(storage, run_file(run_id), findings).get("review")
        if isinstance(review, dict) and run_id in latest.values():  # of earlier runs nobody reads it any more
            _check_file(storage, review_file(run_id), str(review["sha256"]), int(str(review["bytes"])), findings)
        outcome, collected = _read(storage, outcome_file(run_id), findings), storage.exists(collected_file(run_id))
        expected = outcome.get("summaries") if outcome else None
        for name, sha256 in expected.items() if isinstance(expected, dict) else ():
            summary = _read(storage, run_summary_file(run_id, name), findings)
            may_be_gone = collected and latest.get(name) != run_id
            if not summary and may_be_gone:
                continue
            if not summary or digest(encode_document(summary)) != sha256:
                findings.problems.append(
                    f"{storage.locate(run_summary_file(run_id, name))}: missing, or changed since run {run_id} ended"
                )
                continue
            table = table_file(name, str(summary["same_as"] or run_id))
            if not storage.exists(table) and not may_be_gone:
                findings.problems.append(f"{storage.locate(table)}: missing, though run {run_id} published it")
            missing = [path for path in _manifests(summary) if not storage.exists(path)]
            if latest.get(name) == run_id:
                findings.problems += [
                    f"{storage.locate(path)}: missing, though run {run_id} published it" for path in missing
                ]
            else:
                findings.superseded_manifests += len(missing)


def _latest(storage: Storage, model: str, findings: Findings) -> str | None:
    """The run whose summary a model shows, which must be that run's own."""
    shown = _read(storage, summary_file(model), findings)
    run_id = str(shown.get("run_id"))
    if shown and shown != _read(storage, run_summary_file(run_id, model), findings):
        findings.problems.append(
            f"{storage.locate(summary_file(model))}: differs from the summary of its run, {run_id}; the next run writes it anew"
        )
    elif not shown and any(published_runs(storage, model)):
        findings.problems.append(
            f"{storage.locate(summary_file(model))}: missing, though a run published scores; the next run writes it anew"
        )
    return run_id if shown else None


def _manifests(summary: Document) -> list[str]:
    named = summary.get("manifests")
    return (
        [str(path) for paths in named.values() if isinstance(paths, list) for path in paths]
        if isinstance(named, dict)
        else []
    )


def _read(storage: Storage, path: str, findings: Findings) -> Document:
    try:
        return read_document(storage, path) or {}
    except StorageError as error:
        if str(error) not in findings.problems:
            findings.problems.append(str(error))
        return {}
