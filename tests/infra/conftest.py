"""Fixtures that run a test against every kind of store."""

from pathlib import Path

import pytest

from infra.storage import Storage
from tests.infra.stores import KINDS, fresh_url


@pytest.fixture(params=KINDS)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty store of each kind; those of S3 in an environment that names them."""
    if request.param in ("moto", "s3"):
        request.getfixturevalue(f"on_{request.param}")
    return Storage(fresh_url(request.param, tmp_path))
