"""`on_verdict`: a command or a URL that is told of each model's verdict, once a run has published. What fails here fails no audit.

What is secret stands in the environment, not in the config, which runs record: MAD_ALERT_AUTHORIZATION is sent as a header, and `url:
environment` takes the whole URL from MAD_ALERT_URL.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from infra.deliveries import hand_to_command, post
from infra.errors import NotDelivered
from infra.events import Listener, Notice
from pipeline.config.on_verdict import AUTHORIZATION_VARIABLE, ENVIRONMENT, URL_VARIABLE, OnVerdict, is_web

FORMAT = 1


TRIES, TRY_SECONDS, FIRST_WAIT_SECONDS = 3, 10.0, 1.0


PATIENCE_SECONDS = 120.0


def tell(
    hook: OnVerdict, folder: str, root: str, summaries: Mapping[str, Mapping[str, JsonValue]], listener: Listener
) -> None:
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
            listener(
                Notice(
                    f"on_verdict: the verdict on model {document['model']} was not delivered: {failure}; the audit is complete all the same"
                )
            )
        if time.monotonic() > latest and number + 1 < len(documents):
            left = ", ".join(str(document["model"]) for document in documents[number + 1 :])
            listener(Notice(f"on_verdict: given up after {PATIENCE_SECONDS:g} s; not told of: {left}"))
            return


def _documents(
    hook: OnVerdict, root: str, summaries: Mapping[str, Mapping[str, JsonValue]]
) -> Iterator[dict[str, JsonValue]]:
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
        said = {
            "MAD_RUN_ID": document["run_id"],
            "MAD_MODEL": document["model"],
            "MAD_VERDICT": value,
            "MAD_ROOT": document["root"],
        }
        return hand_to_command(
            hook.command, folder, data, {name: str(text) for name, text in said.items()}, TRY_SECONDS
        )
    url = os.environ.get(URL_VARIABLE, "") if hook.url == ENVIRONMENT else str(hook.url)
    if not is_web(url):
        raise NotDelivered(f"the environment has no http or https URL in {URL_VARIABLE}")
    return post(url, data, os.environ.get(AUTHORIZATION_VARIABLE), TRY_SECONDS)
