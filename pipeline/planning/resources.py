"""What workers are given, by the settings of a run."""

from infra.execution.choose import EXECUTORS
from infra.execution.contract import Resources
from pipeline.config.audit_config import AuditConfig
from pipeline.errors import ConfigError


def resources_of(config: AuditConfig, executor: str) -> Resources:
    """What a worker of this executor is given, and how many there are.

    Raises:
        ConfigError: no such executor.
    """
    if executor not in EXECUTORS:
        raise ConfigError(f"executor {executor!r} is not available in this version; available: {', '.join(EXECUTORS)}")
    return Resources(config.run.workers, config.run.gpus_per_worker, int(config.run.memory_per_worker))
