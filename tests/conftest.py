"""Fixtures: the demo's inputs, made once per session, and audits of them in fresh roots."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import JsonValue

from pipeline.config.audit_config import AuditConfig, merge
from pipeline.demo.prepare import prepare_demo
from tests.services import WITHOUT, moto, on_moto, on_s3, real_s3

__all__ = ["moto", "on_moto", "on_s3", "real_s3"]
Raw = dict[str, JsonValue]
ConfigMaker = Callable[..., AuditConfig]

NO_HOSTS = pytest.mark.skip(
    reason="may not make network namespaces; `make test-cluster` allows it (as root, with ip of iproute2)"
)

ZOO = pytest.mark.skip(reason="a zoo of fifty models; `make test-nights` audits it")
LONG = pytest.mark.skip(reason="takes long; `make test-faults` runs it")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests whose marker the environment does not ask for: a real S3, hosts of their own, tests that take long."""
    for marker, asked, skip in (
        ("s3", "MAD_S3_ENDPOINT", WITHOUT),
        ("cluster", "MAD_TEST_CLUSTER", NO_HOSTS),
        ("faults", "MAD_FAULTS", LONG),
        ("nights", "MAD_NIGHTS", ZOO),
    ):
        for item in items:
            if not os.environ.get(asked) and item.get_closest_marker(marker):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with trusted.parquet (500 digits), audited.parquet (490, some with a trigger) and digits.safetensors."""
    folder = tmp_path_factory.mktemp("digits")
    prepare_demo(folder, str(folder / "root"))
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray cluster of two processors for all tests that need any: starting one takes seconds."""
    import ray  # noqa: PLC0415

    from infra.execution.contract import Resources  # noqa: PLC0415
    from infra.execution.on_ray import RayExecutor  # noqa: PLC0415

    RayExecutor("local", Resources(workers=2)).connect()
    yield
    ray.shutdown()


@pytest.fixture
def raw(digits: Path, tmp_path: Path) -> Raw:
    """The demo's config as a mapping, with a root of the test's own and small tasks."""
    return {
        "root": str(tmp_path / "root"),
        "task": "classification",
        "models": [
            {"name": "digits", "architecture": "pipeline.demo.network:digit_cnn", "weights": "digits.safetensors"}
        ],
        "data": {
            "trusted": "trusted.parquet",
            "audited": "audited.parquet",
            "preprocess": {"mean": [0.3, 0.3, 0.3], "std": [0.35, 0.35, 0.35], "size": 8},
        },
        "run": {"rows_per_task": 128, "batch_size": 64},
    }


@pytest.fixture
def make_config(raw: Raw, digits: Path) -> ConfigMaker:
    """A config from the demo's, with sections merged over it: `make_config(curvature={"kind": "identity"})`."""

    def make(**sections: JsonValue) -> AuditConfig:
        return AuditConfig.parse(merge(raw, sections), str(digits))

    return make
