"""Files of a Hugging Face hub: the library's own client, asking a server that answers as the hub's interface does."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import fsspec.config
import pytest

from infra.errors import Changed
from infra.storage.files import find
from infra.storage.pins import PinnedInput, confirm, digest_of

URL = "hf://datasets/me/days/day.parquet"


class Hub:
    """A repository with one file, which a test may replace."""

    def __init__(self, data: bytes):
        """With these contents."""
        self.data = data

    def answer(self, path: str) -> bytes:
        """What a request gets."""
        own = path.partition("?")[0]
        if own.endswith("/resolve/main/day.parquet"):
            return self.data
        if "/tree/main" in own:
            oid = hashlib.sha1(self.data, usedforsecurity=False).hexdigest()
            entry = {"type": "file", "oid": oid, "size": len(self.data), "path": "day.parquet"}
            return json.dumps([entry]).encode()
        return json.dumps({"id": "me/days", "sha": "0" * 40, "siblings": []}).encode()


@contextmanager
def hub_of(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that `hf://` leads to."""
    hub = Hub(data)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = hub.answer(self.path)
            if "Range" in self.headers:
                first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
                body = body[int(first) : int(last) + 1]
            self.send_response(206 if "Range" in self.headers else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": f"http://127.0.0.1:{server.server_port}"})
        try:
            yield hub
        finally:
            server.shutdown()


def test_a_file_of_a_hub_is_told_from_another_of_its_size_by_its_blob(monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_of(b"a" * 100, monkeypatch) as hub:
        (file,) = find(URL, URL).files
        assert file.size == 100
        assert file.version == hashlib.sha1(hub.data, usedforsecurity=False).hexdigest()
        assert digest_of(file) == hashlib.sha256(hub.data).hexdigest()
        confirm([file])
        hub.data = b"b" * 100
        assert find(URL, URL).files[0].version != file.version
        with pytest.raises(Changed, match="changed while the audit ran"):
            PinnedInput(file)
        with pytest.raises(Changed, match="changed while the audit ran"):
            confirm([file])
