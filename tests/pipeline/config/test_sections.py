"""Types that several sections share: places, and mappings of a default kind."""

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
    "place",
    [
        "s3://AKIAKEY:se/cr+et@bucket/zoo",
        "https://user:hunter2@host/x",
        "https://host/x?X-Amz-Signature=hunter2",
        "s3://k:hunter2/b",
    ],
)
@pytest.mark.parametrize("where", ["root", "weights", "architecture", "huggingface", "trusted", "audited"])
def test_a_url_with_credentials_is_refused_without_repeating_them(where: str, place: str) -> None:
    raw: Raw = {**MINIMAL, "models": [dict(MODEL)]}
    target = (
        raw
        if where == "root"
        else raw["models"][0]
        if where in ("weights", "architecture", "huggingface")
        else dict(MINIMAL["data"])
    )  # type: ignore[index,arg-type,call-overload]
    target[where] = place  # type: ignore[index,call-overload]
    if where in ("trusted", "audited"):
        raw["data"] = target
    with pytest.raises(ConfigError, match="this URL carries credentials, and URLs are recorded in runs") as caught:
        AuditConfig.parse(raw)
    shown = f"{caught.value} {caught.value.__cause__}"
    assert [secret for secret in ("hunter2", "se/cr+et", "AKIAKEY") if secret in shown] == []


@pytest.mark.parametrize(
    "place",
    [
        "s3://bucket/a@b:c/d",
        "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/zoo/x",
        "sftp://user@host:22/x",
        "/a:b@c/d",
        "x?sig=*.parquet",
    ],
)
def test_a_place_that_only_looks_like_it_is_taken(place: str) -> None:
    assert AuditConfig.parse({**MINIMAL, "data": {"trusted": place, "audited": "a"}}).models[0].data.trusted == (place,)
