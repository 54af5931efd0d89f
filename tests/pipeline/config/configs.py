"""Configs to start from, and what becomes of them."""

import pytest
import yaml
from pydantic import BaseModel

from pipeline.config.audit_config import AuditConfig, merge
from pipeline.config.sections import Raw
from pipeline.errors import ConfigError

MODEL: Raw = {"name": "net", "architecture": "net.py:build", "weights": "net.safetensors"}


MINIMAL: Raw = {
    "root": "audits",
    "task": "classification",
    "models": [MODEL],
    "data": {"trusted": "trusted.parquet", "audited": "inputs/*.parquet"},
}


CHAT: Raw = {"name": "chat", "huggingface": "/models/chat", "task": "causal_lm"}


def parse(top: str = "", model: str = "") -> AuditConfig:
    """The minimal config, with YAML merged over its top level and over its model."""
    own: Raw = {**MODEL, **(yaml.safe_load(model) or {})}
    return AuditConfig.parse(merge({**MINIMAL, "models": [own]}, yaml.safe_load(top) or {}), "/configs")


def complaint(top: str = "", model: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        parse(top, model)
    message = str(caught.value)
    assert "\n" not in message
    return message


def at(config: AuditConfig, path: str) -> object:
    """A value of the config's only model, by its dotted path."""
    value: object = config.models[0]
    for part in path.split("."):
        value = getattr(value, part)
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
