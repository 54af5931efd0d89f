"""Fixtures: the plan of the demo's model, made once a session; none of its tasks has run."""

from pathlib import Path

import pytest

from pipeline.config.audit_config import AuditConfig
from pipeline.planning.from_models import plan_audit
from pipeline.planning.plan import AuditPlan, ModelPlan


@pytest.fixture(scope="session")
def audit_plan(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> AuditPlan:
    """A plan of 500 trusted and 492 audited digits, 128 rows a task, whose root does not exist."""
    data = {
        "trusted": "trusted.parquet",
        "audited": "audited.parquet",
        "preprocess": {"mean": [0.3, 0.3, 0.3], "std": [0.35, 0.35, 0.35], "size": 8},
    }
    model = {"name": "digits", "architecture": "pipeline.demo.network:digit_cnn", "weights": "digits.safetensors"}
    config = {
        "root": str(tmp_path_factory.mktemp("plan") / "root"),
        "task": "classification",
        "models": [model],
        "data": data,
        "run": {"rows_per_task": 128, "batch_size": 64},
    }
    return plan_audit(AuditConfig.parse(config, str(digits)))


@pytest.fixture(scope="session")
def plan(audit_plan: AuditPlan) -> ModelPlan:
    """The plan of the only model."""
    return audit_plan.models[0]
