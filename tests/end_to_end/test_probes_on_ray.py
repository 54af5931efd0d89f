"""Planning on the session's cluster: workers load the models, and the driver holds none."""

import os
from pathlib import Path

import pytest
from pydantic import JsonValue

from infra.storage.storage import Storage
from pipeline.config.audit_config import AuditConfig
from pipeline.planning.from_models import plan_audit
from pipeline.planning.plan import ModelPlan
from pipeline.run import run_audit
from tests.conftest import ConfigMaker

NOTED = """
import os
from pathlib import Path
from pipeline.demo.network import digit_cnn

def build(notes, end=False):
    Path(notes, str(os.getpid())).touch()
    if end:
        os._exit(1)
    return digit_cnn()
"""


def model(name: str, folder: Path, digits: Path, end: bool = False) -> JsonValue:
    return {
        "name": name,
        "architecture": f"{folder}/network.py:build",
        "kwargs": {"notes": str(folder / "notes"), "end": end},
        "weights": str(digits / "digits.safetensors"),
    }


@pytest.fixture
def config(make_config: ConfigMaker, ray_cluster: None, digits: Path, tmp_path: Path) -> AuditConfig:
    """Of a model that notes the processes that load it, and one that ends them."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "network.py").write_text(NOTED)
    models = [model("digits", tmp_path, digits), model("ends", tmp_path, digits, end=True)]
    return make_config(models=models, run={"workers": 1})


def follows(plan: ModelPlan) -> list[object]:
    """What follows from a probe, without what it cost."""
    return [plan.recipe, plan.row_key, plan.digest, plan.source, plan.memory]


def test_workers_load_the_models_of_a_plan_and_the_driver_none(config: AuditConfig, tmp_path: Path) -> None:
    plan = plan_audit(config, executor="ray")
    assert str(os.getpid()) not in os.listdir(tmp_path / "notes")
    assert list(plan.refused) == ["ends"] and "given up after 3 workers were lost with it" in plan.refused["ends"]
    assert Storage(config.root).list("") == []
    run_audit(plan, executor="ray")
    only = config.model_copy(update={"models": config.models[:1]})
    (known,) = plan_audit(only).models
    assert known.known and follows(known) == follows(plan.models[0])
    assert str(os.getpid()) not in os.listdir(tmp_path / "notes")
    (loaded,) = plan_audit(only.model_copy(update={"root": f"{config.root}-other"})).models
    assert follows(loaded) == follows(known)
    assert str(os.getpid()) in os.listdir(tmp_path / "notes")
