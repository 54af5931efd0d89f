"""What only S3 has: multipart uploads, answers that get lost, credentials and rights, endpoints that do not answer."""

import gc
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from infra.arrays import encode, open_array, read
from infra.commits import CommitLog, Measures
from infra.errors import AlreadyExists, Missing, StorageError
from infra.files import find, open_input, read_input
from infra.s3 import PART_BYTES
from infra.storage import Storage
from tests.infra.stores import S3_KINDS, another_client, fresh_url
from tests.infra.wires import Fault, answering, broken_wire, error_answer, error_document, silent
from tests.services import BUCKET, Service, User, free_port, speak_to

MEASURES = Measures(rows=1, seconds=0, peak_memory_bytes=0)
STRANGER = User("stranger", "stranger")
ASKS: dict[str, Callable[[Storage], object]] = {
    "read": lambda storage: storage.read("name"),
    "open": lambda storage: storage.open("name"),
    "list": lambda storage: storage.list(""),
    "walk": lambda storage: list(storage.walk("")),
    "exists": lambda storage: storage.exists("name"),
    "write": lambda storage: storage.write("name", b"1"),
    "create": lambda storage: storage.create("name", b"1"),
    "probe": lambda storage: storage.refuse_without_exclusive_create(),
    "array": lambda storage: open_array(storage, "name"),
    "find": lambda storage: find("data/*", f"{storage.url}/data/*"),
    "find one": lambda storage: find("data", f"{storage.url}/data"),
}
all_asks = pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())
WRITES = {"write": Storage.write, "create": Storage.create}


@pytest.fixture(params=S3_KINDS)
def service(request: pytest.FixtureRequest) -> Service:
    """An S3 service, which the environment names."""
    found: Service = request.getfixturevalue(f"on_{request.param}")
    return found


@pytest.fixture
def s3(service: Service) -> Storage:
    """An empty root in it."""
    return Storage(fresh_url("s3"))


def complaint(ask: Callable[[], object]) -> str:
    """What an error says; one line that does not speak of botocore."""
    with pytest.raises(StorageError) as caught:
        ask()
    assert not isinstance(caught.value, Missing | AlreadyExists)
    said = str(caught.value)
    assert "\n" not in said and "botocore" not in said and "operation" not in said
    return said


class TestLargeObjects:
    """In parts; but what is created exclusively in one."""

    def parts(self, service: Service, storage: Storage, path: str) -> int:
        """How many parts an object was written in."""
        etag = service.client().head_object(Bucket=BUCKET, Key=storage.full(path).partition("/")[2])["ETag"].strip('"')
        return int(etag.partition("-")[2] or 1)

    def test_uploads_and_writes_of_several_parts(self, service: Service, s3: Storage, tmp_path: Path) -> None:
        data = os.urandom(1 << 20) * (2 * PART_BYTES // (1 << 20)) + b"tail"
        (tmp_path / "local").write_bytes(data)
        s3.upload("uploaded", tmp_path / "local")
        s3.write("written", data)
        for path in ("uploaded", "written"):
            assert self.parts(service, s3, path) == 3
            assert s3.read(path) == data
        s3.publish("uploaded", "published")
        assert s3.read("published") == data

    def test_a_create_is_one_request_and_exclusive_whatever_its_size(self, service: Service, s3: Storage) -> None:
        data = bytes(3 * PART_BYTES)
        s3.create("large", data)
        assert self.parts(service, s3, "large") == 1
        with pytest.raises(AlreadyExists):
            s3.create("large", data + b"1")
        assert s3.read("large") == data

    def test_a_file_is_read_in_ranges(self, s3: Storage) -> None:
        data = os.urandom(1 << 20) * 9
        s3.write("inputs/large", data)
        with open_input(f"{s3.url}/inputs/large") as file:
            for start in (8 << 20, 0, (4 << 20) - 5, (8 << 20) + 1):
                file.seek(start)
                assert file.read(10) == data[start : start + 10]
        assert read_input(f"{s3.url}/inputs/large") == data

    def test_a_file_replaced_while_it_is_read_is_told(self, s3: Storage) -> None:
        s3.write("file", os.urandom(5 << 20))
        with s3.open("file") as file:
            file.read(10)
            s3.write("file", os.urandom(5 << 20))
            file.seek(9 << 19)
            assert "was replaced while it was read; run again" in complaint(lambda: file.read(10))


class TestLostAnswers:
    """The store has done what was asked, and the connection breaks before it says so."""

    @pytest.fixture
    def lossy(self, s3: Storage, service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Fault], Storage]]:
        wires = []

        def break_it(fault: Fault) -> Storage:
            wires.append(broken_wire(service.port, fault))
            speak_to(wires[-1].__enter__(), service.owner, monkeypatch)
            return Storage(s3.url)

        yield break_it
        for wire in wires:
            wire.__exit__(None, None, None)

    @pytest.mark.parametrize("times", [1, 2])
    def test_a_create_is_recognised_as_ones_own(self, lossy: Callable[[Fault], Storage], times: int) -> None:
        fault = Fault(b"PUT ", times=times)
        storage = lossy(fault)
        storage.create("receipt", b"mine")
        assert fault.done == times
        assert storage.read("receipt") == b"mine"
        with pytest.raises(AlreadyExists):
            storage.create("receipt", b"another's")

    def test_another_writers_create_is_not(self, lossy: Callable[[Fault], Storage], s3: Storage) -> None:
        s3.create("receipt", b"another's")
        fault = Fault(b"PUT ")
        with pytest.raises(AlreadyExists):
            lossy(fault).create("receipt", b"mine")
        assert fault.done == 1
        assert s3.read("receipt") == b"another's"

    def test_writes_that_collide_are_tried_again(self, lossy: Callable[[Fault], Storage]) -> None:
        fault = Fault(b"PUT ", times=2, answer=error_answer("409 Conflict", "ConditionalRequestConflict"))
        storage = lossy(fault)
        storage.create("receipt", b"mine")
        assert fault.done == 2
        assert storage.read("receipt") == b"mine"

    def test_a_commit_counts(self, lossy: Callable[[Fault], Storage], s3: Storage) -> None:
        fault = Fault(b"PUT ", times=2)
        receipt = CommitLog(lossy(fault), "stage").commit("000", {"rows": b"1"}, MEASURES)
        assert fault.done == 2
        assert CommitLog(s3, "stage").receipts() == {"000": receipt}

    def test_an_upload_in_parts_is_there(self, lossy: Callable[[Fault], Storage], tmp_path: Path) -> None:
        data = bytes(2 * PART_BYTES)
        (tmp_path / "local").write_bytes(data)
        fault = Fault(b"POST ", times=2)
        storage = lossy(fault)
        storage.upload("table", tmp_path / "local")
        assert fault.done == 2
        assert storage.read("table") == data

    def test_a_body_that_is_cut_off_is_read_again(self, lossy: Callable[[Fault], Storage], s3: Storage) -> None:
        data = os.urandom(3 << 20)
        s3.write("file", data)
        fault = Fault(b"GET ", passed=1 << 20, times=2)
        assert lossy(fault).read("file") == data
        assert fault.done == 2

    def test_a_body_that_is_always_cut_off_is_told(self, lossy: Callable[[Fault], Storage], s3: Storage) -> None:
        s3.write("file", os.urandom(3 << 20))
        storage = lossy(Fault(b"GET ", passed=1 << 20, times=100))
        assert "breaks off in the middle of its answers; tried several times" in complaint(lambda: storage.read("file"))

    def test_what_answers_is_no_store(self, lossy: Callable[[Fault], Storage], monkeypatch: pytest.MonkeyPatch) -> None:
        url = lossy(Fault(b"GET ", times=1000, answer=b"SSH-2.0-OpenSSH_9.2\r\n\r\n")).url
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        assert "does not answer as an S3 store does" in complaint(lambda: Storage(url).read("file"))


class TestRefusals:
    """Each names the place, the cause and the remedy, whatever was asked."""

    @all_asks
    def test_a_missing_bucket_is_to_be_made_first(self, service: Service, ask: Callable[[Storage], object]) -> None:
        said = complaint(lambda: ask(Storage("s3://not-made-yet/root")))
        assert said.startswith("s3://not-made-yet/")
        assert f"there is no bucket 'not-made-yet' at {service.endpoint}; make it first (`aws s3 mb s3://not-made-yet`)" in said

    def test_no_bucket_is_named(self) -> None:
        for url in ("s3://", "s3:///", "s3a://"):
            assert "names no bucket; write s3://BUCKET/FOLDER" in complaint(lambda url=url: Storage(url))

    @pytest.mark.s3
    @pytest.mark.parametrize("secret", ["stranger", "owner-secret"])
    @all_asks
    def test_wrong_credentials_name_the_variables(self, on_s3: Service, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Storage], object], secret: str) -> None:
        key = "stranger" if secret != "stranger" else on_s3.owner.key
        speak_to(on_s3.endpoint, User(key, secret), monkeypatch)
        said = complaint(lambda: ask(Storage(f"s3://{BUCKET}/root")))
        assert said.startswith(f"s3://{BUCKET}/root")
        assert f"{on_s3.endpoint} does not accept these credentials" in said
        assert "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or AWS_PROFILE" in said

    @pytest.mark.s3
    @all_asks
    def test_another_users_bucket_is_denied(self, on_s3: Service, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Storage], object]) -> None:
        speak_to(on_s3.endpoint, on_s3.guest, monkeypatch)
        said = complaint(lambda: ask(Storage(f"s3://{BUCKET}/root")))
        assert "these credentials are not allowed to do this (it needs s3:" in said
        assert "ask the bucket's owner for the right" in said

    @pytest.mark.s3
    def test_a_denied_prefix_beside_one_that_is_open(self, on_s3: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        grant(on_s3, "shared", to={"AWS": ["arn:aws:iam:::user/guest"]}, rights=["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], below="open")
        speak_to(on_s3.endpoint, on_s3.guest, monkeypatch)
        Storage("s3://shared/open").refuse_without_exclusive_create()
        for ask in WRITES.values():
            said = complaint(lambda ask=ask: ask(Storage("s3://shared/closed"), "name", b"1"))
            assert said.startswith("s3://shared/closed/name: these credentials are not allowed to do this (it needs s3:PutObject)")

    @pytest.mark.s3
    def test_a_bucket_that_may_be_read_and_not_written(self, on_s3: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        grant(on_s3, "readable", to={"AWS": ["arn:aws:iam:::user/guest"]}, rights=["s3:GetObject"], below="")
        Storage("s3://readable").write("root/name", b"1")
        speak_to(on_s3.endpoint, on_s3.guest, monkeypatch)
        storage = Storage("s3://readable/root")
        assert storage.read("name") == b"1"
        assert "it needs s3:PutObject" in complaint(storage.refuse_without_exclusive_create)

    def test_nothing_there_is_still_missing(self, s3: Storage) -> None:
        with pytest.raises(Missing, match=f"^{s3.url}/name: no such file$"):
            s3.read("name")


def grant(service: Service, bucket: str, to: object, rights: list[str], below: str) -> None:
    """A bucket of the owner's in which others may list, and have these rights below a folder."""
    service.make_bucket(bucket)
    listing = {"Effect": "Allow", "Principal": to, "Action": ["s3:ListBucket"], "Resource": [f"arn:aws:s3:::{bucket}"]}
    using = {"Effect": "Allow", "Principal": to, "Action": rights, "Resource": [f"arn:aws:s3:::{bucket}/{below}*"]}
    service.client().put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [listing, using]}))


class TestWithoutCredentials:
    """Requests are not signed, as public buckets want it."""

    def test_a_public_bucket_is_read(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        grant(service, "public", to="*", rights=["s3:GetObject"], below="")
        service.client().put_object(Bucket="public", Key="inputs/a.parquet", Body=b"data", ACL="public-read")
        speak_to(service.endpoint, None, monkeypatch)
        (found,) = find("inputs/*.parquet", "s3://public/inputs/*.parquet")
        assert (found.name, found.url, found.size) == ("inputs/a.parquet", "s3://public/inputs/a.parquet", 4)
        assert read_input(found.url) == b"data"
        with open_input(found.url) as file:
            assert file.read() == b"data"
        assert Storage("s3://public").list("inputs") == ["a.parquet"]

    @pytest.mark.s3
    @all_asks
    def test_a_private_one_asks_for_them(self, on_s3: Service, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Storage], object]) -> None:
        speak_to(on_s3.endpoint, None, monkeypatch)
        said = complaint(lambda: ask(Storage(f"s3://{BUCKET}/root")))
        assert "not public, and no credentials were found to sign with; set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY" in said


ANSWERS = {
    "expired": (400, "ExpiredToken", "the credentials have expired; renew them (AWS_ACCESS_KEY_ID"),
    "unknown": (403, "InvalidAccessKeyId", "does not accept these credentials (InvalidAccessKeyId); check AWS_ACCESS_KEY_ID"),
    "denied": (403, "AccessDenied", "these credentials are not allowed to do this (it needs s3:"),
    "clock": (403, "RequestTimeTooSkewed", "this machine's clock differs too much from the store's"),
    "region": (400, "AuthorizationHeaderMalformed", "set AWS_DEFAULT_REGION to the bucket's"),
    "overloaded": (503, "SlowDown", "is overloaded or failing (SlowDown, after several tries); run again later"),
    "broken": (500, "InternalError", "is overloaded or failing (InternalError, after several tries); run again later"),
    "full": (403, "QuotaExceeded", "the store's quota is used up"),
    "unheard of": (418, "Teapot", "because; http://127.0.0.1:"),
}


class TestEndpoints:
    """Those that refuse, do not answer, or are none."""

    @pytest.mark.parametrize(("status", "code", "expected"), ANSWERS.values(), ids=ANSWERS.keys())
    @pytest.mark.parametrize("ask", ["read", "create", "list"])
    def test_refusals(self, monkeypatch: pytest.MonkeyPatch, status: int, code: str, expected: str, ask: str) -> None:
        with answering(status, error_document(code)) as endpoint:
            speak_to(endpoint, STRANGER, monkeypatch)
            monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
            said = complaint(lambda: ASKS[ask](Storage("s3://bucket/root")))
        assert said.startswith("s3://bucket/root")
        assert expected in said

    @pytest.mark.parametrize("ask", ["list", "create", "probe"])
    def test_it_knows_nothing_of_what_is_asked(self, monkeypatch: pytest.MonkeyPatch, ask: str) -> None:
        with answering(404, b"") as endpoint:
            speak_to(endpoint, STRANGER, monkeypatch)
            assert f"{endpoint} answered 404 to " in complaint(lambda: ASKS[ask](Storage("s3://bucket/root")))

    @all_asks
    def test_nobody_listens(self, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Storage], object]) -> None:
        endpoint = f"http://127.0.0.1:{free_port()}"
        speak_to(endpoint, STRANGER, monkeypatch)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        said = complaint(lambda: ask(Storage("s3://bucket/root")))
        assert f"{endpoint} cannot be reached; tried several times; check AWS_ENDPOINT_URL and the network" in said

    def test_it_never_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("infra.s3.ANSWER_SECONDS", 0.2)
        with silent() as endpoint:
            speak_to(endpoint, STRANGER, monkeypatch)
            monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
            began = time.monotonic()
            said = complaint(lambda: Storage("s3://bucket/root").read("name"))
        assert f"{endpoint} does not answer in time" in said
        assert time.monotonic() - began < 10

    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            ("AWS_ENDPOINT_URL", "store:9000", "check the environment's AWS settings"),
            ("AWS_PROFILE", "nobody", "The config profile (nobody) could not be found; check the environment's AWS settings"),
            ("AWS_SECRET_ACCESS_KEY", None, "check the environment's AWS settings (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"),
        ],
    )
    def test_an_environment_that_cannot_be_used(self, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, expected: str) -> None:
        speak_to("http://127.0.0.1:1", STRANGER, monkeypatch)
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
        assert expected in complaint(lambda: Storage("s3://bucket/root").read("name"))

    def test_a_changed_environment_is_another_client(self, on_moto: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        url = fresh_url("s3")
        Storage(url).write("file", b"1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        assert "cannot be reached" in complaint(lambda: Storage(url).read("file"))


def _read_after_fork(storage: Storage, answers: "multiprocessing.Queue[tuple[bytes, float]]") -> None:
    answers.put((storage.read("file"), float(read(open_array(storage, "rows"), 0, 3).sum())))


class TestSharing:
    """One storage in many threads, in forked processes, and left behind."""

    @pytest.fixture
    def filled(self, s3: Storage) -> Storage:
        """With a file and an array."""
        s3.write("file", b"data")
        for name, data in encode(np.ones((3, 2), np.float32), {}).items():
            s3.write(f"rows/{name}", data)
        return s3

    def test_many_threads_read_arrays_at_once(self, filled: Storage) -> None:
        start = Barrier(8)

        def work(_: int) -> float:
            start.wait()
            return float(sum(read(open_array(filled, "rows"), 0, 3).sum() for _ in range(5)))

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(work, range(8))) == [30.0] * 8

    def test_an_opened_array_is_read_by_other_threads(self, filled: Storage) -> None:
        array = open_array(filled, "rows")
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(lambda row: float(read(array, row % 3, row % 3 + 1).sum()), range(12))) == [2.0] * 12

    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_a_forked_process_makes_its_own_connections(self, filled: Storage) -> None:
        filled = another_client(filled)
        gc.collect()  # of clients left behind by other tests, which would try to close their connections in the new process
        assert filled.read("file") == b"data"
        context = multiprocessing.get_context("fork")
        answers: multiprocessing.Queue[tuple[bytes, float]] = context.Queue()
        process = context.Process(target=_read_after_fork, args=(filled, answers))
        process.start()
        assert answers.get(timeout=60) == (b"data", 6.0)
        process.join()
        assert filled.read("file") == b"data"

    def test_connections_are_closed_with_their_client(self, filled: Storage) -> None:
        """An unclosed session would be a warning, which fails the test."""
        client = another_client(filled)
        assert read(open_array(client, "rows"), 0, 3).sum() == 6
        type(client.filesystem).clear_instance_cache()
        del client
        gc.collect()
