"""The work that an audit still has to do for a model, by what its root holds."""

from collections.abc import Sequence
from dataclasses import dataclass

from infra.storage.storage import Storage
from pipeline.data.sources import Source
from pipeline.planning.earlier_runs.order import LastAudit
from pipeline.planning.plan import ModelPlan, RowTask, row_task_log
from pipeline.root.logs import read_receipts


@dataclass(frozen=True)
class RemainingWork:
    """What is not done for a model.

    `own`, `curvature_rows`: row tasks. `curvature`: whether it has to be fitted. `scored`: audited files whose rows
    have to be scored. `report`: whether a report has to be made.
    """

    own: tuple[RowTask, ...]
    curvature_rows: tuple[RowTask, ...]
    curvature: bool
    scored: tuple[Source, ...]
    report: bool

    @property
    def anything(self) -> bool:
        """Whether there is work."""
        return bool(self.own or self.curvature_rows or self.report)


def remaining_work(storage: Storage, plan: ModelPlan, last: LastAudit | None) -> RemainingWork:
    """What is not done for a model, by the receipts of its rows and by what its latest completed run had."""
    own = _missing_tasks(storage, plan, plan.sources, 0)
    curvature_rows = _missing_tasks(storage, plan, plan.curvature_sources, plan.labels_per_sample)
    known = set(last.planned.sources) if last is not None and last.is_like(plan) else set[str]()
    fitted_on = plan.sources if plan.config.curvature.transductive else plan.trusted
    curvature = bool(curvature_rows) or any(source.key not in known for source in fitted_on)
    scored = tuple(source for source in plan.audited if curvature or source.key not in known)
    report = bool(scored) or known != {source.key for source in plan.sources}
    return RemainingWork(own, curvature_rows, curvature, scored, report)


def _missing_tasks(storage: Storage, plan: ModelPlan, sources: Sequence[Source], labels: int) -> tuple[RowTask, ...]:
    logs = {source.key: row_task_log(storage, plan, source, labels) for source in sources}
    done = read_receipts({log.folder: log for log in logs.values()})
    tasks = plan.tasks_of(sources, labels)
    return tuple(task for task in tasks if task.name not in done[logs[task.source_key].folder])
