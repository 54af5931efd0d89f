"""`on_verdict`: hands each model's verdict to a command or a URL, once a run has published.

A delivery that fails does not fail the audit. Secrets belong in the environment, not in the config, which runs record:
MAD_ALERT_AUTHORIZATION is sent as a header, and `url: environment` takes the whole URL from MAD_ALERT_URL.
"""

import os
import time
from collections.abc import Iterator, Mapping

from infra.deliveries import hand_to_command, post
from infra.errors import NotDelivered
from infra.events import Listener, Notice
from pipeline.config.on_verdict import AUTHORIZATION_VARIABLE, ENVIRONMENT, URL_VARIABLE, OnVerdict, is_web
from pipeline.root.documents import Document
from pipeline.root.facts import Counts, ModelVerdict
from pipeline.root.summary import Summary

NOTIFICATION_FORMAT = 1

TRIES, TRY_SECONDS, FIRST_WAIT_SECONDS = 3, 10.0, 1.0

PATIENCE_SECONDS = 120.0


class Notification(Document):
    """What a command reads, or a URL gets: the verdict on a model."""

    format: int = NOTIFICATION_FORMAT
    root: str
    model: str
    run_id: str
    verdict: ModelVerdict
    counts: Counts
    same_as: str | None


def notify(hook: OnVerdict, folder: str, root: str, summaries: Mapping[str, Summary], listener: Listener) -> None:
    """Delivers each model's verdict, one after the other; what fails becomes a notice.

    It stops at the first delivery that ends after PATIENCE_SECONDS.

    Args:
        hook: what is notified, and of which verdicts.
        folder: where a command runs.
        root: the root's URL.
        summaries: by model, of the run that published.
        listener: hears what could not be delivered.
    """
    latest = time.monotonic() + PATIENCE_SECONDS
    notifications = list(_notifications(hook, root, summaries))
    for number, notification in enumerate(notifications, 1):
        failure = _deliver(hook, folder, notification, latest)
        if failure:
            what = f"the verdict on model {notification.model} was not delivered: {failure}"
            listener(Notice(f"on_verdict: {what}; the audit is complete all the same"))
        if time.monotonic() > latest and number < len(notifications):
            left = ", ".join(notification.model for notification in notifications[number:])
            listener(Notice(f"on_verdict: stopped after {PATIENCE_SECONDS:g} s; not delivered: {left}"))
            return


def _notifications(hook: OnVerdict, root: str, summaries: Mapping[str, Summary]) -> Iterator[Notification]:
    for name, summary in summaries.items():
        if summary.verdict.value in hook.verdicts:
            yield Notification(
                format=NOTIFICATION_FORMAT,
                root=root,
                model=name,
                run_id=summary.run_id,
                verdict=summary.verdict,
                counts=summary.counts,
                same_as=summary.same_as,
            )


def _deliver(hook: OnVerdict, folder: str, notification: Notification, latest: float) -> str:
    """Tries a few times, waiting longer from try to try; returns why the last one failed, or ""."""
    for tried in range(1, TRIES + 1):
        try:
            _try(hook, folder, notification)
        except NotDelivered as error:
            wait = FIRST_WAIT_SECONDS * 2 ** (tried - 1)
            if tried == TRIES or time.monotonic() + wait > latest:
                return f"{error} (tried {tried} times)"
            time.sleep(wait)
        else:
            return ""
    raise AssertionError("the last try returns")


def _try(hook: OnVerdict, folder: str, notification: Notification) -> None:
    data = notification.encode()
    if hook.command is not None:
        environment = {
            "MAD_RUN_ID": notification.run_id,
            "MAD_MODEL": notification.model,
            "MAD_VERDICT": notification.verdict.value,
            "MAD_ROOT": notification.root,
        }
        return hand_to_command(hook.command, folder, data, environment, TRY_SECONDS)
    url = os.environ.get(URL_VARIABLE, "") if hook.url == ENVIRONMENT else str(hook.url)
    if not is_web(url):
        raise NotDelivered(f"the environment has no http or https URL in {URL_VARIABLE}")
    return post(url, data, os.environ.get(AUTHORIZATION_VARIABLE), TRY_SECONDS)
