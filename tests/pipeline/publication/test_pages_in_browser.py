"""Pages in a real browser: whatever data says, nothing runs and nothing is fetched. Skipped without Chromium."""

import shutil
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pipeline.publication.pages import render
from tests.pipeline.publication.test_pages import summary, typed, with_strings
from tests.pipeline.publication.test_pages_of_history import hostile as hostile_past

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


MARK = "data-owned"


RUN = f"document.documentElement.setAttribute('{MARK}',1)"


PAYLOADS = (
    f"<script>{RUN}</script>",
    f'"><img src=x onerror="{RUN}">',
    f"'><svg onload={RUN}>",
    f"</title></style></svg><script>{RUN}</script>",
    f'<iframe srcdoc="<script>parent.{RUN}</script>">',
    f"javascript:{RUN}",
    "{{ cycler.__init__.__globals__.os.getpid() }}{% include '/etc/passwd' %}",
    f"<base href=//evil.test><meta http-equiv=refresh content='0;url=data:text/html,<script>{RUN}</script>'>",
    f"<details open ontoggle={RUN}><input autofocus onfocus={RUN}>",
)


HOSTILE = "".join(PAYLOADS)


needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")


def opened(page: Path, profile: Path) -> str:
    """The document that a browser makes of a page, after all that could run in it has."""
    assert BROWSER is not None
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--virtual-time-budget=3000",
        f"--user-data-dir={profile}",
    ]
    ended = subprocess.run(
        [BROWSER, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    return ended.stdout


def tag(document: str) -> str:
    """The document's first tag, which a script would have marked."""
    return document[document.index("<html") :].partition(">")[0]


@needs_browser
@pytest.mark.parametrize("page", ["index", "model"])
def test_nothing_that_data_says_runs(page: str, tmp_path: Path) -> None:
    hostile = with_strings(summary(), lambda text: HOSTILE + text)
    assert isinstance(hostile, dict)
    name = str(hostile["model"])
    pages = render(
        [typed(hostile)],
        {name: {f"{HOSTILE}audited.parquet#17": HOSTILE}},
        {f"{HOSTILE}other": HOSTILE},
        hostile_past(HOSTILE, name),
    )
    (tmp_path / "page.html").write_text(pages["index" if page == "index" else str(hostile["model"])])
    document = opened(tmp_path / "page.html", tmp_path / "profile")
    assert MARK not in tag(document)
    assert "onload=" in document, "the payload is there, as text"


@needs_browser
def test_the_payloads_would_run_if_they_were_not_escaped(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(f"<!doctype html><html><body>{PAYLOADS[0]}</body></html>")
    assert MARK in tag(opened(tmp_path / "page.html", tmp_path / "profile"))


class _Counting(BaseHTTPRequestHandler):
    """Counts who asks."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@needs_browser
def test_what_slipped_through_the_escaping_would_neither_run_nor_fetch(tmp_path: Path) -> None:
    """The page's own policy as a second defence: scripts, foreign pictures and frames stand where a value would."""
    asked: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Counting", (_Counting,), {"asked": asked})) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            elsewhere = f"http://127.0.0.1:{server.server_port}"
            slipped = HOSTILE.replace("//evil.test", elsewhere) + "".join(
                f"<{element} {attribute}='{elsewhere}/{element}'></{element}>"
                for element, attribute in (("img", "src"), ("script", "src"), ("iframe", "src"))
            )
            page = render([typed(summary())], {})["badnets"]
            assert page.count("<main>") == 1
            (tmp_path / "page.html").write_text(
                page.replace("<main>", f"<main>{slipped}<link rel=stylesheet href={elsewhere}/css>")
            )
            document = opened(tmp_path / "page.html", tmp_path / "profile")
            (tmp_path / "open.html").write_text(f"<!doctype html><html><body><img src='{elsewhere}/img'></body></html>")
            assert asked == []
            opened(tmp_path / "open.html", tmp_path / "profile")
        finally:
            server.shutdown()
    assert MARK not in tag(document)
    assert asked == ["/img"], "without the policy, a picture is fetched"
