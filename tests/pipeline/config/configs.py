"""Configs to start from, and what becomes of them."""

from collections.abc import Mapping
from hypothesis import given, settings
from hypothesis import strategies as st
from madcore.scoring.coupling import CLASS_SCORES
from pathlib import Path
from pipeline.config.audit_config import AuditConfig
from pipeline.config.audit_config import AuditConfig, merge
from pipeline.config.safe_yaml import DEEPEST, LONGEST_SCALAR, MOST_VALUES, parse_yaml
from pipeline.config.safe_yaml import LARGEST_CONFIG
from pipeline.config.scoring import CLASS_MEANS
from pipeline.errors import ConfigError
from pydantic import BaseModel, JsonValue, ValidationError
from pydantic import JsonValue
from tests.strategies import LAW
import pytest
import subprocess
import sys
import yaml
from pipeline.config.sections import Raw


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
