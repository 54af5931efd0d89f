"""Types that several sections share: places, and mappings of a default kind."""

import pytest

from pipeline.config.audit_config import AuditConfig
from pipeline.config.estimators import Estimator, LossTrace
from pipeline.config.schema import ModelConfig
from pipeline.config.sections import Raw, Section, sections_in
from pipeline.errors import ConfigError
from tests.pipeline.config.configs import MINIMAL, MODEL


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


@pytest.mark.parametrize("place", ["a\nb", "a\0", "\x7f", ""])
def test_a_place_without_printable_characters_is_refused(place: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.trusted"):
        AuditConfig.parse({**MINIMAL, "data": {"trusted": place, "audited": "a"}})


def test_sections_are_found_within_unions_and_annotations() -> None:
    assert sections_in(ModelConfig.model_fields["estimator"].annotation) == [Estimator, LossTrace]
    assert sections_in(tuple[ModelConfig, ...]) == [ModelConfig]
    assert sections_in(str | None) == []


def described(section: type[Section]) -> dict[str, str | None]:
    """The descriptions of all fields of a section and of those below, by section and field."""
    found = {f"{section.__name__}.{name}": field.description for name, field in section.model_fields.items()}
    for field in section.model_fields.values():
        for below in sections_in(field.annotation):
            assert issubclass(below, Section)
            found |= described(below)
    return found


def test_every_key_has_a_description_of_its_own() -> None:
    texts = described(AuditConfig)
    assert len(texts) > 60
    assert [name for name, text in texts.items() if not text or len(text) < 10 or not text.endswith(".")] == []
