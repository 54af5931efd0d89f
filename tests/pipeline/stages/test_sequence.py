"""The order of the stages, and what is reported and checked between them."""

from pathlib import Path

import pytest

from infra.events import Event, StageEnded, StageStarted
from infra.execution.contract import Resources
from infra.execution.serial import SerialExecutor
from infra.storage.storage import Storage
from pipeline.planning.plan import AuditPlan
from pipeline.root.logs import STAGES
from pipeline.stages.runner import StageInputs, StepRunner
from pipeline.stages.sequence import STEPS, run_stages


def inputs_of(plan: AuditPlan, root: Path, events: list[Event]) -> StageInputs:
    """What stages of no model are given."""
    return StageInputs(plan.config, Storage(str(root)), StepRunner({}, SerialExecutor(), Resources(), events.append))


def test_every_stage_has_a_step_in_its_order() -> None:
    assert tuple(name for name, _ in STEPS) == STAGES


def test_stages_run_in_their_order_each_checked_after_its_end(audit_plan: AuditPlan, tmp_path: Path) -> None:
    events, checks = list[Event](), list[int]()
    run_stages(inputs_of(audit_plan, tmp_path, events), ("scoring", "gradients"), lambda: checks.append(len(events)))
    started = [event.stage for event in events if isinstance(event, StageStarted)]
    ended = [event.stage for event in events if isinstance(event, StageEnded)]
    assert started == ended == ["gradients", "scoring"]
    assert checks == [2, 4]


def test_a_lost_lock_ends_the_sequence(audit_plan: AuditPlan, tmp_path: Path) -> None:
    def lost() -> None:
        raise RuntimeError("the lock is lost")

    events = list[Event]()
    with pytest.raises(RuntimeError, match="the lock is lost"):
        run_stages(inputs_of(audit_plan, tmp_path, events), STAGES, lost)
    assert {event.stage for event in events if isinstance(event, StageStarted | StageEnded)} == {"gradients"}
