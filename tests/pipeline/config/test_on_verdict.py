"""The section `on_verdict`: commands, URLs, and what is neither."""

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


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({}, "on_verdict: give exactly one of command and url"),
        ({"command": "a", "url": "https://b"}, "on_verdict: give exactly one of command and url"),
        ({"url": "ftp://host/x"}, "on_verdict.url: must begin with http:// or https:// and name a host"),
        ({"url": "https://"}, "on_verdict.url: must begin with http:// or https:// and name a host"),
        ("https://user:pa55word@host/x", "this URL carries credentials"),
        ({"command": ["curl", "https://host/?token=pa55word"]}, "this URL carries credentials"),
        ({"command": "a 'b"}, "on_verdict.command: no closing quotation"),
        ({"command": []}, "on_verdict.command: "),
        ({"comand": "a"}, "on_verdict.comand: unknown key; did you mean 'command'?"),
        (
            {"command": "a", "verdicts": ["bad"]},
            "on_verdict.verdicts.0: input should be 'nothing unusual', 'unusual inputs' or 'cannot tell', got 'bad'",
        ),
        (3, "on_verdict: "),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(section: JsonValue, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        AuditConfig.parse({**MINIMAL, "on_verdict": section})
    assert says in str(refused.value)
    assert "pa55word" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("notify --now 'a b'", (("notify", "--now", "a b"), None)), ("https://host/x", (None, "https://host/x"))],
)
def test_a_string_is_a_command_or_a_url(text: str, expected: tuple[object, object]) -> None:
    found = AuditConfig.parse({**MINIMAL, "on_verdict": text}).on_verdict
    assert found is not None and (found.command, found.url) == expected
