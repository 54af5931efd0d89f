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


def split_command(value: object) -> object:
    """A command given as one string, cut into words as a shell would; anything else as it is."""
    return shlex.split(value) if isinstance(value, str) else value


def check_url(url: str) -> str:
    """The URL, if it is one that can be posted to, or the word for the environment's.

    Raises:
        ValueError: it is neither.
    """
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
    """Notifies a command or a URL of each model's verdict, after publication; exactly one of the two.

    A notification that fails is tried three times, becomes a notice of the run, and fails no audit. As a string instead
    of a mapping, `on_verdict` is a URL if it looks like one, and otherwise a command.
    """

    command: Annotated[tuple[Place, ...] | None, BeforeValidator(split_command), Field(min_length=1)] = None
    """A command as a list of words, or as one string, which is cut as a shell would. It gets the verdict and counts as
    JSON on standard input, and `MAD_RUN_ID`, `MAD_MODEL`, `MAD_VERDICT` and `MAD_ROOT` in its environment."""

    url: Annotated[Place, AfterValidator(check_url)] | None = None
    """An http or https URL that gets the same JSON by POST. `environment` takes the URL from the environment variable
    `MAD_ALERT_URL`. The value of `MAD_ALERT_AUTHORIZATION`, if there is one, is sent as the header `Authorization`."""

    verdicts: Annotated[tuple[VerdictValue, ...], Field(min_length=1)] = VERDICTS
    """Verdicts to notify of; by default all."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "OnVerdict":
        if (self.command is None) == (self.url is None):
            raise ValueError("give exactly one of command and url")
        return self


def section_of(value: object) -> object:
    """The section's mapping from a string, which is a URL or a command; anything else as it is."""
    if not isinstance(value, str):
        return value
    return {"url": value} if value == ENVIRONMENT or ("://" in value and " " not in value) else {"command": value}
