"""Loading of a planned model in a worker; a model that is not the one that was planned is refused."""

from torch import nn

from pipeline.config.audit_config import AuditConfig
from pipeline.errors import StageError
from pipeline.models.load import load_model
from pipeline.planning.plan import ModelPlan


def load_planned(config: AuditConfig, plan: ModelPlan) -> nn.Module:
    """Load the model that was planned.

    Raises:
        StageError: its weights or architecture have changed since.
    """
    loaded = load_model(config, plan.config, plan.source)
    if loaded.digest != plan.digest:
        raise StageError("its weights or architecture changed since the plan was made; run again")
    return loaded.module
