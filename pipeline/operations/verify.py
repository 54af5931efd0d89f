"""Whether a root holds what was written: every receipt, manifest, file and published table, by its digest."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from infra.commits import CommitLog, Receipt, damage_of
from infra.errors import StorageError
from infra.events import Listener, StageEnded, StageStarted, Stopwatch, TaskEnded, ignore
from infra.storage.files import digest
from infra.storage.storage import Storage
from pipeline.root.documents import AnyDocument, read_document
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
from pipeline.root.logs import LOGGED, stage_logs
from pipeline.root.mark import open_root
from pipeline.root.records import OutcomeRecord, RunRecord
from pipeline.root.summary import Summary


@dataclass
class Findings:
    """What was checked, and the problems found, each a path and a reason.

    Harmless are attempts that no receipt names, and manifests that were moved away and that only superseded results
    name.
    """

    receipts: int = 0
    files: int = 0
    bytes: int = 0
    tables: int = 0
    problems: list[str] = field(default_factory=list)
    unclaimed_attempts: int = 0
    superseded_manifests: int = 0


def verify(storage: Storage, listener: Listener = ignore) -> Findings:
    """Read every committed byte of a root once.

    Raises:
        RootError: it is not a root.
    """
    open_root(storage)
    findings, watch = Findings(), Stopwatch()
    logs = [(name, log) for name in models(storage) for stage in LOGGED for log in stage_logs(storage, name, stage)]
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
    """All receipts that can be read; a manifest that contradicts the receipts it lists is a problem."""
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
                place = log.storage.locate(f"{log.folder}/receipts/{name}")
                findings.problems.append(f"{place}: missing or unreadable, though the manifest {path} lists it")
            elif found[name] != receipt:
                place = log.storage.locate(path)
                findings.problems.append(f"{place}: contradicts the receipt of task {receipt.task}")
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
        summary = _read(storage, run_summary_file(run_id, model), Summary, findings)
        findings.tables += 1
        if summary is not None:
            table = summary.table
            _check_file(storage, table_file(model, run_id), table.sha256, table.bytes, findings)
        else:
            place = storage.locate(table_file(model, run_id))
            findings.problems.append(f"{place}: published, but its run has no summary of it")


def _check_runs(storage: Storage, findings: Findings) -> None:
    """Every document of a run must be as its outcome says, and what an ended run's summary names must be there.

    A run that was killed may have no outcome. Only the latest results of a model need their manifests. Of a run that
    `mad gc` has collected, results that are not the latest may be gone.
    """
    latest = {name: _latest(storage, name, findings) for name in models(storage)}
    for run_id in runs(storage):
        record = _read(storage, run_file(run_id), RunRecord, findings)
        review = record.review if record is not None else None
        if review is not None and run_id in latest.values():  # reviews of earlier runs are not read any more
            _check_file(storage, review_file(run_id), review.sha256, review.bytes, findings)
        outcome = _read(storage, outcome_file(run_id), OutcomeRecord, findings)
        collected = storage.exists(collected_file(run_id))
        for name, sha256 in outcome.summaries.items() if outcome is not None else ():
            is_latest = latest.get(name) == run_id
            _check_summary(storage, (run_id, name, sha256), is_latest, collected and not is_latest, findings)


def _check_summary(
    storage: Storage, expected: tuple[str, str, str], is_latest: bool, may_be_gone: bool, findings: Findings
) -> None:
    """A run's summary of a model and what it names; `expected`: run id, model and the digest of the summary."""
    run_id, name, sha256 = expected
    path = run_summary_file(run_id, name)
    summary = _read(storage, path, Summary, findings)
    if summary is None and may_be_gone:
        return
    if summary is None or digest(storage.read(path)) != sha256:
        findings.problems.append(f"{storage.locate(path)}: missing, or changed since run {run_id} ended")
        return
    table = table_file(name, summary.table_run)
    if not storage.exists(table) and not may_be_gone:
        findings.problems.append(f"{storage.locate(table)}: missing, though run {run_id} published it")
    manifests = [manifest for paths in summary.manifests.values() for manifest in paths]
    missing = [manifest for manifest in manifests if not storage.exists(manifest)]
    if is_latest:
        of_run = f"missing, though run {run_id} published it"
        findings.problems += [f"{storage.locate(manifest)}: {of_run}" for manifest in missing]
    else:
        findings.superseded_manifests += len(missing)


def _latest(storage: Storage, model: str, findings: Findings) -> str | None:
    """The run whose summary is the model's latest; the two copies must be equal."""
    path = summary_file(model)
    shown = _read(storage, path, Summary, findings)
    if shown is not None and shown != _read(storage, run_summary_file(shown.run_id, model), Summary, findings):
        own = f"differs from the summary of its run, {shown.run_id}"
        findings.problems.append(f"{storage.locate(path)}: {own}; the next run rewrites it")
    elif shown is None and any(published_runs(storage, model)):
        gone = "missing, though a run published scores"
        findings.problems.append(f"{storage.locate(path)}: {gone}; the next run rewrites it")
    return shown.run_id if shown is not None else None


def _read(storage: Storage, path: str, kind: type[AnyDocument], findings: Findings) -> AnyDocument | None:
    try:
        return read_document(storage, path, kind)
    except StorageError as error:
        if str(error) not in findings.problems:
            findings.problems.append(str(error))
        return None
