"""Fixtures that run a test against every kind of store."""

from pathlib import Path

import pytest

from infra.storage.storage import Storage
from tests.infra.stores import KINDS, S3_KINDS, fresh_url
from tests.services import Service


@pytest.fixture(params=KINDS)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty store of each kind; those of S3 in an environment that names them."""
    if request.param in ("moto", "s3"):
        request.getfixturevalue(f"on_{request.param}")
    return Storage(fresh_url(request.param, tmp_path))


@pytest.fixture(params=S3_KINDS)
def service(request: pytest.FixtureRequest) -> Service:
    """An S3 service, named by the environment."""
    found: Service = request.getfixturevalue(f"on_{request.param}")
    return found


@pytest.fixture
def s3(service: Service) -> Storage:
    """An empty root in it, connected while the environment names the service."""
    storage = Storage(fresh_url("s3"))
    assert storage.list("") == []
    return storage
