"""Credentials of a role, which no variable holds and some service issues and renews."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.storage.storage import Storage
from tests.infra.asks import complaint
from tests.infra.stores import fresh_url
from tests.infra.wires import answering
from tests.services import Service, User, speak_to


def handed_out(user: User) -> bytes:
    """The answer of a service with the current credentials of a role."""
    until = datetime.now(UTC) + timedelta(hours=1)
    return json.dumps(
        {"AccessKeyId": user.key, "SecretAccessKey": user.secret, "Token": None, "Expiration": until.isoformat()}
    ).encode()


def refuses_others(storage: Storage, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write and read back with the environment's credentials; the same without credentials is refused."""
    storage.create("name", b"1")
    assert storage.read("name") == b"1"
    speak_to(service.endpoint, None, monkeypatch)
    assert "no credentials were found to sign with" in complaint(lambda: Storage(storage.url).read("name"))


def test_a_containers_role(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    speak_to(service.endpoint, None, monkeypatch)
    with answering(200, handed_out(service.owner)) as endpoint:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{endpoint}/role")
        refuses_others(Storage(fresh_url("s3")), service, monkeypatch)


@pytest.mark.s3
def test_a_containers_role_that_may_not(on_s3: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    speak_to(on_s3.endpoint, None, monkeypatch)
    with answering(200, handed_out(on_s3.guest)) as endpoint:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{endpoint}/role")
        assert "these credentials are not allowed to do this" in complaint(
            lambda: Storage(fresh_url("s3")).create("name", b"1")
        )


def test_a_machines_role(on_moto: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    speak_to(on_moto.endpoint, None, monkeypatch)
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", on_moto.endpoint)
    refuses_others(Storage(fresh_url("s3")), on_moto, monkeypatch)


def test_a_role_assumed_with_a_token_from_a_file(
    on_moto: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("a-token")
    speak_to(on_moto.endpoint, None, monkeypatch)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/auditor")
    refuses_others(Storage(fresh_url("s3")), on_moto, monkeypatch)
