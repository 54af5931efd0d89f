"""`on_verdict`: a command or a URL that is told of each model's verdict, once a run has published. What fails here fails no audit.

What is secret stands in the environment, not in the config, which runs record: MAD_ALERT_AUTHORIZATION is sent as a header, and `url:
environment` takes the whole URL from MAD_ALERT_URL.
"""

import json
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, model_validator

from infra.deliveries import hand_to_command, post
from infra.errors import NotDelivered
from infra.events import Listener, Notice
from pipeline.sections import Place, Section
from pipeline.verdicts import VERDICTS, VerdictValue

FORMAT = 1
TRIES, TRY_SECONDS, FIRST_WAIT_SECONDS = 3, 10.0, 1.0
PATIENCE_SECONDS = 120.0
ENVIRONMENT, URL_VARIABLE, AUTHORIZATION_VARIABLE = "environment", "MAD_ALERT_URL", "MAD_ALERT_AUTHORIZATION"


def _words(value: object) -> object:
    """A command as one string, cut as a shell would."""
    return shlex.split(value) if isinstance(value, str) else value


def _web(url: str) -> str:
    if url != ENVIRONMENT and not _is_web(url):
        raise ValueError(f"must begin with http:// or https:// and name a host, or be {ENVIRONMENT}, which takes {URL_VARIABLE}")
    return url


def _is_web(url: str) -> bool:
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


def tell(hook: OnVerdict, folder: str, root: str, summaries: Mapping[str, Mapping[str, JsonValue]], listener: Listener) -> None:
    """Tells of each model's verdict, one after the other, within PATIENCE_SECONDS and one more try; what fails becomes a notice.

    Args:
        hook: who is told, and of what.
        folder: where a command runs.
        root: the root's URL.
        summaries: by model, of the run that published.
        listener: hears what could not be delivered.
    """
    latest = time.monotonic() + PATIENCE_SECONDS
    documents = list(_documents(hook, root, summaries))
    for number, document in enumerate(documents):
        failure = _deliver(hook, folder, document, latest)
        if failure:
            listener(Notice(f"on_verdict: the verdict on model {document['model']} was not delivered: {failure}; the audit is complete all the same"))
        if time.monotonic() > latest and number + 1 < len(documents):
            left = ", ".join(str(document["model"]) for document in documents[number + 1 :])
            listener(Notice(f"on_verdict: given up after {PATIENCE_SECONDS:g} s; not told of: {left}"))
            return


def _documents(hook: OnVerdict, root: str, summaries: Mapping[str, Mapping[str, JsonValue]]) -> Iterator[dict[str, JsonValue]]:
    for name, summary in summaries.items():
        verdict = summary["verdict"]
        if isinstance(verdict, dict) and verdict.get("value") in hook.verdicts:
            told = {key: summary[key] for key in ("run_id", "verdict", "counts", "same_as")}
            yield {"format": FORMAT, "root": root, "model": name, **told}


def _deliver(hook: OnVerdict, folder: str, document: Mapping[str, JsonValue], latest: float) -> str:
    """Tries a few times, waiting longer from try to try; returns why the last one failed, or ""."""
    for tried in range(1, TRIES + 1):
        try:
            _try(hook, folder, document)
        except NotDelivered as error:
            wait = FIRST_WAIT_SECONDS * 2 ** (tried - 1)
            if tried == TRIES or time.monotonic() + wait > latest:
                return f"{error} (tried {tried} times)"
            time.sleep(wait)
        else:
            return ""
    raise AssertionError("the last try returns")


def _try(hook: OnVerdict, folder: str, document: Mapping[str, JsonValue]) -> None:
    data, verdict = json.dumps(document, indent=1, allow_nan=False).encode(), document["verdict"]
    if hook.command is not None:
        value = str(verdict["value"]) if isinstance(verdict, dict) else ""
        said = {"MAD_RUN_ID": document["run_id"], "MAD_MODEL": document["model"], "MAD_VERDICT": value, "MAD_ROOT": document["root"]}
        return hand_to_command(hook.command, folder, data, {name: str(text) for name, text in said.items()}, TRY_SECONDS)
    url = os.environ.get(URL_VARIABLE, "") if hook.url == ENVIRONMENT else str(hook.url)
    if not _is_web(url):
        raise NotDelivered(f"the environment has no http or https URL in {URL_VARIABLE}")
    return post(url, data, os.environ.get(AUTHORIZATION_VARIABLE), TRY_SECONDS)
