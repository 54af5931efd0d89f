"""From the results of row tasks to parts."""

from pathlib import Path

from infra.commits import CommitLog, Measures
from infra.storage.storage import Storage
from pipeline.planning.plan import ModelPlan
from pipeline.stages.gradients.step import rows_part
from pipeline.stages.runner import Failure


def test_a_receipt_makes_a_part_with_a_folder_and_a_failure_one_with_a_reason(plan: ModelPlan, tmp_path: Path) -> None:
    source = plan.audited[0]
    task = next(iter(plan.tasks(source)))
    log = CommitLog(Storage(str(tmp_path)), f"digits/gradients/row-key/{source.key}")
    receipt = log.commit(task.name, {"rows": b"numbers"}, Measures(rows=1, seconds=0.0, peak_memory_bytes=0))
    done, failed, other = (rows_part(log, task, result) for result in (receipt, Failure("why"), Failure("what")))
    for part in (done, failed):
        assert (part.source, part.source_key) == (source.file.name, source.key)
        assert (part.start, part.stop) == (task.start, task.stop)
    assert (done.folder, done.content, done.failure) == (log.attempt_folder(receipt), receipt.content, "")
    assert (failed.folder, failed.failure) == ("", "why")
    assert failed.content != other.content, "a later stage is repeated where the reason is another"
