"""The section `on_verdict`: commands, URLs, and what is neither."""

import pytest
from pydantic import JsonValue

from pipeline.config.audit_config import AuditConfig
from pipeline.config.on_verdict import is_web, split_command
from pipeline.errors import ConfigError
from tests.pipeline.config.configs import MINIMAL


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


def test_a_command_is_cut_as_a_shell_would() -> None:
    assert split_command("notify 'a b' c") == ["notify", "a b", "c"]
    assert split_command(["notify", "a b"]) == ["notify", "a b"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://host/x", True),
        ("http://[::1]:80", True),
        ("ftp://host", False),
        ("https://", False),
        ("http://[", False),
    ],
)
def test_a_url_of_the_web_names_a_host(url: str, expected: bool) -> None:
    assert is_web(url) is expected
