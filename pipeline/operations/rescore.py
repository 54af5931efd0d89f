"""Reprocessing from stored rows: other curvature, damping, score, layers, trusted samples or calibration, without the model and without any data file.

A plan is made of what an earlier run recorded instead of loading the model; from there on it is run like any other, so that a run from
stored rows and one that found them stored make the same bytes, and reuse each other's curvature and scores.
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
    """Plans by `plan_rescore` and runs: a run with an id, a record, summaries, tables and pages of its own.

    Args:
        config: what is asked for, and the root that the rows are in, see `plan_rescore`.
        drop: ids of trusted samples to do without.
        executor: as of `run_audit`.
        listener: as of `run_audit`.
        address: as of `run_audit`.

    Raises:
        AuditError: as `plan_rescore` and `run_audit` say.
    """
    return run_audit(plan_rescore(config, drop), executor=executor, listener=listener, address=address)
