"""Documents handed to a command and to a URL: what arrives, and what is reported when they are not delivered."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from infra.deliveries import hand_to_command, post, shown
from infra.errors import NotDelivered
from tests.infra.wires import answering, serving, silent
from tests.services import free_port

COPY = "import os, sys; open('copy', 'wb').write(sys.stdin.buffer.read() + os.environ['MODEL'].encode())"
LATE = "import time; time.sleep(1); open('late', 'w')"
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {LATE!r}])"


def run(folder: Path, program: str, seconds: float = 60) -> None:
    """Hand a document to a Python program."""
    hand_to_command([sys.executable, "-c", program], str(folder), b"document ", {"MODEL": "digits"}, seconds)


def test_a_command_reads_the_document_in_its_folder_with_its_variables(tmp_path: Path) -> None:
    run(tmp_path, COPY)
    assert (tmp_path / "copy").read_bytes() == b"document digits"


def test_a_command_that_fails_is_reported_with_its_status_and_last_output(tmp_path: Path) -> None:
    with pytest.raises(NotDelivered) as caught:
        run(tmp_path, "import sys; print('x' * 400); print('no\\n  route', file=sys.stderr); sys.exit(7)")
    message = str(caught.value)
    assert message.startswith(f"{sys.executable} ended with 7, saying: xxx")
    assert message.endswith("x no route")
    assert len(message.partition("saying: ")[2]) <= 300


def test_a_command_that_fails_silently_is_reported_with_its_status(tmp_path: Path) -> None:
    with pytest.raises(NotDelivered, match=r"ended with 3$"):
        run(tmp_path, "raise SystemExit(3)")


def test_a_command_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    with pytest.raises(NotDelivered, match=r"did not end within 0\.5 s, and was killed$"):
        run(tmp_path, CHILD, seconds=0.5)
    time.sleep(1.5)
    assert not (tmp_path / "late").exists()


def test_a_command_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    with pytest.raises(NotDelivered, match=r"^/no/such/program cannot be started \(.*No such file"):
        hand_to_command(["/no/such/program"], str(tmp_path), b"", {}, 5)


class Received(BaseHTTPRequestHandler):
    """Keeps what was posted."""

    posts: list[tuple[str, str | None, str | None, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.posts.append((self.path, self.headers["Content-Type"], self.headers["Authorization"], body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextmanager
def receiver() -> Iterator[tuple[str, list[tuple[str, str | None, str | None, bytes]]]]:
    """An endpoint that accepts posts, and what it received."""
    handler = type("Handler", (Received,), {"posts": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server, serving(server):
        yield f"http://127.0.0.1:{server.server_address[1]}", handler.posts


def test_a_post_arrives_with_its_type_and_authorization() -> None:
    with receiver() as (endpoint, posts):
        post(f"{endpoint}/secret-path", b'{"verdict": 1}', "Bearer abc", 10)
        post(endpoint, b"{}", None, 10)
    assert posts == [
        ("/secret-path", "application/json", "Bearer abc", b'{"verdict": 1}'),
        ("/", "application/json", None, b"{}"),
    ]


@pytest.mark.parametrize("status", [301, 302, 400, 500])
def test_an_answer_that_is_not_success_is_reported_and_no_redirection_is_followed(status: int) -> None:
    with (
        answering(status, b"") as endpoint,
        pytest.raises(NotDelivered, match=rf"^http://127\.0\.0\.1 answered {status}$"),
    ):
        post(f"{endpoint}/secret-path", b"{}", None, 10)


def test_an_endpoint_that_is_not_there_or_never_answers_is_reported() -> None:
    with pytest.raises(NotDelivered, match=r"^http://127\.0\.0\.1 cannot be reached \(.*refused"):
        post(f"http://127.0.0.1:{free_port()}/secret-path", b"{}", None, 10)
    with silent() as endpoint, pytest.raises(NotDelivered, match=r"^http://127\.0\.0\.1 did not answer within 0\.3 s$"):
        post(f"{endpoint}/secret-path", b"{}", None, 0.3)


def test_a_shown_url_has_neither_path_nor_user() -> None:
    assert shown("https://user:pass@hooks.example.org:8443/T0/secret?x=1") == "https://hooks.example.org"
    assert shown("http://[broken") == "the URL"
