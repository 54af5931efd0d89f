"""A relay between clients and an S3 store that parses requests, counts them, and treats each as its plan says.

It is a real server: clients use it as their endpoint, and it forwards their requests unchanged, signatures included.
"""

import random
import select
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

from tests.infra.wires import error_document, serving

STALL_SECONDS = 60
WRITES = ("PUT", "POST", "DELETE")
OF_A_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "expect")
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: closing sends RST instead of FIN


@dataclass(frozen=True)
class Answer:
    """The answer of a store: the head with its empty line, and the body, both as they go over the wire."""

    head: bytes
    body: bytes


class Exchange(BaseHTTPRequestHandler):
    """One connection of a client, and what can be done with its latest request."""

    protocol_version = "HTTP/1.1"
    server: "_Relay"

    def do_GET(self) -> None:
        """Read the whole request and hand it to the plan."""
        self.sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.plan(self)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def ask_store(self) -> Answer:
        """The store's whole answer to the request."""
        store = HTTPConnection("127.0.0.1", self.server.store_port, timeout=STALL_SECONDS)
        store.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in OF_A_CONNECTION:
                store.putheader(name, value)
        store.endheaders(self.sent)
        response = store.getresponse()
        body = response.read()
        store.close()
        headers = [f"{name}: {value}" for name, value in response.getheaders() if name.lower() not in OF_A_CONNECTION]
        if response.getheader("Content-Length") is None and response.status != 204:
            headers.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([f"HTTP/1.1 {response.status} {response.reason}", *headers, "", ""])
        return Answer(head.encode("latin-1"), body)

    def answer(self, answer: Answer) -> None:
        """Send a whole answer to the client, which may be gone."""
        self.send(answer.head + (b"" if self.command == "HEAD" else answer.body))

    def send(self, data: bytes) -> None:
        """Send these bytes to the client, which may be gone."""
        try:
            self.wfile.write(data)
        except OSError:
            self.close_connection = True

    def hang_up(self) -> None:
        """Reset the connection."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.connection.close()

    def wait_for_the_client_to_leave(self) -> None:
        """Wait, at most STALL_SECONDS."""
        select.select([self.connection], [], [], STALL_SECONDS)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


Plan = Callable[[Exchange], None]


def pass_on(exchange: Exchange) -> None:
    """Forward the request and its answer."""
    exchange.answer(exchange.ask_store())


def refuse(status: str, code: str) -> Plan:
    """A plan that answers with an error; the store does not receive the request."""
    document = error_document(code)
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(document)}\r\n\r\n"
    return lambda exchange: exchange.answer(Answer(head.encode(), document))


def reset(exchange: Exchange) -> None:
    """The store does not receive the request, and the connection is reset."""
    exchange.hang_up()


def lose_answer(exchange: Exchange) -> None:
    """The store executes the request, and the client receives no answer."""
    exchange.ask_store()
    exchange.hang_up()


def cut_off(exchange: Exchange) -> None:
    """The store executes the request, and its answer ends halfway: in the body if there is one, or else in the head."""
    answer = exchange.ask_store()
    has_body = exchange.command != "HEAD" and len(answer.body) > 1
    half_body = answer.head + answer.body[: len(answer.body) // 2]
    exchange.send(half_body if has_body else answer.head[: len(answer.head) // 2])
    exchange.close_connection = True


def stall(exchange: Exchange) -> None:
    """The store executes the request, and no answer comes until the client disconnects."""
    exchange.ask_store()
    exchange.wait_for_the_client_to_leave()
    exchange.close_connection = True


FAULTS: dict[str, Plan] = {
    "slow down": refuse("503 Slow Down", "SlowDown"),
    "internal error": refuse("500 Internal Server Error", "InternalError"),
    "reset": reset,
    "lost answer": lose_answer,
    "cut off": cut_off,
    "stall": stall,
}


@dataclass
class Mix:
    """A plan: a share of all requests meets a fault, drawn uniformly from `kinds`.

    At most `stalls` of them are stalls, each of which costs a client its whole patience. `requests` counts the requests
    by method, `faults` the faults by kind.
    """

    share: float
    kinds: Sequence[str] = tuple(FAULTS)
    stalls: int = 1
    seed: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random, self._lock = random.Random(self.seed), Lock()

    def __call__(self, exchange: Exchange) -> None:
        """Apply to a request the fault that was drawn for it, or none."""
        with self._lock:
            self.requests[exchange.command] += 1
            kind = self._drawn()
            self.faults.update([kind] if kind else [])
        (FAULTS[kind] if kind else pass_on)(exchange)

    def _drawn(self) -> str:
        if self._random.random() >= self.share:
            return ""
        left = [kind for kind in self.kinds if kind != "stall" or self.faults[kind] < self.stalls]
        return self._random.choice(left) if left else ""


class FirstTimes:
    """A plan: each request meets this fault the first time. `met` has those that did, as method and path."""

    def __init__(self, kind: str):
        self.kind, self.met, self._lock = kind, set[tuple[str, str]](), Lock()

    def __call__(self, exchange: Exchange) -> None:
        """Apply the fault, or forward the request."""
        with self._lock:
            known = (exchange.command, exchange.path) in self.met
            self.met.add((exchange.command, exchange.path))
        (pass_on if known else FAULTS[self.kind])(exchange)


class _Relay(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, store_port: int, plan: Plan):
        super().__init__(("127.0.0.1", 0), Exchange)
        self.store_port, self.plan = store_port, plan

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect, as killed ones do."""


@contextmanager
def relayed(store_port: int, plan: Plan) -> Iterator[str]:
    """An endpoint that leads to the store on this port, by this plan."""
    with _Relay(store_port, plan) as relay, serving(relay):
        yield f"http://127.0.0.1:{relay.server_address[1]}"
