"""A root after two nights, and what a test of `mad gc` asks of it."""

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from infra.locks import LEASE_SECONDS
from infra.storage.storage import Storage
from pipeline.config.audit_config import AuditConfig
from pipeline.operations.collection.garbage import Garbage
from pipeline.operations.gc import collect
from pipeline.operations.verify import verify
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit
from pipeline.root.layout import REMOVAL_LISTS
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
    """All files of a root but its lock's, lists of garbage, and those that a killed writer had not named yet."""
    paths = (
        path for path in Path(root).rglob("*") if path.is_file() and not {".lock", ".gc", ".tmp"} & set(path.parts)
    )
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def clean(storage: Storage) -> bool:
    found = verify(storage)
    assert found.problems == []
    return True


def collected(storage: Storage, keep: float, now: float | None = None) -> Garbage:
    """What two calls of `mad gc` remove, a lease apart; the first one only lists it."""
    now = time.time() + 2 * LEASE_SECONDS if now is None else now
    first = collect(storage, keep, now=now)
    assert (first.removed.removals, first.removed.gone) == ([], [])
    return collect(storage, keep, now=now).removed


def age_lists(storage: Storage) -> None:
    """Makes what was listed listed a lease ago."""
    for path in (Path(storage.url) / REMOVAL_LISTS).iterdir():
        os.utime(path, (time.time() - LEASE_SECONDS,) * 2)


@dataclass(frozen=True)
class TwoRuns:
    """Two audits that were run in one root, and a moment between them."""

    first: Audit
    between: float
    second: Audit


KNOWN: dict[str, TwoRuns] = {}


def two_runs(make_config: ConfigMaker) -> TwoRuns:
    """Run once a session, in a folder beside the inputs'."""
    inputs = make_config().folder
    if inputs not in KNOWN:
        old, new = (make_config(root=f"{inputs}-two-nights", **rows) for rows in (ROWS, OTHER_ROWS))
        first, between = run(old), time.time()
        time.sleep(0.01)
        KNOWN[inputs] = TwoRuns(first, between, run(new))
    return KNOWN[inputs]


class Nights:
    """A root after two runs, the second of them with other rows; `between` is a moment between them."""

    def __init__(self, make_config: ConfigMaker):
        self.old, self.new = make_config(**ROWS), make_config(**OTHER_ROWS)
        known = two_runs(make_config)
        shutil.copytree(known.first.storage.url, self.old.root)
        self.storage, self.between = Storage(self.old.root), known.between
        self.first, self.second = (Audit(self.storage, audit.outcome) for audit in (known.first, known.second))

    def garbage_after(self, keep: float = 1000.0) -> tuple[float, float]:
        """A span to keep, and a moment at which it reaches back to between the runs."""
        return keep, self.between + keep
