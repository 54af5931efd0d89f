"""Roots whose runs a test describes: documents as runs write them, and logs with whatever files."""

from infra.commits import CommitLog, Measures, Receipt
from infra.storage.files import digest
from infra.storage.storage import Storage
from pipeline.root.facts import Counts, ModelVerdict
from pipeline.root.layout import outcome_file, run_file, run_summary_file, summary_file
from pipeline.root.mark import claim_root
from pipeline.root.records import ModelRecord, OutcomeRecord, RunRecord
from pipeline.root.summary import Summary, TableSummary

FIRST, SECOND, THIRD = (f"2026010{day}T000000000Z-0000000{day}" for day in (1, 2, 3))


def fresh_root(url: str) -> Storage:
    storage = Storage(url)
    claim_root(storage)
    return storage


def commit(log: CommitLog, task: str, data: bytes = b"data", rows: int = 1) -> Receipt:
    return log.commit(task, {"file": data}, Measures(rows=rows, seconds=0.5, peak_memory_bytes=0))


def begin(storage: Storage, run_id: str, **models: ModelRecord) -> None:
    record = RunRecord(run_id=run_id, started=run_id[:16], models=models)
    storage.write(run_file(run_id), record.encode())


def summary(run_id: str, model: str, **more: object) -> Summary:
    values = {
        "schema": 1,
        "run_id": run_id,
        "model": model,
        "model_digest": "digest",
        "same_as": None,
        "counts": Counts(audited=9, flagged=2),
        "verdict": ModelVerdict(value="unusual inputs"),
        "table": TableSummary(sha256="0" * 64, bytes=1),
        "manifests": {},
        "report_folder": "none",
        "files": {"trusted": [], "audited": []},
    }
    return Summary.model_validate({**values, **more})


def end(storage: Storage, run_id: str, *summaries: Summary, complete: bool = True, **more: object) -> None:
    """Write a run's summaries, also as the latest ones, and its outcome."""
    bodies = {one.model: one.encode() for one in summaries}
    for name, body in bodies.items():
        storage.write(run_summary_file(run_id, name), body)
        storage.write(summary_file(name), body)
    digests = {name: digest(body) for name, body in bodies.items()}
    values = {"run_id": run_id, "ended": run_id[:16], "complete": complete, "summaries": digests, **more}
    storage.write(outcome_file(run_id), OutcomeRecord.model_validate(values).encode())
