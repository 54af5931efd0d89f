"""S3 for tests: moto's server, started once per session, and a real store if `make test-s3` started one; on loopback.

A test that uses `on_moto` or `on_s3` runs in an environment with the service's endpoint and the credentials of the
bucket's owner.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from botocore.client import BaseClient
from botocore.config import Config

BUCKET = "audits"
WITHOUT = pytest.mark.skip(reason="no real S3 here; `make test-s3` starts one (as root, where there is apt-get)")

SETTINGS = Config(
    retries={"total_max_attempts": 1},
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
)


@dataclass(frozen=True)
class User:
    """A user who signs requests."""

    key: str
    secret: str

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that make every client this user."""
        return {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}


@dataclass(frozen=True)
class Service:
    """An S3 endpoint, the owner of its bucket, and a guest who has only the rights that the owner grants."""

    endpoint: str
    owner: User
    guest: User

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self.endpoint.rpartition(":")[2])

    def client(self) -> BaseClient:
        """A client of the owner, from another library than the one under test."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.owner.key,
            aws_secret_access_key=self.owner.secret,
            region_name="us-east-1",
            config=SETTINGS,
        )

    def make_bucket(self, name: str) -> None:
        """Create a bucket of the owner if it does not exist."""
        client = self.client()
        with suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
            client.create_bucket(Bucket=name)


def variables(endpoint: str, user: User | None) -> Mapping[str, str]:
    """The variables of an environment with this endpoint and user (None: no credentials) and no other sources."""
    files = dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), os.devnull)
    settings = {"AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    return {**settings, **files, **(user.environment if user else {})}


def speak_to(endpoint: str, user: User | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the environment name this endpoint and user, and nothing else about S3."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in variables(endpoint, user).items():
        monkeypatch.setenv(name, value)


def free_port() -> int:
    """A port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Moto's server in its own process. It checks no signature, so it refuses only unsigned requests."""
    port = free_port()
    log = tmp_path_factory.mktemp("moto") / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=output, stderr=output
        ) as server,
    ):
        try:
            wait_for(port, server, log)
            service = Service(f"http://127.0.0.1:{port}", User("owner", "owner"), User("guest", "guest"))
            service.make_bucket(BUCKET)
            yield service
        finally:
            server.terminate()


def wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server listens; fail when it ends or takes half a minute."""
    for _ in range(300):
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    pytest.fail(f"no server on port {port}: {log.read_text()}")


@pytest.fixture(scope="session")
def real_s3() -> Service:
    """The store that `make test-s3` started; without it, tests marked `s3` are skipped."""
    owner, guest = (User(*os.environ[f"MAD_S3_{who}"].split(":")) for who in ("OWNER", "GUEST"))
    service = Service(os.environ["MAD_S3_ENDPOINT"], owner, guest)
    service.make_bucket(BUCKET)
    return service


@pytest.fixture
def on_moto(moto: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """Moto's server, in an environment that names it."""
    speak_to(moto.endpoint, moto.owner, monkeypatch)
    return moto


@pytest.fixture
def on_s3(real_s3: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """The real S3, in an environment that names it."""
    speak_to(real_s3.endpoint, real_s3.owner, monkeypatch)
    return real_s3
