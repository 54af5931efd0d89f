"""The commit logs of the stages: where each is under a root."""

from collections.abc import Iterator

from infra.commits import CommitLog
from infra.storage.storage import Storage

SPLIT, FACTOR, MOMENT, BASIS, EIGENVALUES = "split", "factor", "moment", "basis", "eigenvalues"

STAGES = ("gradients", "curvature", "scoring", "reporting")

KEYED_ONCE = ("curvature", "reporting")  # the other stages have a log per source file below their key


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
