"""A root after two nights, and what a test of `mad gc` asks of it."""

import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from infra.storage.storage import Storage
from pipeline.config.audit_config import AuditConfig
from pipeline.operations.verify import verify
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit
from pipeline.run import run_audit
from tests.conftest import ConfigMaker

DAY = 86400.0


OTHER_ROWS: Mapping[str, JsonValue] = {"estimator": {"projection": {"rank": 2, "seed": 1}}}


ROWS: Mapping[str, JsonValue] = {"estimator": {"projection": {"rank": 2}}}


def run(config: AuditConfig, until: str = "reporting") -> Audit:
    audit = run_audit(plan_audit(config), until=until)
    assert audit.outcome is not None and audit.outcome.clean
    return audit


def run_id(audit: Audit) -> str:
    assert audit.outcome is not None
    return audit.outcome.run_id


def computed(audit: Audit, model: str = "digits") -> dict[str, int]:
    """Tasks that a run executed, by stage."""
    assert audit.outcome is not None
    return {name: cost.tasks_run for name, cost in audit.outcome.stages[model].items()}


def files(root: str | Path) -> dict[str, bytes]:
    """All files of a root but its lock's, and those that a killed writer had not named yet."""
    paths = (path for path in Path(root).rglob("*") if path.is_file() and not {".lock", ".tmp"} & set(path.parts))
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def clean(storage: Storage) -> bool:
    found = verify(storage)
    assert found.problems == []
    return True


class Nights:
    """A root after two runs, the second of them with other rows; `between` is a moment between them."""

    def __init__(self, make_config: ConfigMaker):
        self.old, self.new = make_config(**ROWS), make_config(**OTHER_ROWS)
        self.first = run(self.old)
        self.between = time.time()
        time.sleep(0.01)
        self.second = run(self.new)
        self.storage = self.first.storage

    def garbage_after(self, keep: float = 1000.0) -> tuple[float, float]:
        """A span to keep, and a moment at which it reaches back to between the runs."""
        return keep, self.between + keep
