"""Reprocessing from stored rows: another curvature, damping, score, calibration, or choice of layers and trusted samples.

Neither the model nor a data file is needed. The plan is made from what an earlier run recorded, and then runs like any
other: a run from stored rows and one that found its rows stored write the same bytes, and reuse each other's curvature
and scores.
"""

from collections.abc import Set

from infra.events import Listener, ignore
from pipeline.config.audit_config import AuditConfig
from pipeline.planning.from_rows import NO_IDS, plan_rescore
from pipeline.results.audit import Audit
from pipeline.run import run_audit


def rescore_audit(
    config: AuditConfig,
    drop: Set[str] = NO_IDS,
    executor: str = "serial",
    listener: Listener = ignore,
    address: str | None = None,
) -> Audit:
    """Plan with `plan_rescore`, and run: a run with an id, a record, summaries, tables and pages of its own.

    Args:
        config: the settings, and the root that the rows are in, see `plan_rescore`.
        drop: ids of trusted samples to leave out.
        executor: see `run_audit`.
        listener: see `run_audit`.
        address: see `run_audit`.

    Raises:
        AuditError: see `plan_rescore` and `run_audit`.
    """
    return run_audit(plan_rescore(config, drop), executor=executor, listener=listener, address=address)
