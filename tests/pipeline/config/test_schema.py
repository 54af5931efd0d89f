"""One model of a config: its name, and what its sections hold."""

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
from tests.pipeline.config.configs import CHAT, MINIMAL, MODEL, at, complaint, parse


def test_names_of_models_are_plain_and_long_enough() -> None:
    names = ["a", "Z9", "0", "a.b-c_d", "x" * 100]
    config = AuditConfig.parse({**MINIMAL, "models": [{**MODEL, "name": name} for name in names]})
    assert [model.name for model in config.models] == names


NAMES = [
    "net\n",
    "net\r\n",
    "\nnet",
    "a\0",
    "a\u0661",
    "a/b",
    "a\\b",
    "..",
    ".",
    ".net",
    "-net",
    "a b",
    "a:b",
    "a*",
    "~",
    "",
    "x" * 101,
    "é",
    "a\u202eb",
    "C:",
]


@pytest.mark.parametrize("name", [*NAMES, "runs", "RUNS", "Report", "mad.json", "MAD.JSON", "index", "Index"])
def test_a_model_is_not_named(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AuditConfig.parse({**MINIMAL, "models": [{**MODEL, "name": name}]})
    assert str(caught.value).isprintable()
