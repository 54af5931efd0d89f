"""What a run refuses before it writes anything, its deadline, and what it reports over waves."""

from pathlib import Path

import pytest

from infra.events import Event, Notice, StageEnded
from pipeline.errors import ConfigError
from pipeline.planning.from_models import plan_audit
from pipeline.run import Deadline, StageTotals, run_audit, run_audit_until
from tests.conftest import ConfigMaker


def test_a_stage_or_an_executor_that_does_not_exist_is_refused(make_config: ConfigMaker, tmp_path: Path) -> None:
    plan = plan_audit(make_config())
    with pytest.raises(ConfigError, match="no stage 'score'; stages: gradients, curvature, scoring, reporting"):
        run_audit(plan, until="score")
    for run in (lambda: run_audit(plan, "threads"), lambda: run_audit_until(plan, lambda: True, "threads")):
        with pytest.raises(ConfigError, match="executor 'threads' is not available"):
            run()
    assert not (tmp_path / "root").exists()


def test_a_deadline_passes_when_its_seconds_have() -> None:
    assert Deadline(0).passed()
    assert not Deadline(3600).passed()


def test_stages_end_once_with_the_sum_over_waves() -> None:
    heard = list[Event]()
    totals = StageTotals(heard.append)
    for event in (
        StageEnded("gradients", 1.5),
        Notice("one"),
        StageEnded("scoring", 1.0),
        StageEnded("gradients", 2.0),
    ):
        totals(event)
    assert heard == [Notice("one")]
    totals.notify()
    assert heard[1:] == [StageEnded("gradients", 3.5), StageEnded("scoring", 1.0)]


def test_nothing_is_begun_after_the_deadline(make_config: ConfigMaker) -> None:
    heard = list[Event]()
    audit = run_audit_until(plan_audit(make_config()), lambda: True, listener=heard.append)
    assert audit.outcome is not None and list(audit.outcome.unreached) == ["digits"]
    assert not any(isinstance(event, StageEnded) for event in heard)
