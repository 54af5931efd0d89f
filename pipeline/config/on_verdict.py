"""The section `on_verdict`, and the values that a verdict may have."""

import shlex
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pipeline.config.sections import Place, Section

VerdictValue = Literal["nothing unusual", "unusual inputs", "cannot tell"]


VERDICTS: tuple[VerdictValue, ...] = get_args(VerdictValue)


NOTHING_UNUSUAL, UNUSUAL, CANNOT_TELL = map(str, VERDICTS)


ENVIRONMENT, URL_VARIABLE, AUTHORIZATION_VARIABLE = "environment", "MAD_ALERT_URL", "MAD_ALERT_AUTHORIZATION"


def _words(value: object) -> object:
    """A command as one string, cut as a shell would."""
    return shlex.split(value) if isinstance(value, str) else value


def _web(url: str) -> str:
    if url != ENVIRONMENT and not is_web(url):
        raise ValueError(
            f"must begin with http:// or https:// and name a host, or be {ENVIRONMENT}, which takes {URL_VARIABLE}"
        )
    return url


def is_web(url: str) -> bool:
    """Whether a URL begins with http:// or https:// and names a host."""
    try:
        return urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname)
    except ValueError:  # brackets that do not match
        return False


class OnVerdict(Section):
    """Who is told of verdicts: a command, by its standard input, or a URL, by POST. `verdicts`: of which; all where it is not given."""

    command: Annotated[tuple[Place, ...] | None, BeforeValidator(_words), Field(min_length=1)] = None
    url: Annotated[Place, AfterValidator(_web)] | None = None
    verdicts: Annotated[tuple[VerdictValue, ...], Field(min_length=1)] = VERDICTS

    @model_validator(mode="after")
    def _exactly_one(self) -> "OnVerdict":
        if (self.command is None) == (self.url is None):
            raise ValueError("give exactly one of command and url")
        return self


def section_of(value: object) -> object:
    """A section from a string: a URL, or a command."""
    if not isinstance(value, str):
        return value
    return {"url": value} if value == ENVIRONMENT or ("://" in value and " " not in value) else {"command": value}
