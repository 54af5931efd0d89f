"""Loads a planned model in a worker, and refuses one that is not the model that was planned."""

from torch import nn

from pipeline.config.audit_config import AuditConfig
from pipeline.errors import StageError
from pipeline.models.load import load_model
from pipeline.planning.plan import ModelPlan


def load_planned(config: AuditConfig, plan: ModelPlan) -> nn.Module:
    """The model that was planned.

    Raises:
        StageError: it is another one now.
    """
    loaded = load_model(config, plan.config, plan.source)
    if loaded.digest != plan.digest:
        raise StageError(f"model {plan.name}: its weights or architecture changed since the plan was made; run again")
    return loaded.module
