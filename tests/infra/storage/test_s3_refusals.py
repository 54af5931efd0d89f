"""Refusals of S3: missing buckets, credentials, rights, endpoints; each names the place, the cause and the remedy."""

import json
import time
from collections.abc import Callable

import pytest

from infra.errors import Missing
from infra.storage.files import find, open_input, read_input
from infra.storage.storage import Storage
from tests.infra.asks import ASKS, all_asks, complaint
from tests.infra.stores import fresh_url
from tests.infra.wires import answering, error_document, silent
from tests.services import BUCKET, Service, User, free_port, speak_to

STRANGER = User("stranger", "stranger")
WRITES = {"write": Storage.write, "create": Storage.create}


def grant(service: Service, bucket: str, to: object, rights: list[str], below: str) -> None:
    """Make a bucket of the owner in which others may list, and have these rights below a folder."""
    service.make_bucket(bucket)
    listing = {"Effect": "Allow", "Principal": to, "Action": ["s3:ListBucket"], "Resource": [f"arn:aws:s3:::{bucket}"]}
    using = {"Effect": "Allow", "Principal": to, "Action": rights, "Resource": [f"arn:aws:s3:::{bucket}/{below}*"]}
    service.client().put_bucket_policy(
        Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [listing, using]})
    )


class TestRefusals:
    """Each names the place, the cause and the remedy, whatever the request."""

    @all_asks
    def test_a_missing_bucket_is_to_be_made_first(self, service: Service, ask: Callable[[Storage], object]) -> None:
        message = complaint(lambda: ask(Storage("s3://not-made-yet/root")))
        assert message.startswith("s3://not-made-yet/")
        remedy = "make it first (`aws s3 mb s3://not-made-yet`)"
        assert f"there is no bucket 'not-made-yet' at {service.endpoint}; {remedy}" in message

    def test_no_bucket_is_named(self) -> None:
        for url in ("s3://", "s3:///", "s3a://"):
            assert "names no bucket; write s3://BUCKET/FOLDER" in complaint(lambda url=url: Storage(url))
        versioned = complaint(lambda: Storage("s3://bucket/root?versionId=3"))
        assert (
            "'?versionId=' names a version of an object, and only latest versions are read; leave it out" in versioned
        )

    @pytest.mark.s3
    @pytest.mark.parametrize("secret", ["stranger", "owner-secret"])
    @all_asks
    def test_wrong_credentials_name_the_variables(
        self, on_s3: Service, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Storage], object], secret: str
    ) -> None:
        key = "stranger" if secret != "stranger" else on_s3.owner.key
        speak_to(on_s3.endpoint, User(key, secret), monkeypatch)
        message = complaint(lambda: ask(Storage(f"s3://{BUCKET}/root")))
        assert message.startswith(f"s3://{BUCKET}/root")
        assert f"{on_s3.endpoint} does not accept these credentials" in message
        assert "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or AWS_PROFILE" in message

    @pytest.mark.s3
    @all_asks
    def test_another_users_bucket_is_denied(
        self, on_s3: Service, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Storage], object]
    ) -> None:
        speak_to(on_s3.endpoint, on_s3.guest, monkeypatch)
        message = complaint(lambda: ask(Storage(f"s3://{BUCKET}/root")))
        assert "these credentials are not allowed to do this (it needs s3:" in message
        assert "ask the bucket's owner for the right" in message

    @pytest.mark.s3
    def test_a_denied_prefix_beside_one_that_is_open(self, on_s3: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        grant(
            on_s3,
            "shared",
            to={"AWS": ["arn:aws:iam:::user/guest"]},
            rights=["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
            below="open",
        )
        speak_to(on_s3.endpoint, on_s3.guest, monkeypatch)
        Storage("s3://shared/open").refuse_without_exclusive_create()
        for ask in WRITES.values():
            message = complaint(lambda ask=ask: ask(Storage("s3://shared/closed"), "name", b"1"))
            assert message.startswith(
                "s3://shared/closed/name: these credentials are not allowed to do this (it needs s3:PutObject)"
            )

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


class TestWithoutCredentials:
    """Requests are not signed, as public buckets require."""

    def test_a_public_bucket_is_read(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        grant(service, "public", to="*", rights=["s3:GetObject"], below="")
        service.client().put_object(Bucket="public", Key="inputs/a.parquet", Body=b"data", ACL="public-read")
        speak_to(service.endpoint, None, monkeypatch)
        (found,) = find("inputs/*.parquet", "s3://public/inputs/*.parquet").files
        assert (found.name, found.url, found.size) == ("inputs/a.parquet", "s3://public/inputs/a.parquet", 4)
        assert read_input(found.url) == b"data"
        with open_input(found.url) as file:
            assert file.read() == b"data"
        assert Storage("s3://public").list("inputs") == ["a.parquet"]

    @pytest.mark.s3
    @all_asks
    def test_a_private_one_asks_for_them(
        self, on_s3: Service, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Storage], object]
    ) -> None:
        speak_to(on_s3.endpoint, None, monkeypatch)
        message = complaint(lambda: ask(Storage(f"s3://{BUCKET}/root")))
        assert "not public, and no credentials were found to sign with; set AWS_ACCESS_KEY_ID, " in message
        assert "AWS_SECRET_ACCESS_KEY" in message


ANSWERS = {
    "expired": (400, "ExpiredToken", "the credentials have expired; renew them (AWS_ACCESS_KEY_ID"),
    "unknown": (
        403,
        "InvalidAccessKeyId",
        "does not accept these credentials (InvalidAccessKeyId); check AWS_ACCESS_KEY_ID",
    ),
    "denied": (403, "AccessDenied", "these credentials are not allowed to do this (it needs s3:"),
    "clock": (403, "RequestTimeTooSkewed", "this machine's clock differs too much from the store's"),
    "region": (400, "AuthorizationHeaderMalformed", "set AWS_DEFAULT_REGION to the bucket's"),
    "overloaded": (503, "SlowDown", "is overloaded or failing (SlowDown, after several tries); run again later"),
    "broken": (500, "InternalError", "is overloaded or failing (InternalError, after several tries); run again later"),
    "full": (403, "QuotaExceeded", "the store's quota is used up"),
    "unheard of": (418, "Teapot", "because; http://127.0.0.1:"),
}


class TestEndpoints:
    """Endpoints that refuse, do not answer, or are not S3."""

    @pytest.mark.parametrize(("status", "code", "expected"), ANSWERS.values(), ids=ANSWERS.keys())
    @pytest.mark.parametrize("ask", ["read", "create", "list"])
    def test_refusals(self, monkeypatch: pytest.MonkeyPatch, status: int, code: str, expected: str, ask: str) -> None:
        with answering(status, error_document(code)) as endpoint:
            speak_to(endpoint, STRANGER, monkeypatch)
            monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
            message = complaint(lambda: ASKS[ask](Storage("s3://bucket/root")))
        assert message.startswith("s3://bucket/root")
        assert expected in message

    @pytest.mark.parametrize("ask", ["list", "create", "probe"])
    def test_an_endpoint_without_the_requested_path(self, monkeypatch: pytest.MonkeyPatch, ask: str) -> None:
        with answering(404, b"") as endpoint:
            speak_to(endpoint, STRANGER, monkeypatch)
            assert f"{endpoint} answered 404 to " in complaint(lambda: ASKS[ask](Storage("s3://bucket/root")))

    @all_asks
    def test_nobody_listens(self, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Storage], object]) -> None:
        endpoint = f"http://127.0.0.1:{free_port()}"
        speak_to(endpoint, STRANGER, monkeypatch)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        message = complaint(lambda: ask(Storage("s3://bucket/root")))
        assert f"{endpoint} cannot be reached; tried several times; check AWS_ENDPOINT_URL and the network" in message

    def test_it_never_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("infra.storage.s3.ANSWER_SECONDS", 0.2)
        with silent() as endpoint:
            speak_to(endpoint, STRANGER, monkeypatch)
            monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
            began = time.monotonic()
            message = complaint(lambda: Storage("s3://bucket/root").read("name"))
        assert f"{endpoint} does not answer in time" in message
        assert time.monotonic() - began < 10

    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            ("AWS_ENDPOINT_URL", "store:9000", "check the environment's AWS settings"),
            (
                "AWS_PROFILE",
                "nobody",
                "The config profile (nobody) could not be found; check the environment's AWS settings",
            ),
            (
                "AWS_SECRET_ACCESS_KEY",
                None,
                "check the environment's AWS settings (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY",
            ),
        ],
    )
    def test_an_environment_that_cannot_be_used(
        self, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, expected: str
    ) -> None:
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
