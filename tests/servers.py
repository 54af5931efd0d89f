"""Web servers of tests, on loopback."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from infra.storage.files import digest


class _Handler(SimpleHTTPRequestHandler):
    """Serves files whole, with those headers of `told` that tell versions apart."""

    told: tuple[str, ...] = ()

    def send_header(self, keyword: str, value: str) -> None:
        """Leave out what is not told."""
        if keyword not in ("Last-Modified", "ETag") or keyword in self.told:
            super().send_header(keyword, value)

    def end_headers(self) -> None:
        """With the digest of the file as its ETag."""
        path = Path(self.translate_path(self.path))
        if path.is_file():
            self.send_header("ETag", f'"{digest(path.read_bytes())}"')
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def served(folder: Path, *told: str) -> Iterator[str]:
    """The URL of a folder on a web server that tells these headers of a file, besides its size."""

    class Handler(_Handler):
        def __init__(self, *request: object):
            self.told = told
            super().__init__(*request, directory=str(folder))  # type: ignore[arg-type]

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
