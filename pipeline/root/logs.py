"""The commit logs of the stages: where each is under a root, and what it has committed."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from infra.commits import CommitLog, Receipt
from infra.storage.storage import Storage

SPLIT, FACTOR, MOMENT, BASIS, EIGENVALUES = "split", "factor", "moment", "basis", "eigenvalues"

STAGES = ("gradients", "curvature", "scoring", "reporting")

PROBE = "probe"  # of a model, which planning makes

LOGGED = (PROBE, *STAGES)  # folders of a model that hold commit logs

READERS = 8

Receipts = Mapping[str, Mapping[str, Receipt]]  # by task, by the folder of their log

NO_RECEIPTS: Receipts = {}

KEYED_ONCE = (PROBE, "curvature", "reporting")  # the other stages have a log per source file below their key


def probe_log(storage: Storage, model: str, key: str) -> CommitLog:
    """What planning found out about a model."""
    return CommitLog(storage, f"{model}/{PROBE}/{key}")


def rows_log(storage: Storage, model: str, row_key: str, source_key: str) -> CommitLog:
    """Rows of one source file."""
    return CommitLog(storage, f"{model}/gradients/{row_key}/{source_key}")


def curvature_log(storage: Storage, model: str, key: str) -> CommitLog:
    """Factor and references of one trusted set."""
    return CommitLog(storage, f"{model}/curvature/{key}")


def scoring_log(storage: Storage, model: str, key: str, source_key: str) -> CommitLog:
    """Score parts of one source file."""
    return CommitLog(storage, f"{model}/scoring/{key}/{source_key}")


def reporting_log(storage: Storage, model: str, key: str) -> CommitLog:
    """The table and the facts of one report."""
    return CommitLog(storage, f"{model}/reporting/{key}")


def log_folder(path: str) -> str | None:
    """The folder of the commit log that a file of a stage belongs to; None where it belongs to none."""
    parts = path.split("/")
    depth = 3 if len(parts) > 1 and parts[1] in KEYED_ONCE else 4
    return "/".join(parts[:depth]) if len(parts) > depth + 1 else None


def stage_logs(storage: Storage, model: str, stage: str) -> Iterator[CommitLog]:
    """All commit logs of a stage of a model, found by listing."""
    for key in storage.list(f"{model}/{stage}"):
        folder = f"{model}/{stage}/{key}"
        if stage in KEYED_ONCE:
            yield CommitLog(storage, folder)
        else:
            yield from (CommitLog(storage, f"{folder}/{source}") for source in storage.list(folder))


def read_receipts(logs: Mapping[str, CommitLog], known: Receipts = NO_RECEIPTS) -> dict[str, Mapping[str, Receipt]]:
    """The receipts in each log by task, by the log's folder; several logs are read at once.

    One listing tells which logs exist, so that a log of a new file needs no listing of its own.

    Args:
        logs: by folder.
        known: what was read before. Nothing is ever overwritten, so a log that lists just these is not read again.
    """
    parents = {folder.rpartition("/")[0]: log.storage for folder, log in logs.items()}
    existing = {f"{parent}/{name}" for parent, storage in parents.items() for name in storage.list(parent)}
    folders = [folder for folder in logs if folder in existing]
    pool = ThreadPoolExecutor(READERS, "receipts")
    try:
        found = pool.map(lambda folder: _receipts(logs[folder], known.get(folder, {})), folders)
        read = dict(zip(folders, found, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
    return {folder: read.get(folder, {}) for folder in logs}


def _receipts(log: CommitLog, known: Mapping[str, Receipt]) -> Mapping[str, Receipt]:
    names = {log.receipt_name(receipt.task, receipt.generation) for receipt in known.values()}
    return known if known and names == set(log.receipt_names()) else log.receipts()
