"""The driver's part of the gradients stage: a job for each range of rows, and the parts that their receipts make."""

from infra.commits import CommitLog, Receipt
from pipeline.artifacts.rows import RowsPart
from pipeline.keys import key_of
from pipeline.planning.plan import RowTask
from pipeline.stages.runner import Failure


def row_part(log: CommitLog, task: RowTask, result: Receipt | Failure) -> RowsPart:
    source, key = task.source.file.name, task.source.key
    if isinstance(result, Failure):
        return RowsPart(source, key, task.start, task.stop, "", key_of(failure=result.reason), result.reason)
    return RowsPart.of(log, result, source)
