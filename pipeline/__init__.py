"""Composes the numerics and the outside into an audit: config, plan, stages, artifacts."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.audit import Audit, open_audit
    from pipeline.config import AuditConfig
    from pipeline.deadlines import Deadline
    from pipeline.plan import AuditPlan
    from pipeline.planning import plan_audit
    from pipeline.rescore import plan_rescore, rescore_audit
    from pipeline.run import run_audit, run_audit_until

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
    "Audit": "audit",
    "AuditConfig": "config",
    "AuditPlan": "plan",
    "Deadline": "deadlines",
    "open_audit": "audit",
    "plan_audit": "planning",
    "plan_rescore": "rescore",
    "rescore_audit": "rescore",
    "run_audit": "run",
    "run_audit_until": "run",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first asked for: most commands need no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
