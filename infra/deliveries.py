"""Hands documents to a receiver: to a command on its standard input, or to a URL by POST.

Each is tried once and takes a bounded time.
"""

import http.client
import os
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO
from urllib.parse import urlsplit

from infra.errors import NotDelivered

SHOWN_BYTES = 300


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Treats a redirection like any other answer.

    Following it would send the secrets in headers to another host, and turn a POST into a GET.
    """

    def redirect_request(self, *_: object) -> None:
        """Follow none."""


def _scratch_file(content: bytes) -> IO[bytes]:
    """A temporary file that holds some bytes, at its beginning."""
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        file.write(content)
        file.seek(0)
    except OSError as error:
        raise NotDelivered(
            f"no temporary file can be written ({error}); make room, or set TMPDIR to a folder on another disk"
        ) from error
    return file


def hand_to_command(
    command: Sequence[str], folder: str, document: bytes, variables: Mapping[str, str], seconds: float
) -> None:
    """Run a command with a document on its standard input; on timeout, it and its child processes are killed.

    Args:
        command: the program and its arguments; no shell parses them.
        folder: its working directory.
        document: its standard input.
        variables: environment variables to add to those of this process.
        seconds: how long it may take.

    Raises:
        NotDelivered: it cannot be started, took too long, or ended with a status other than 0.
    """
    with _scratch_file(document) as source, _scratch_file(b"") as output:
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own command
                command,
                cwd=folder,
                env={**os.environ, **variables},
                stdin=source,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise NotDelivered(f"{command[0]} cannot be started ({error})") from error
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise NotDelivered(f"{command[0]} did not end within {seconds:g} s, and was killed") from error
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if status:
            output.seek(max(0, output.seek(0, os.SEEK_END) - SHOWN_BYTES))
            last = " ".join(output.read().decode(errors="replace").split())
            raise NotDelivered(f"{command[0]} ended with {status}" + (f", saying: {last}" if last else ""))


def post(url: str, document: bytes, authorization: str | None, seconds: float) -> None:
    """Post a JSON document. Redirections are not followed.

    Args:
        url: http or https.
        document: the body.
        authorization: the value of the Authorization header; None sends none.
        seconds: how long connecting, and each wait for an answer, may take.

    Raises:
        NotDelivered: there is no answer in time, or its status is not 200 to 299. The message shows the host only.
    """
    headers = {"Content-Type": "application/json", "User-Agent": "mad"}
    if authorization:
        headers["Authorization"] = authorization
    place = shown(url)
    try:
        # The config takes http and https only.
        request = urllib.request.Request(url, document, headers, method="POST")  # noqa: S310
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=seconds):
            return
    except urllib.error.HTTPError as error:
        with error:
            raise NotDelivered(f"{place} answered {error.code}") from None
    except urllib.error.URLError as error:
        raise NotDelivered(f"{place} cannot be reached ({error.reason})") from None
    except TimeoutError:
        raise NotDelivered(f"{place} did not answer within {seconds:g} s") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotDelivered(f"{place}: the request failed ({type(error).__name__})") from None


def shown(url: str) -> str:
    """A URL without its path, which is the secret of many services."""
    try:
        return f"{urlsplit(url).scheme}://{urlsplit(url).hostname or ''}"
    except ValueError:
        return "the URL"
