"""Faults between a client and a store: connections that break, endpoints that refuse or never answer; real servers."""

import select
import socket
import socketserver
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

CHUNK = 1 << 16


@dataclass
class Fault:
    """What happens to `times` requests that begin with `request`, after the first `after` of them.

    With an `answer`, that is all the client receives, and the store receives nothing. Without one the store does its
    work, and its answer ends after `passed` bytes, together with the connection.
    """

    request: bytes
    passed: int = 0
    times: int = 1
    after: int = 0
    answer: bytes = b""
    seen: int = field(default=0, init=False)
    done: int = field(default=0, init=False)

    def strikes(self, data: bytes) -> bool:
        """Whether it happens to the request that begins with this data."""
        if not data.startswith(self.request):
            return False
        self.seen += 1
        return self.seen > self.after and self.done < self.times


class _Wire(socketserver.BaseRequestHandler):
    """Passes bytes on in both directions until a fault occurs."""

    server: "_Proxy"

    def handle(self) -> None:
        fault, hit, passed = self.server.fault, False, 0
        with socket.create_connection(self.server.store) as store:
            while True:
                readable, _, _ = select.select([self.request, store], [], [], 5)
                if not readable:
                    return
                if self.request in readable:
                    data = self.request.recv(CHUNK)
                    hit = hit or fault.strikes(data)
                    if hit and fault.answer:
                        fault.done += 1
                        self.request.sendall(fault.answer)
                        return
                    store.sendall(data)
                else:
                    data = store.recv(CHUNK)
                    if hit and not data.startswith(b"HTTP/1.1 100"):
                        self.request.sendall(data[: fault.passed - passed])
                        passed += len(data)
                        if passed >= fault.passed:
                            fault.done += 1
                            return
                    else:
                        self.request.sendall(data)
                if not data:
                    return


class _Proxy(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, store: tuple[str, int], fault: Fault):
        super().__init__(("127.0.0.1", 0), _Wire)
        self.store, self.fault = store, fault


@contextmanager
def broken_wire(port: int, fault: Fault) -> Iterator[str]:
    """An endpoint that leads to the store on this port with this fault."""
    with _Proxy(("127.0.0.1", port), fault) as proxy, serving(proxy):
        yield f"http://127.0.0.1:{proxy.server_address[1]}"


def error_document(code: str, message: str = "because") -> bytes:
    """An error document as S3 writes it."""
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


def error_answer(status: str, code: str) -> bytes:
    """A whole HTTP answer with such an error, the last on its connection."""
    document = error_document(code)
    return b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (
        status.encode(),
        len(document),
        document,
    )


@contextmanager
def answering(status: int, document: bytes) -> Iterator[str]:
    """An endpoint that gives every request the same answer."""

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(document)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(document)

        do_HEAD = do_PUT = do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Answer) as server, serving(server):
        yield f"http://127.0.0.1:{server.server_address[1]}"


@contextmanager
def silent() -> Iterator[str]:
    """An endpoint that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    """Serve in a thread while the context lasts."""
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
