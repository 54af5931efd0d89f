"""How requests to S3 are repeated: each may be, within bounds of number and time, except when refused for good."""

import os
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from infra.errors import AlreadyExists, Missing
from infra.storage.s3 import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, PART_BYTES, TRIES, wait_seconds
from infra.storage.storage import Storage
from tests.infra.asks import ASKS, complaint
from tests.infra.relays import FAULTS, Exchange, FirstTimes, Mix, Plan, lose_answer, pass_on, refuse, relayed
from tests.infra.wires import serving
from tests.services import BUCKET, Service, User, speak_to

QUICK = [kind for kind in FAULTS if kind != "stall"]

Behind = Callable[[Plan], Storage]


@pytest.fixture
def behind(s3: Storage, service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Behind]:
    """The storage behind a relay with a plan."""
    with ExitStack() as relays:

        def storage(plan: Plan) -> Storage:
            speak_to(relays.enter_context(relayed(service.port, plan)), service.owner, monkeypatch)
            return Storage(s3.url)

        yield storage


class TestEveryRequestMayBeRepeated:
    """Whatever happens to the first request, the store's state and the answers are those of a single one."""

    @pytest.mark.parametrize("kind", QUICK)
    def test_whatever_is_asked(self, behind: Behind, s3: Storage, tmp_path: Path, kind: str) -> None:
        large = os.urandom(1 << 20) * (2 * PART_BYTES // (1 << 20))
        (tmp_path / "local").write_bytes(large)
        plan = FirstTimes(kind)
        storage = behind(plan)
        storage.refuse_without_exclusive_create()
        storage.write("written", b"1")
        storage.create("created", b"2")
        storage.upload("uploaded", tmp_path / "local")
        storage.publish("uploaded", "published")
        with storage.open("published") as file:
            file.seek(PART_BYTES - 3)
            assert file.read(6) == large[PART_BYTES - 3 : PART_BYTES + 3]
        storage.write("removed", b"3")
        storage.remove("removed")
        assert storage.list("") == sorted(storage.walk("")) == ["created", "published", "uploaded", "written"]
        assert (storage.exists("written"), storage.exists("removed")) == (True, False)
        with pytest.raises(Missing):
            storage.read("removed")
        assert [s3.read(name) for name in ("written", "created", "uploaded", "published")] == [b"1", b"2", large, large]
        assert {method for method, _ in plan.met} == {"GET", "HEAD", "PUT", "POST", "DELETE"}

    def test_a_create_that_lost_stays_lost(self, behind: Behind, s3: Storage) -> None:
        s3.create("created", b"another's")
        storage = behind(FirstTimes("lost answer"))
        with pytest.raises(AlreadyExists):
            storage.create("created", b"mine")
        with pytest.raises(Missing):
            storage.read("never there")

    def test_an_upload_is_aborted_though_the_answer_to_that_is_lost(
        self, behind: Behind, service: Service, s3: Storage, tmp_path: Path
    ) -> None:
        """The error reports why it was aborted."""
        (tmp_path / "local").write_bytes(bytes(2 * PART_BYTES))
        deletes = 0

        def plan(exchange: Exchange) -> None:
            nonlocal deletes
            if exchange.command == "POST" and "uploadId=" in exchange.path:
                return refuse("400 Bad Request", "InvalidPart")(exchange)
            deletes += exchange.command == "DELETE"
            return (lose_answer if exchange.command == "DELETE" and deletes == 1 else pass_on)(exchange)

        storage = behind(plan)
        assert "answered InvalidPart to complete_multipart_upload" in complaint(
            lambda: storage.upload("uploaded", tmp_path / "local")
        )
        assert deletes == 2
        folder = s3.full("").partition("/")[2]
        assert "Uploads" not in service.client().list_multipart_uploads(Bucket=BUCKET, Prefix=folder)


@pytest.mark.usefixtures("on_moto")
class TestBounds:
    """How often and for how long requests are repeated."""

    def asked(self, plan: Mix, monkeypatch: pytest.MonkeyPatch, moto: Service, ask: str, **environment: str) -> str:
        """The message of the error of a request through a relay with this plan."""
        with relayed(moto.port, plan) as endpoint:
            speak_to(endpoint, moto.owner, monkeypatch)
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            return complaint(lambda: ASKS[ask](Storage(f"s3://{BUCKET}/root")))

    def test_a_store_that_is_always_busy_is_asked_ten_times(
        self, moto: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = Mix(1.0, kinds=["slow down"])
        assert "is overloaded or failing (SlowDown, after several tries)" in self.asked(
            plan, monkeypatch, moto, "create"
        )
        assert plan.requests == {"PUT": TRIES}

    def test_patience_ends_before_the_tries_do(self, moto: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a store that never answers, time runs out first."""
        monkeypatch.setattr("infra.storage.s3.ANSWER_SECONDS", 0.5)
        monkeypatch.setattr("infra.storage.s3.PATIENCE_SECONDS", 2)
        plan = Mix(1.0, kinds=["stall"], stalls=100)
        assert "does not answer in time; tried several times" in self.asked(plan, monkeypatch, moto, "read")
        assert 1 < plan.requests["GET"] <= 5

    @pytest.mark.parametrize("ask", ["read", "create", "list"])
    def test_what_is_refused_for_good_is_asked_once(
        self, moto: Service, monkeypatch: pytest.MonkeyPatch, ask: str
    ) -> None:
        for status, code in (
            ("403 Forbidden", "AccessDenied"),
            ("404 Not Found", "NoSuchBucket"),
            ("501 Not Implemented", "NotImplemented"),
        ):
            monkeypatch.setitem(FAULTS, "refusal", refuse(status, code))
            plan = Mix(1.0, kinds=["refusal"])
            self.asked(plan, monkeypatch, moto, ask)
            assert plan.requests.total() == 1

    @pytest.mark.parametrize("attempts", [1, 3])
    def test_the_environment_may_say_how_often(
        self, moto: Service, monkeypatch: pytest.MonkeyPatch, attempts: int
    ) -> None:
        """aiohttp itself replaces each connection that is reset once."""
        for kind, most in (("slow down", attempts), ("reset", 2 * attempts)):
            plan = Mix(1.0, kinds=[kind])
            self.asked(plan, monkeypatch, moto, "read", AWS_MAX_ATTEMPTS=str(attempts), AWS_RETRY_MODE="standard")
            assert attempts <= plan.requests["GET"] <= most

    @pytest.mark.parametrize(
        ("status", "code"),
        [("429 Too Many Requests", "TooManyRequests"), ("400 Bad Request", "RequestTimeout"), ("507 Full", "Full")],
    )
    def test_other_ways_to_say_later_are_understood(
        self, moto: Service, monkeypatch: pytest.MonkeyPatch, status: str, code: str
    ) -> None:
        monkeypatch.setattr("infra.storage.s3.TRIES", 2)
        monkeypatch.setitem(FAULTS, "refusal", refuse(status, code))
        plan = Mix(1.0, kinds=["refusal"])
        self.asked(plan, monkeypatch, moto, "read")
        assert plan.requests == {"GET": 2}

    @pytest.mark.parametrize("tried", range(1, TRIES))
    def test_waits_grow_to_a_bound_and_are_spread_below_it(self, tried: int) -> None:
        bound = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (tried - 1))
        waits = [wait_seconds(tried) for _ in range(400)]
        assert all(0 <= wait <= bound for wait in waits)
        assert min(waits) < bound / 4 and max(waits) > bound * 3 / 4


def test_a_certificate_that_is_not_trusted_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    handshakes = 0

    class Server(HTTPServer):
        def get_request(self) -> tuple[ssl.SSLSocket, object]:
            nonlocal handshakes
            handshakes += 1
            connection, address = super().get_request()
            return context.wrap_socket(connection, server_side=True), address

    with Server(("127.0.0.1", 0), BaseHTTPRequestHandler) as server, serving(server):
        speak_to(f"https://127.0.0.1:{server.server_address[1]}", User("stranger", "stranger"), monkeypatch)
        message = complaint(lambda: Storage(f"s3://{BUCKET}/root").read("name"))
    assert "no secure connection to https://127.0.0.1:" in message
    assert handshakes == 1
