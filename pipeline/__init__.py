"""Composes numerics and infrastructure into an audit: config, plan, stages, artifacts."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config.audit_config import AuditConfig
    from pipeline.operations.rescore import rescore_audit
    from pipeline.planning.from_models import plan_audit
    from pipeline.planning.from_rows import plan_rescore
    from pipeline.planning.plan import AuditPlan
    from pipeline.results.audit import Audit, open_audit
    from pipeline.run import Deadline, run_audit, run_audit_until


__all__ = [
    "Audit",
    "AuditConfig",
    "AuditPlan",
    "Deadline",
    "open_audit",
    "plan_audit",
    "plan_rescore",
    "rescore_audit",
    "run_audit",
    "run_audit_until",
]


_HOMES = {
    "Audit": "results.audit",
    "AuditConfig": "config.audit_config",
    "AuditPlan": "planning.plan",
    "Deadline": "run",
    "open_audit": "results.audit",
    "plan_audit": "planning.from_models",
    "plan_rescore": "planning.from_rows",
    "rescore_audit": "operations.rescore",
    "run_audit": "run",
    "run_audit_until": "run",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used: most commands need no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
