"""`on_verdict`: commands and URLs that get verdicts, take long, fail, or are missing; the audit is complete anyway."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from pydantic import JsonValue

from infra.events import Event, Notice
from pipeline.config.on_verdict import VERDICTS, OnVerdict
from pipeline.config.sections import Raw
from pipeline.planning.from_models import plan_audit
from pipeline.publication import notify as notifications
from pipeline.publication.notify import notify
from pipeline.root.layout import run_file
from pipeline.root.summary import Summary
from pipeline.run import run_audit
from tests.conftest import ConfigMaker
from tests.jobs.command import mad

UNUSUAL: dict[str, JsonValue] = {
    "run_id": "r1",
    "verdict": {"value": "unusual inputs", "reasons": ["many"]},
    "counts": {"audited": 3, "flagged": 2},
    "same_as": None,
}


NOTHING: dict[str, JsonValue] = {**UNUSUAL, "verdict": {"value": "nothing unusual", "reasons": []}}


ZOO = {"a": UNUSUAL, "b": NOTHING}


SUMMARIES = {
    name: Summary.model_validate({**shown, "model": name, "table": {"bytes": 1, "sha256": "0"}})
    for name, shown in ZOO.items()
}


Posted = tuple[str, dict[str, str], dict[str, JsonValue]]


@dataclass
class Receiver:
    """A server that answers with these codes in turn, the last one from then on, and keeps what it was sent."""

    codes: list[int] = field(default_factory=lambda: [200])
    posted: list[Posted] = field(default_factory=list)
    hangs: threading.Event = field(default_factory=threading.Event)
    url: str = ""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    found.hangs.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.posted.append((self.path, dict(self.headers), body))
            found.hangs.wait(60)
            code = found.codes.pop(0) if len(found.codes) > 1 else found.codes[0]
            self.send_response(code)
            if code == 302:
                self.send_header("Location", f"{found.url}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield found
    finally:
        found.hangs.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits, no proxy, and nothing of this machine's environment."""
    monkeypatch.setattr(notifications, "FIRST_WAIT_SECONDS", 0.01)
    for name in ("MAD_ALERT_AUTHORIZATION", "MAD_ALERT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def notices(raw: JsonValue, folder: Path | str = ".") -> list[str]:
    """The notices that are left by notifying of two models."""
    heard: list[Event] = []
    notify(OnVerdict.model_validate(raw), str(folder), "/a/root", SUMMARIES, heard.append)
    return [event.text for event in heard if isinstance(event, Notice)]


def script(folder: Path, code: str) -> list[str]:
    """A command that runs Python code."""
    (folder / "hook.py").write_text(code)
    return [sys.executable, "hook.py"]


WRITES = """
import json, os, sys
with open(os.environ["MAD_MODEL"] + ".json", "w") as sink:
    json.dump([json.load(sys.stdin), dict(os.environ)], sink)
"""


def test_a_command_reads_each_verdict_and_finds_it_in_its_environment(tmp_path: Path) -> None:
    assert notices({"command": script(tmp_path, WRITES)}, tmp_path) == []
    for name, summary in ZOO.items():
        document, environment = json.loads((tmp_path / f"{name}.json").read_text())
        assert document == {"format": 1, "root": "/a/root", "model": name, **summary}
        said = {name: environment[name] for name in ("MAD_RUN_ID", "MAD_MODEL", "MAD_VERDICT", "MAD_ROOT")}
        assert said == {
            "MAD_RUN_ID": "r1",
            "MAD_MODEL": name,
            "MAD_VERDICT": document["verdict"]["value"],
            "MAD_ROOT": "/a/root",
        }


def test_only_chosen_verdicts_are_delivered(tmp_path: Path) -> None:
    assert notices({"command": script(tmp_path, WRITES), "verdicts": ["unusual inputs"]}, tmp_path) == []
    assert (tmp_path / "a.json").exists() and not (tmp_path / "b.json").exists()


def test_a_command_that_fails_is_tried_three_times_and_quoted(tmp_path: Path) -> None:
    code = "import sys\nopen('tries', 'a').write('x')\nprint('no such\\nchannel')\nsys.exit(7)\n"
    first, second = notices({"command": script(tmp_path, code)}, tmp_path)
    assert (
        "verdict on model a was not delivered" in first
        and "ended with 7, saying: no such channel (tried 3 times)" in first
    )
    assert "model b" in second
    assert (tmp_path / "tries").read_text() == "x" * 6


def test_a_command_that_hangs_is_killed_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "TRY_SECONDS", 1.5)
    monkeypatch.setattr(notifications, "TRIES", 1)
    child = "import time, pathlib; time.sleep(3); pathlib.Path('survived').touch()"
    starts = f"subprocess.Popen([sys.executable, '-c', {child!r}])"
    code = f"import subprocess, sys, time\n{starts}\nopen('started', 'a').write('x')\ntime.sleep(60)\n"
    began = time.monotonic()
    assert all(
        "did not end within 1.5 s, and was killed" in notice
        for notice in notices({"command": script(tmp_path, code)}, tmp_path)
    )
    assert time.monotonic() - began < 40
    time.sleep(3)
    assert (tmp_path / "started").exists() and not (tmp_path / "survived").exists()


def test_a_missing_command_becomes_a_notice(tmp_path: Path) -> None:
    assert "no-such-program cannot be started" in notices({"command": "no-such-program --now"}, tmp_path)[0]


def test_a_url_gets_each_verdict_and_what_the_environment_has_as_authorization(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAD_ALERT_AUTHORIZATION", "Bearer s3cret")
    assert notices({"url": f"{receiver.url}/alerts"}) == []
    assert [(path, headers["Authorization"], headers["Content-Type"]) for path, headers, _ in receiver.posted] == [
        ("/alerts", "Bearer s3cret", "application/json")
    ] * 2
    assert [document for _, _, document in receiver.posted] == [
        {"format": 1, "root": "/a/root", "model": name, **ZOO[name]} for name in "ab"
    ]


def test_a_server_that_fails_twice_gets_it_the_third_time(receiver: Receiver) -> None:
    receiver.codes = [500, 503, 200]
    assert notices({"url": receiver.url, "verdicts": ["unusual inputs"]}) == []
    assert len(receiver.posted) == 3


def test_a_redirection_is_not_followed_and_no_path_is_shown(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.codes = [302]
    monkeypatch.setenv("MAD_ALERT_URL", f"{receiver.url}/secret-path")
    found = notices({"url": "environment", "verdicts": ["unusual inputs"]})
    assert len(found) == 1 and "http://127.0.0.1 answered 302 (tried 3 times)" in found[0]
    assert "secret-path" not in found[0]
    assert [path for path, _, _ in receiver.posted] == ["/secret-path"] * 3


@pytest.mark.parametrize("url", ["", "ftp://somewhere/x", "http://[", "http://127.0.0.1:1/nobody"])
def test_a_url_of_the_environment_that_leads_nowhere_becomes_notices(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAD_ALERT_URL", url)
    assert len(notices({"url": "environment"})) == 2


def test_a_server_that_hangs_is_waited_for_only_so_long(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "TRY_SECONDS", 0.3)
    monkeypatch.setattr(notifications, "PATIENCE_SECONDS", 0.1)
    receiver.hangs.clear()
    first, rest = notices({"url": receiver.url})
    assert "did not answer within 0.3 s (tried 1 times)" in first or "cannot be reached (timed out)" in first
    assert rest == "on_verdict: stopped after 0.1 s; not delivered: b"


def test_an_audit_notifies_and_completes_though_every_delivery_fails(
    make_config: ConfigMaker, receiver: Receiver
) -> None:
    """It enters no key: what was computed without it is reused with it."""
    quiet = run_audit(plan_audit(make_config(estimator={"projection": {"rank": 2}})))
    receiver.codes = [500]
    heard: list[Event] = []
    config = make_config(estimator={"projection": {"rank": 2}}, on_verdict={"url": receiver.url})
    audit = run_audit(plan_audit(config), listener=heard.append)
    assert audit.outcome is not None and audit.outcome.clean and quiet.outcome is not None
    (stages,) = audit.outcome.stages.values()
    assert not any(cost.tasks_run for cost in stages.values())
    assert [document["same_as"] for _, _, document in receiver.posted] == [quiet.outcome.run_id] * 3
    assert any(
        "was not delivered: http://127.0.0.1 answered 500" in event.text for event in heard if isinstance(event, Notice)
    )
    record = json.loads(audit.storage.read(run_file(audit.outcome.run_id)))
    assert record["config"]["on_verdict"] == {"command": None, "url": receiver.url, "verdicts": list(VERDICTS)}


def test_the_command_says_on_stderr_what_was_not_delivered(raw: Raw, digits: Path) -> None:
    config = digits / "alerting.yaml"
    config.write_text(
        yaml.safe_dump({**raw, "estimator": {"projection": {"rank": 2}}, "on_verdict": "no-such-program"})
    )
    ended = mad("run", config, "--output", "json")
    assert ended.code == 0 and list(ended.document["models"]) == ["digits"]  # type: ignore[call-overload]
    assert "on_verdict: the verdict on model digits was not delivered: no-such-program cannot be started" in ended.err
